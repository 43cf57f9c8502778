"""AdaptedPolicy: what acts on the changed robot, as a file that needs no training code."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from mier_adapt._checks import checked, checked_fields, require_array, require_tensor, shown
from mier_adapt._onnx import onnx_model
from mier_adapt._storage.checkpoints import load_tree, save_tree
from mier_adapt._storage.files import (
    FOREIGN_ERRORS,
    CheckpointError,
    replacing,
    require_format,
    require_kinds,
)
from mier_adapt._typing import Float, Tensor
from mier_adapt.compensation import Compensation

_FORMAT = "mier-adapt policy 1"
_LAYERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "LayerNorm": (nn.LayerNorm, ("normalized_shape", "eps")),
    "ReLU": (nn.ReLU, ()),
    "LeakyReLU": (nn.LeakyReLU, ("negative_slope",)),
    "ELU": (nn.ELU, ("alpha",)),
    "SiLU": (nn.SiLU, ()),
    "Tanh": (nn.Tanh, ()),
    "Sigmoid": (nn.Sigmoid, ()),
}
"""Layers that a file can hold, and the arguments that make them."""
_FILE = {
    "format": str,
    "layers": [[object]],
    "weights": [Tensor],
    "context": Tensor,
    "low": [float],
    "high": [float],
    "dtype": str,
    "compensation": (type(None), dict),
    "about": dict,
    "algorithm_state": (type(None), dict),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptedPolicy:
    """A deterministic policy with all that belongs to it inside.

    Takes observations as the robot shows them and gives actions as the robot takes them; context,
    compensation and scaling are its own business. An :class:`.Actor`.

    Raises:
        TypeError: If a part is of another kind.
        ValueError: If shapes do not fit, or a value is not finite.
    """

    network: nn.Module
    """Maps ``[obs, context]``, ``(B, O + C)``, to actions in [-1, 1], ``(B, A)``."""
    context: Float[Tensor, " C"]
    """What the policy knows of the task; empty for one that knows no context."""
    low: NDArray[np.floating]
    """The robot's lower bounds of actions, ``(A,)``, in its own units."""
    high: NDArray[np.floating]
    """The upper ones."""
    compensation: Compensation | None = None
    """What stands between policy and robot."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What an adaptation reported; plain values."""
    algorithm_state: Mapping[str, Any] | None = None
    """Of the algorithm that it came from, for training on: :func:`.load_algorithm_state`."""

    def __post_init__(self) -> None:
        checked_fields(self)
        require_tensor("AdaptedPolicy", "context", self.context, (self.context.numel(),))
        fits = self.low.ndim == 1 and self.low.shape == self.high.shape
        if not fits or not np.isfinite((self.low, self.high)).all():
            raise ValueError(
                "AdaptedPolicy expected low and high of shape (A,), finite, got "
                f"{shown(self.low)} and {shown(self.high)}."
            )

    def predict(self, obs: ArrayLike) -> NDArray[Any]:
        """What to command.

        Args:
            obs: What the robot shows, ``(O,)`` or ``(B, O)``, of any floating-point type.

        Returns:
            Actions within the robot's bounds and of their type, ``(A,)`` or ``(B, A)``.

        Raises:
            ValueError: If the shape does not fit, or a value is not finite.
        """
        rows = require_array("AdaptedPolicy.predict", "obs", obs, None)
        if rows.ndim not in (1, 2) or not np.isfinite(rows).all():
            raise ValueError(
                "AdaptedPolicy.predict expected obs of shape (O,) or (B, O), finite, got "
                f"{shown(obs)}."
            )
        act = self.act(np.atleast_2d(rows))
        scaled = self.low + (self.high - self.low) * (act + 1.0) / 2.0
        command: NDArray[Any] = np.clip(scaled, self.low, self.high).astype(self.low.dtype)
        return command if rows.ndim == 2 else command[0]

    def act(self, obs: NDArray[Any], *, explore: bool = False) -> NDArray[np.floating]:
        """As :meth:`.Actor.act`, in [-1, 1]; it never explores.

        Raises:
            ValueError: If the shape does not fit.
            FloatingPointError: If an action is not finite.
        """
        known = obs if self.compensation is None else self.compensation.observation(obs)
        device = self.context.device
        rows = torch.as_tensor(np.asarray(known, dtype=np.float32), device=device)
        inputs = torch.cat((rows, self.context.expand(len(rows), -1)), -1)
        try:
            with torch.no_grad():
                act = self.network(inputs).cpu().numpy()
        except RuntimeError as error:
            if "shapes cannot be multiplied" not in str(error):
                raise
            raise ValueError(
                f"AdaptedPolicy expected obs that the policy takes, got shape {obs.shape}."
            ) from error
        if not np.isfinite(act).all():
            raise FloatingPointError(f"The policy's action is not finite: {shown(act)}.")
        act = np.clip(act, -1, 1)
        return act if self.compensation is None else self.compensation.action(act)

    @checked
    def save(self, path: Path) -> None:
        """Write it as safetensors with JSON inside: no code, and none runs when it is read.

        Raises:
            TypeError: If the network is no sequence of layers that a file can hold; then keep its
                weights with your own code for it.
            OSError: If the disk refuses; an older file stays whole.
        """
        state = self.algorithm_state
        save_tree(
            path,
            {
                "format": _FORMAT,
                "layers": _described(self.network),
                "weights": [each.detach().cpu() for each in self.network.state_dict().values()],
                "context": self.context.cpu(),
                "low": self.low.tolist(),
                "high": self.high.tolist(),
                "dtype": str(self.low.dtype),
                "compensation": None if self.compensation is None else self.compensation.to_dict(),
                "about": dict(self.about),
                "algorithm_state": None if state is None else dict(state),
            },
        )

    @checked
    def export_onnx(self, path: Path) -> None:
        """Write it as ONNX, with the extra ``onnx``.

        Input ``obs``, ``(batch, O)`` of float32; output ``act``, ``(batch, A)``, in the units and
        of the type of the robot's actions.

        Raises:
            TypeError: If the network is no sequence of layers that a file can hold.
            ImportError: If onnx is not installed.
            OSError: If the disk refuses; an older file stays whole.
        """
        layers = _layers(self.network)
        context = self.context.cpu().numpy().astype(np.float32)
        model = onnx_model(layers, context, self.low, self.high, self.compensation)
        contents = model.SerializeToString()
        with replacing(path) as file:
            file.write(contents)

    @classmethod
    @checked
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote, onto the CPU.

        Raises:
            CheckpointError: If the file is damaged or foreign.
            FileNotFoundError: If there is none.
        """
        tree = load_tree(path)
        try:
            require_kinds(_FILE, tree, "it")
            require_format(tree["format"], _FORMAT)
            network = _built(tree["layers"], tree["weights"])
            undone = tree["compensation"]
            policy = cls(
                network=network,
                context=tree["context"],
                low=np.array(tree["low"], _dtype(tree["dtype"])),
                high=np.array(tree["high"], _dtype(tree["dtype"])),
                compensation=None if undone is None else Compensation.from_dict(undone),
                about=tree["about"],
                algorithm_state=tree["algorithm_state"],
            )
            obs_dim = int(tree["layers"][0][1]) - policy.context.numel()
            made = policy.act(np.zeros((1, obs_dim), np.float32))
            if made.shape != (1, len(policy.low)):
                raise ValueError("its parts do not fit together")
        except CheckpointError:
            raise
        except (RuntimeError, *FOREIGN_ERRORS) as error:
            raise CheckpointError(f"{path} holds no adapted policy: {error}") from error
        return policy


def _layers(network: nn.Module) -> list[Any]:
    """The layers of a sequence of stock ones, the first of which is a linear one.

    Raises:
        TypeError: If it is something else.
    """
    layers = list(network) if isinstance(network, nn.Sequential) else [network]
    kinds = [_LAYERS.get(type(each).__name__, (None,))[0] is type(each) for each in layers]
    # Without biases, or scales, they would be others when read.
    whole = [getattr(each, "bias", True) is not None for each in layers]
    if not all(kinds + whole) or not layers or not isinstance(layers[0], nn.Linear):
        raise TypeError(
            f"AdaptedPolicy expected a network of layers in {sorted(_LAYERS)}, one after the "
            f"other, to write it, got {shown(network)}. Keep the network's state_dict with your "
            "own code for it."
        )
    return layers


def _described(network: nn.Module) -> list[list[Any]]:
    """The layers' kinds and sizes, as plain values."""
    return [
        [type(each).__name__, *(getattr(each, name) for name in _LAYERS[type(each).__name__][1])]
        for each in _layers(network)
    ]


def _built(layers: list[list[Any]], weights: list[Tensor]) -> nn.Sequential:
    """The network that was described; nothing is made that the weights do not fill."""
    most = sum(each.numel() for each in weights) + len(layers)
    network = nn.Sequential()
    for name, *values in layers:
        kind, names = _LAYERS[name]
        arguments = dict(zip(names, values, strict=True))
        sizes = [
            each for each in (arguments.get("in_features"), arguments.get("out_features")) if each
        ]
        if math.prod(sizes) > most or sum(arguments.get("normalized_shape", ())) > most:
            raise ValueError(f"a layer {name} of {values} is larger than all weights")
        network.append(kind(**arguments))
    own = network.state_dict()
    network.load_state_dict(dict(zip(own, weights, strict=True)))
    return network.eval()


def _dtype(name: str) -> np.dtype[Any]:
    if name not in ("float32", "float64", "float16"):
        raise ValueError(f"its actions are of {name!r:.80}")
    return np.dtype(name)
