"""Checkpoints: a tree of tensors and plain values, as one safetensors file with JSON inside.

Nothing in such a file is executed when it is read. Files are replaced as a whole: a process
that dies in the middle of a save leaves the one before it.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

__all__ = ["CheckpointError", "load_tree", "save_tree"]

_FORMAT = "mier-adapt tree 1"
_TENSOR, _TUPLE, _PAIRS = "__tensor__", "__tuple__", "__pairs__"


class CheckpointError(ValueError):
    """A file that is not a checkpoint of this library, or not a whole one."""


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree of dictionaries, lists, tuples, tensors and plain values, atomically.

    Raises:
        TypeError: If the tree holds anything else; the message says where.
        ValueError: If a tensor or number is not finite; the message says which.
        OSError: If the disk refuses; an older file of that name stays whole.
    """
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _pack(tree, "", tensors)
    metadata = {"format": _FORMAT, "tree": json.dumps(skeleton)}
    partial = path.with_name(path.name + ".partial")
    try:
        safetensors.torch.save_file(tensors, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except safetensors.SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(f"Could not write the checkpoint {partial}: {error}") from error
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load_tree(path: Path) -> Any:
    """Read what :func:`save_tree` wrote, onto the CPU.

    Raises:
        CheckpointError: If the file is truncated, foreign or of another format.
        FileNotFoundError: If there is none.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise CheckpointError(
                    f"{path} is not a checkpoint that this version reads: expected format "
                    f"{_FORMAT!r}, got {metadata.get('format')!r}."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _unpack(json.loads(metadata["tree"]), tensors)
    except (safetensors.SafetensorError, json.JSONDecodeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint of this library ({error}). "
            "Restore it from a copy, or start the run anew in another directory."
        ) from error


def _pack(node: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, torch.Tensor):
        if node.is_floating_point() and not bool(node.isfinite().all()):
            raise ValueError(
                f"Refusing to save a checkpoint: {where or 'the tree'} holds values that are "
                "not finite. The last checkpoint before them is still there."
            )
        # safetensors wants distinct, contiguous memory.
        tensors[where] = node.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: where}
    if isinstance(node, dict):
        pairs = [[key, _pack(value, f"{where}/{key}", tensors)] for key, value in node.items()]
        for key in node:
            if not isinstance(key, (str, int)):
                raise TypeError(f"Expected str or int keys at {where!r}, got {key!r}.")
        return {_PAIRS: pairs}
    if isinstance(node, (list, tuple)):
        items = [_pack(value, f"{where}/{i}", tensors) for i, value in enumerate(node)]
        return {_TUPLE: items} if isinstance(node, tuple) else items
    if isinstance(node, float) and not math.isfinite(node):
        raise ValueError(f"Refusing to save a checkpoint: {where} is {node}.")
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise TypeError(
        f"A checkpoint holds tensors and plain values; {where or 'the tree'} is a {type(node)}."
    )


def _unpack(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, list):
        return [_unpack(item, tensors) for item in node]
    if isinstance(node, dict):
        ((kind, value),) = node.items()
        if kind == _TENSOR:
            return tensors[value]
        if kind == _TUPLE:
            return tuple(_unpack(item, tensors) for item in value)
        return {key: _unpack(item, tensors) for key, item in value}
    return node
