"""Transitions: the plain tensors that every component of this library takes and gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self

import torch

from mier_adapt._checks import checked, shown
from mier_adapt._storage.checkpoints import load_tree, save_tree
from mier_adapt._storage.files import FOREIGN_ERRORS, CheckpointError, require_format, require_kinds
from mier_adapt._typing import Bool, Float, Int, Tensor

_FORMAT = "mier-adapt transitions 1"


@dataclass(frozen=True, eq=False)
class Transitions:
    """A set of environment transitions, checked where it is made.

    All five tensors share their leading axes: ``(B,)`` for one task, ``(T, B)``
    for a batch of tasks. Units are the environment's own; actions are in the
    policy's convention, each component in [-1, 1]. Slices, copies and joined sets
    are not checked again.

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
                kind = "bool" if wants_bool else "floating-point"
                raise TypeError(
                    f"Transitions expected {field.name} to be a {kind} tensor, got {came}. Convert "
                    "NumPy arrays with torch.as_tensor."
                )
        if self.obs.ndim < 2 or self.act.ndim < 2 or 0 in self.obs.shape[:-1]:
            raise ValueError(
                "Transitions expected obs and act of shape (..., B, dim) with at least one "
                f"transition, got obs {tuple(self.obs.shape)} and act {tuple(self.act.shape)}. "
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
            dtype = torch.bool if name == "terminated" else self.obs.dtype
            found = tuple(value.shape), value.dtype, value.device
            if found != (shape, dtype, self.obs.device):
                raise ValueError(
                    f"Transitions expected {name} of shape {shape} in {dtype} on "
                    f"{self.obs.device}, to go with obs {tuple(self.obs.shape)}, got {found[0]} in "
                    f"{found[1]} on {found[2]}. Convert it with .to()."
                )
        for name in ("obs", "act", "rew", "obs_next"):
            finite = torch.isfinite(getattr(self, name))
            if not bool(finite.all()):
                raise ValueError(
                    f"Transitions expected finite values, but {name} holds "
                    f"{int((~finite).sum())} NaN or infinite entries out of {finite.numel()}. "
                    "Drop those transitions, and look for an unstable simulation."
                )

    def __repr__(self) -> str:
        return f"Transitions(obs {tuple(self.obs.shape)}, act {tuple(self.act.shape)})"

    @classmethod
    def _trusted(cls, *values: Tensor) -> Self:
        """Of the five fields, which are known to be valid: nothing is looked at again."""
        made = object.__new__(cls)
        for field, value in zip(fields(cls), values, strict=True):
            object.__setattr__(made, field.name, value)
        return made

    def __len__(self) -> int:
        """Length of the first axis: transitions, or tasks in a batch of tasks."""
        return int(self.obs.shape[0])

    def __getitem__(self, index: int | slice | Int[Tensor, " N"] | Bool[Tensor, " N"]) -> Self:
        """Select along the first axis; an ``int`` takes one task out of a batch of tasks.

        Raises:
            ValueError: If nothing is selected.
        """
        chosen = self._map(lambda value: value[index])
        if chosen.rew.numel() == 0 or chosen.obs.ndim < 2:
            raise ValueError(
                f"Transitions expected an index of some of {self}, got {shown(index)}."
            )
        return chosen

    def to(
        self,
        device: torch.device | torch.dtype | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Copy to a device, to a floating-point type, or to both (no copy where nothing changes).

        Takes them as torch's own: ``to("cuda")``, ``to(torch.float64)``,
        ``to("cuda", torch.float64)``. ``terminated`` stays bool.

        Raises:
            TypeError: If the type is not a floating-point one.
            ValueError: If a value is too large for it.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype is None or dtype == self.obs.dtype:
            return self._map(lambda value: value.to(device=device))
        obs, act, rew, obs_next = (
            each.to(device=device, dtype=dtype)
            for each in (self.obs, self.act, self.rew, self.obs_next)
        )
        return type(self)(obs, act, rew, obs_next, self.terminated.to(device=device))

    @property
    def follows(self) -> Bool[Tensor, "*axes B_1"]:
        """Which of them but the first are of the same episode as the one before, in their order.

        An episode begins after a termination, and where an observation is not the one that the
        transition before led to: what a time limit cut is told by that alone.
        """
        goes_on = (self.obs[..., 1:, :] == self.obs_next[..., :-1, :]).all(-1)
        return goes_on & ~self.terminated[..., :-1]

    def detach(self) -> Self:
        """The same values as constants; those of torch's inference mode are copied out of it."""
        return self._map(lambda v: v.clone() if v.is_inference() else v.detach())

    def flatten(self) -> Self:
        """Join all leading axes into one, in order."""
        axes = self.rew.ndim - 1
        return self._map(lambda value: value.flatten(0, axes))

    @classmethod
    @checked
    def cat(cls, parts: Sequence["Transitions"]) -> Self:
        """Join along the first axis."""
        return cls._join(torch.cat, parts)

    @classmethod
    @checked
    def stack(cls, parts: Sequence["Transitions"]) -> Self:
        """Make a batch of tasks, ``(T, B, ...)``, of sets ``(B, ...)`` of one size."""
        return cls._join(torch.stack, parts)

    @classmethod
    def _join(
        cls, function: Callable[[list[Tensor]], Tensor], parts: Sequence["Transitions"]
    ) -> Self:
        if len({part.rew.dtype for part in parts}) != 1:
            raise ValueError(
                f"Expected parts to be one or more sets of a dtype, got {shown(parts)}."
            )
        try:
            return cls._trusted(
                *(function([getattr(part, field.name) for part in parts]) for field in fields(cls))
            )
        except RuntimeError as error:  # by which torch says that shapes or devices do not fit
            raise ValueError(f"Expected parts of fitting shapes on one device: {error}") from error

    @checked
    def save(self, path: Path) -> None:
        """Write them as safetensors with a checksum: no code, and none runs when it is read.

        Raises:
            OSError: If the disk refuses; an older file stays whole.
        """
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        save_tree(path, {"format": _FORMAT, **columns})

    @classmethod
    @checked
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote, onto the CPU, in the type that it had.

        Raises:
            CheckpointError: If the file is damaged or foreign.
            FileNotFoundError: If there is none.
        """
        tree = load_tree(path)
        try:
            require_kinds({"format": str}, tree, "it")
            require_format(tree.pop("format"), _FORMAT)
            return cls(**tree)
        except (RuntimeError, *FOREIGN_ERRORS) as error:
            raise CheckpointError(f"{path} holds no transitions: {error}") from error

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self._trusted(*(function(getattr(self, field.name)) for field in fields(self)))


def _of_one_task(owner: str, name: str, value: Any) -> None:
    if not isinstance(value, Transitions) or value.obs.ndim != 2:
        raise ValueError(
            f"{owner} expected {name} of one task, transitions (B, ...), got {shown(value)}. "
            "Flatten them, or give one task at a time."
        )


OneTask = Annotated[Transitions, _of_one_task]
"""Transitions ``(B, ...)`` of one task."""
