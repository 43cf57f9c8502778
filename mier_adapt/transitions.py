"""Transitions: the plain tensors that every component of this library takes and gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch

from mier_adapt._checks import shown
from mier_adapt._typing import Bool, Float, Int, Tensor

__all__ = ["Transitions"]


@dataclass(frozen=True, eq=False)
class Transitions:
    """A set of environment transitions, valid by construction.

    All five tensors share their leading axes: ``(B,)`` for one task, ``(T, B)``
    for a batch of tasks. Units are the environment's own; actions are in the
    policy's convention, each component in [-1, 1].

    Example:
        >>> import torch
        >>> transitions = Transitions(
        ...     obs=torch.zeros(4, 3),
        ...     act=torch.zeros(4, 2),
        ...     rew=torch.ones(4),
        ...     obs_next=torch.ones(4, 3),
        ...     terminated=torch.zeros(4, dtype=torch.bool),
        ... )
        >>> len(transitions), transitions[:2].rew.shape
        (4, torch.Size([2]))

    Raises:
        TypeError: If a field is not a tensor of the right kind (floating point;
            bool for ``terminated``).
        ValueError: If leading axes, dtypes or devices differ, ``obs`` and
            ``obs_next`` differ in shape, the set is empty, or a value is not finite.
    """

    obs: Float[Tensor, "*axes O"]
    """Observation before the step."""
    act: Float[Tensor, "*axes A"]
    """Action, in [-1, 1]."""
    rew: Float[Tensor, "*axes"]
    """Reward of the step."""
    obs_next: Float[Tensor, "*axes O"]
    """Observation after the step."""
    terminated: Bool[Tensor, "*axes"]
    """Whether the step ended the episode for good. A time limit is not an end."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wants_bool = field.name == "terminated"
            right_kind = isinstance(value, Tensor) and (
                value.dtype == torch.bool if wants_bool else value.is_floating_point()
            )
            if not right_kind:
                came = f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value)
                raise TypeError(
                    f"Transitions expected {field.name} to be a "
                    f"{'bool' if wants_bool else 'floating-point'} tensor, got {came}. "
                    "Convert NumPy arrays with torch.as_tensor."
                )
        if self.obs.ndim < 2 or self.act.ndim < 2:
            raise ValueError(
                "Transitions expected obs and act of shape (..., B, dim), got "
                f"obs {tuple(self.obs.shape)} and act {tuple(self.act.shape)}. "
                "Give a single transition a leading axis of 1."
            )
        axes = self.obs.shape[:-1]
        expected = {
            "act": (*axes, self.act.shape[-1]),
            "rew": tuple(axes),
            "obs_next": tuple(self.obs.shape),
            "terminated": tuple(axes),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape:
                raise ValueError(
                    f"Transitions expected {name} of shape {shape} to go with obs "
                    f"{tuple(self.obs.shape)}, got {tuple(value.shape)}."
                )
            if value.device != self.obs.device:
                raise ValueError(
                    f"Transitions expected {name} on obs's device {self.obs.device}, "
                    f"got {value.device}. Move all of them with .to(device)."
                )
            if name != "terminated" and value.dtype != self.obs.dtype:
                raise ValueError(
                    f"Transitions expected {name} in obs's dtype {self.obs.dtype}, got "
                    f"{value.dtype}."
                )
        if self.rew.numel() == 0:
            raise ValueError(
                f"Transitions expected at least one transition, got leading axes {tuple(axes)}."
            )
        for name in ("obs", "act", "rew", "obs_next"):
            finite = torch.isfinite(getattr(self, name))
            if not bool(finite.all()):
                raise ValueError(
                    f"Transitions expected finite values, but {name} holds "
                    f"{int((~finite).sum())} NaN or infinite entries out of {finite.numel()}. "
                    "Drop those transitions, and look for an unstable simulation."
                )

    def __len__(self) -> int:
        """Length of the first axis: transitions, or tasks in a batch of tasks."""
        return int(self.obs.shape[0])

    def __getitem__(self, index: int | slice | Int[Tensor, " N"] | Bool[Tensor, " N"]) -> Self:
        """Select along the first axis; an ``int`` takes one task out of a batch of tasks."""
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Self:
        """Copy to a device (no copy where already there)."""
        return self._map(lambda value: value.to(device))

    def flatten(self) -> Self:
        """Join all leading axes into one, in order."""
        axes = self.rew.ndim - 1
        return self._map(lambda value: value.flatten(0, axes))

    @classmethod
    def cat(cls, parts: Sequence["Transitions"]) -> Self:
        """Join along the first axis."""
        return cls._join(torch.cat, parts)

    @classmethod
    def stack(cls, parts: Sequence["Transitions"]) -> Self:
        """Make a batch of tasks, ``(T, B, ...)``, of sets ``(B, ...)`` of one size."""
        return cls._join(torch.stack, parts)

    @classmethod
    def _join(
        cls, function: Callable[[list[Tensor]], Tensor], parts: Sequence["Transitions"]
    ) -> Self:
        if not isinstance(parts, Sequence) or not all(
            isinstance(part, Transitions) for part in parts
        ):
            raise TypeError(f"Expected parts to be a sequence of Transitions, got {shown(parts)}.")
        if not parts:
            raise ValueError("Expected parts to hold at least one set of transitions, got none.")
        try:
            return cls(
                **{
                    field.name: function([getattr(part, field.name) for part in parts])
                    for field in fields(cls)
                }
            )
        except RuntimeError as error:  # by which torch says that shapes or devices do not fit
            raise ValueError(f"Expected parts of fitting shapes on one device: {error}") from error

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(
            **{field.name: function(getattr(self, field.name)) for field in fields(self)}
        )
