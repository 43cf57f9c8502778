"""Checkpoints: a tree of tensors and plain values, as one safetensors file with JSON inside.

Nothing in such a file is executed when it is read, and nothing of it is believed before all of it
has been checked: the checksum over the whole file, declared against present sizes, dtypes, finite
values. Files are replaced as a whole: a process that dies in the middle of a save leaves the one
before it. A run keeps two, so that damage to the newest costs one interval and not the run.
"""

import functools
import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from errno import ENOSPC
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch

from mier_adapt._storage.files import FOREIGN_ERRORS, open_file, replacing
from mier_adapt._storage.files import CheckpointError as CheckpointError
from mier_adapt._storage.trees import Pieces
from mier_adapt._version import __version__

_logger = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.safetensors"
"""A run's newest checkpoint."""
PREVIOUS_FILE = "checkpoint.previous.safetensors"
"""The one before it."""
_DAMAGED_FILE = "checkpoint.damaged.safetensors"

_FORMAT = "mier-adapt checkpoint 2"
_TENSOR, _TUPLE, _PAIRS = "__tensor__", "__tuple__", "__pairs__"

_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}

_MAX_HEADER = 2**20
"""Bytes of a header, JSON included. A run's takes tens of kilobytes; safetensors' own limit of
100 MB would let a small file claim gigabytes of Python objects."""
_MAX_NODES = 2**16
"""Values in a header's JSON, for the same reason."""
_MOST_TRIES = 20
"""Reads of a file that is replaced again and again meanwhile."""
_MOMENT = 0.2
"""Seconds for which a save on a disk without hard links may leave a run without its newest one."""
_BLOCK = 2**18
"""Bytes, or numbers, that are written or checked at once."""
_SPARE = 2**20
"""Bytes that a save leaves free on the disk."""
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_NO_DIGEST = b"0" * 64
_RELEASE = re.compile(r"[0-9][0-9a-z.+]{0,30}")


class CheckpointFormatError(CheckpointError):
    """A checkpoint of a format that this release does not read."""


def save_tree(path: Path, tree: Any, *, previous: Path | None = None) -> None:
    """Write a tree of dictionaries, lists, tuples, tensors and plain values, atomically.

    Tensors are streamed in blocks: beyond the tree itself this needs a few megabytes.

    Args:
        path: File to write or replace.
        tree: What to write. Keys are strings or whole numbers.
        previous: Keep the file that is replaced under this name, in the same directory.

    Raises:
        TypeError: If the tree holds anything else; the message says where.
        ValueError: If a tensor or number is not finite; the message says which.
        OSError: If the disk refuses or has too little room; an older file stays whole.
    """
    tensors: dict[str, Pieces | torch.Tensor] = {}
    skeleton = json.dumps(_pack(tree, "", tensors), separators=(",", ":"))
    # Large types first, so that every tensor is aligned in the file.
    names = sorted(tensors, key=lambda name: -_dtype(tensors[name]).itemsize)
    header = _header(names, tensors, skeleton)
    if len(header) > _MAX_HEADER or _count_nodes(header) > _MAX_NODES:
        raise ValueError(
            f"save_tree expected a tree with a header of at most {_MAX_HEADER} bytes and "
            f"{_MAX_NODES} values, got {len(header)} bytes and {_count_nodes(header)} values. "
            "Put plain values into fewer, larger tensors."
        )
    size = 8 + len(header) + sum(_num_bytes(tensor) for tensor in tensors.values())
    with replacing(path, previous=previous) as file:
        free = shutil.disk_usage(path.parent).free  # without what a killed process left
        if free < size + _SPARE:
            raise OSError(
                ENOSPC,
                f"{_megabytes(size)} are to be written and {_megabytes(free)} are free",
                str(path),
            )
        _write(file, header, (tensors[name] for name in names))


def load_tree(path: Path) -> Any:
    """Read what :func:`save_tree` wrote, onto the CPU. Tensors are read from the file as used.

    A file that another process replaces meanwhile is read anew.

    Raises:
        CheckpointError: If the file is damaged or foreign.
        CheckpointFormatError: If it is of a format that this release does not read.
        FileNotFoundError: If there is none.
    """
    for _ in range(_MOST_TRIES):
        before = _identity(path)
        try:
            tree = _load_tree(path)
        except (CheckpointError, FileNotFoundError):
            if _identity(path) == before:
                raise
        else:
            if _identity(path) == before:
                return tree
    raise CheckpointError(f"{path} was replaced {_MOST_TRIES} times while it was read.")


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes where a file is replaced or written to."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _load_tree(path: Path) -> Any:
    try:
        has_digest = _check_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata, has_digest)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, tensor in tensors.items():
            _check_tensor(name, tensor)
        used: set[str] = set()
        tree = _unpack(json.loads(metadata["tree"]), tensors, used)
        if used != tensors.keys():
            raise ValueError(f"it holds tensors without a place: {sorted(tensors.keys() - used)}")
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, RuntimeError, *FOREIGN_ERRORS) as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint of this library ({str(error)[:300]}). "
            "Restore it from a copy, or start the run anew in another directory."
        ) from error
    return tree


def save_checkpoint(directory: Path, tree: Any) -> None:
    """:func:`save_tree` as the newest of a run's two checkpoints; there is one at every moment."""
    save_tree(directory / CHECKPOINT_FILE, tree, previous=directory / PREVIOUS_FILE)


def load_checkpoint(directory: Path, *, set_damaged_aside: bool = False) -> tuple[Path, Any]:
    """The newest whole checkpoint of a run, and its file; logs a warning if that is the older one.

    Args:
        directory: The run's.
        set_damaged_aside: Rename a damaged newest one, so that the next save does not put it in
            the place of the whole one. For the process that goes on with the run.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        CheckpointError: If there is no whole one.
        CheckpointFormatError: If the newest is of a format that this release does not read.
    """
    newest, previous = directory / CHECKPOINT_FILE, directory / PREVIOUS_FILE
    if previous.exists() and not newest.exists():
        time.sleep(_MOMENT)
    try:
        return newest, load_tree(newest)
    except CheckpointFormatError:
        raise
    except (CheckpointError, FileNotFoundError) as error:
        if not previous.is_file():
            raise
        try:
            tree = load_tree(previous)
        except CheckpointError as other:
            raise CheckpointError(f"{error} The one before it is no better: {other}") from error
        problem = "is damaged" if isinstance(error, CheckpointError) else "is missing"
        aside = ""
        if set_damaged_aside and newest.exists():
            newest.replace(directory / _DAMAGED_FILE)
            aside = f" It is {_DAMAGED_FILE} from now on."
        _logger.warning(
            "%s %s; going on from the one before it, %s.%s (%s)",
            newest,
            problem,
            PREVIOUS_FILE,
            aside,
            error,
        )
        return previous, tree


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of this library and of those that a run's figures depend on."""
    names = ("gymnasium", "mujoco", "numpy", "tianshou", "torch")
    return {"mier-adapt": __version__, **{name: version(name) for name in names}}


# Writing ------------------------------------------------------------------------------------


def _pack(node: Any, where: str, tensors: dict[str, Pieces | torch.Tensor]) -> Any:
    if isinstance(node, (torch.Tensor, Pieces)):
        if _dtype(node) not in _DTYPES:
            raise TypeError(
                f"A checkpoint holds tensors of {len(_DTYPES)} common dtypes; {where or '/'} is of "
                f"{_dtype(node)}. Convert it first."
            )
        if any(not _is_finite(part) for part in _parts(node)):
            raise ValueError(
                f"Refusing to save a checkpoint: {where or 'the tree'} holds values that are "
                "not finite. The last checkpoint before them is still there."
            )
        name = where or "/"
        while name in tensors:  # {"a/b": x} beside {"a": {"b": y}}
            name += "'"
        tensors[name] = node
        return {_TENSOR: name}
    if isinstance(node, dict):
        for key in node:
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise TypeError(f"Expected str or int keys at {where!r}, got {key!r}.")
        pairs = [[key, _pack(value, f"{where}/{key}", tensors)] for key, value in node.items()]
        return {_PAIRS: pairs}
    if isinstance(node, (list, tuple)):
        items = [_pack(value, f"{where}/{i}", tensors) for i, value in enumerate(node)]
        return {_TUPLE: items} if isinstance(node, tuple) else items
    if isinstance(node, float) and not math.isfinite(node):
        raise ValueError(f"Refusing to save a checkpoint: {where or 'the tree'} is {node}.")
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise TypeError(
        f"A checkpoint holds tensors and plain values; {where or 'the tree'} is a {type(node)}."
    )


def _header(names: list[str], tensors: dict[str, Pieces | torch.Tensor], skeleton: str) -> bytes:
    entries: dict[str, Any] = {
        "__metadata__": {
            "format": _FORMAT,
            "sha256": _NO_DIGEST.decode(),
            "versions": json.dumps(library_versions()),
            "tree": skeleton,
        }
    }
    offset = 0
    for name in names:
        tensor = tensors[name]
        parts = _parts(tensor)
        shape = list(parts[0].shape)
        if isinstance(tensor, Pieces):
            shape[0] = sum(len(part) for part in parts)
        end = offset + _num_bytes(tensor)
        entries[name] = {
            "dtype": _DTYPES[_dtype(tensor)],
            "shape": shape,
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode("ascii")
    return header + b" " * (-len(header) % 8)


def _write(file: BinaryIO, header: bytes, tensors: Iterator[Pieces | torch.Tensor]) -> None:
    """Write a whole file: safetensors' header with zeros for the checksum, data, checksum.

    The checksum is of the file with those zeros in its place.
    """
    length = len(header).to_bytes(8, "little")
    digest = hashlib.sha256(length + header)
    file.write(length + header)
    for tensor in tensors:
        for part in _parts(tensor):
            if part.numel() == 0:
                continue
            flat = part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
            for start in range(0, len(flat), _BLOCK):
                block = flat[start : start + _BLOCK].data
                digest.update(block)
                file.write(block)
    match = _DIGEST.search(header)
    assert match is not None
    file.seek(len(length) + match.start(1))
    file.write(digest.hexdigest().encode())


# Reading ------------------------------------------------------------------------------------


def _check_file(path: Path) -> bool:
    """Check sizes and checksum, a block at a time; whether there is a checksum."""
    with open_file(path, os.O_RDONLY, follow=True) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > size - 8:
            raise ValueError(f"it ends within its header, after {size} bytes")
        if length > _MAX_HEADER:
            raise ValueError(f"its header claims {length} bytes, more than {_MAX_HEADER}")
        header = file.read(length)
        if not header.isascii() or _count_nodes(header) > _MAX_NODES:
            raise ValueError("its header is not one that this library writes")
        match = _DIGEST.search(header)
        if match is None:
            return False
        digest = hashlib.sha256(prefix)
        digest.update(header[: match.start(1)] + _NO_DIGEST + header[match.end(1) :])
        block = bytearray(_BLOCK // 4)
        while count := file.readinto(block):
            digest.update(memoryview(block)[:count])
        if digest.hexdigest().encode() != match[1]:
            raise ValueError("its contents do not have its checksum")
        return True


def _check_format(path: Path, metadata: dict[str, str], has_digest: bool) -> None:
    found = metadata.get("format", "")
    if not found.startswith("mier-adapt "):
        raise ValueError("it is a safetensors file of something else")
    if found != _FORMAT:
        writer = json.loads(metadata["versions"])["mier-adapt"]
        if not _RELEASE.fullmatch(writer):
            raise ValueError(f"it names no release but {writer[:60]!r}")
        raise CheckpointFormatError(
            f"{path} has format {found[:60]!r} of mier-adapt {writer}; this is {__version__}, "
            f"which reads {_FORMAT!r}. Read it with that release: pip install mier-adapt=={writer}."
        )
    if not has_digest:
        raise ValueError("its checksum is missing")


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name} has dtype {tensor.dtype}")
    if not _is_finite(tensor):
        raise ValueError(f"{name} holds values that are not finite")
    if tensor.dtype == torch.bool and tensor.numel():
        flat = tensor.contiguous().view(-1).view(torch.uint8)
        if any(
            int(flat[start : start + _BLOCK].max()) > 1 for start in range(0, len(flat), _BLOCK)
        ):
            raise ValueError(f"{name} holds truth values other than 0 and 1")


def _unpack(node: Any, tensors: dict[str, torch.Tensor], used: set[str]) -> Any:
    if isinstance(node, list):
        return [_unpack(item, tensors, used) for item in node]
    if isinstance(node, dict):
        ((kind, value),) = node.items()
        if kind == _TENSOR:
            used.add(value)
            return tensors[value]
        if kind == _TUPLE:
            return tuple([_unpack(item, tensors, used) for item in value])
        if kind != _PAIRS:
            raise ValueError(f"{kind[:60]!r} is no part of a tree")
        pairs = {key: _unpack(item, tensors, used) for key, item in value}
        if len(pairs) != len(value) or not all(type(key) in (str, int) for key in pairs):
            raise ValueError("a dictionary has unfit keys")
        return pairs
    if isinstance(node, float) and not math.isfinite(node):
        raise ValueError("a number is not finite")
    return node


# Both ---------------------------------------------------------------------------------------


def _parts(tensor: Pieces | torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tensor.parts if isinstance(tensor, Pieces) else (tensor,)


def _dtype(tensor: Pieces | torch.Tensor) -> torch.dtype:
    return _parts(tensor)[0].dtype


def _num_bytes(tensor: Pieces | torch.Tensor) -> int:
    return sum(part.numel() * part.element_size() for part in _parts(tensor))


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite, looked at in blocks to bound the memory of the answer."""
    if not tensor.is_floating_point():
        return True
    flat = tensor.detach().reshape(-1)
    return all(
        bool(flat[start : start + _BLOCK].isfinite().all()) for start in range(0, len(flat), _BLOCK)
    )


def _count_nodes(header: bytes) -> int:
    return sum(header.count(mark) for mark in (b",", b":", b"[", b"{"))


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
