"""Compensation: undoes a changed interface in front of a policy that does not know of it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mier_adapt._checks import checked, require_array, shown
from mier_adapt._storage.files import CheckpointError, read_json, replace_text, require_kinds

__all__ = ["Compensation"]

STEPS = 30
"""Projected gradient steps where an exact command lies outside of [-1, 1]."""
_WEAKEST = 0.05
"""Strength, as a share of the strongest, below which a direction of the motors counts as dead."""

_FILE = {
    "act_matrix": [[float]],
    "act_offset": [float],
    "obs_matrix": [[float]],
    "obs_offset": [float],
}
"""What its file holds."""


@dataclass(frozen=True, eq=False)
class Compensation:
    """What to command and what to believe, so that a changed robot does what the known one did.

    The changed robot executes ``act_matrix act + act_offset``, and the known one would have shown
    ``obs_matrix obs + obs_offset``. All actions are in [-1, 1].

    Example:
        >>> reversed_motor = Compensation(np.diag([-1.0, 1.0]), np.zeros(2))
        >>> reversed_motor.action([0.5, 0.5]).tolist()
        [-0.5, 0.5]

    Raises:
        ValueError: If shapes do not fit, or a value is not finite.
    """

    act_matrix: NDArray[np.float64]
    """Shape ``(A, A)``."""
    act_offset: NDArray[np.float64]
    """Shape ``(A,)``."""
    obs_matrix: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    """Shape ``(O, O)``; empty where sensors are as they were."""
    obs_offset: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Shape ``(O,)``; empty where sensors are as they were."""

    def __post_init__(self) -> None:
        for kind in ("act", "obs"):
            names = f"{kind}_matrix", f"{kind}_offset"
            matrix, offset = (
                require_array("Compensation", name, getattr(self, name), np.float64)
                for name in names
            )
            empty = kind == "obs" and matrix.size == offset.size == 0
            fits = empty or (matrix.shape == 2 * offset.shape and offset.ndim == 1)
            if not fits or not np.isfinite(matrix).all() or not np.isfinite(offset).all():
                raise ValueError(
                    f"Compensation expected {names[0]} of shape (D, D) and {names[1]} of shape "
                    f"(D,), finite, got {shown(matrix)} and {shown(offset)}."
                )
            for name, value in zip(names, (matrix, offset), strict=True):
                object.__setattr__(self, name, value)

    def action(self, act: ArrayLike) -> NDArray[Any]:
        """What to command, for the changed robot to execute this.

        Exact where the motors can; otherwise the command in [-1, 1] whose effect is nearest, by
        least squares: a dead motor gets none.

        Args:
            act: What the known robot would be told, ``(A,)`` or ``(B, A)``.

        Raises:
            ValueError: If the shape does not fit, or a value is not finite.
        """
        wanted = self._rows("act", act, len(self.act_offset))
        matrix, offset = self.act_matrix, self.act_offset
        if np.array_equal(matrix, np.eye(len(matrix))) and not offset.any():
            return wanted  # to the last bit
        exact = (wanted - offset) @ self.inverse.T
        command = np.clip(exact, -1, 1)
        beyond = (command != exact).any(-1, keepdims=True)  # each row for itself
        if beyond.any():
            rate, nearest = self.rate, command
            for _ in range(STEPS):
                error = nearest @ matrix.T + offset - wanted
                nearest = np.clip(nearest - rate * error @ matrix, -1, 1)
            command = np.where(beyond, nearest, command)
        return command.astype(wanted.dtype)

    @property
    def inverse(self) -> NDArray[np.floating]:
        """Of ``act_matrix``, in which dead motors stay at rest."""
        inverse: NDArray[np.floating] = np.linalg.pinv(self.act_matrix, rcond=_WEAKEST)
        return inverse

    @property
    def rate(self) -> float:
        """Of the gradient steps towards a command within [-1, 1]."""
        matrix = self.act_matrix
        return float(1 / np.linalg.norm(matrix, 2) ** 2) if matrix.any() else 0.0

    @property
    def reach(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Least and most that each motor executes of what is told, ``(A,)`` each."""
        alive = np.linalg.pinv(self.inverse, rcond=_WEAKEST / 2)  # act_matrix, but what is dead
        span = np.abs(alive).sum(1)
        ends = self.act_offset - span, self.act_offset + span
        return np.clip(ends[0], -1, 1), np.clip(ends[1], -1, 1)

    def shortfall(self, act: ArrayLike) -> float:
        """How far from these actions the robot stays, whatever it is told.

        Mean over all of them, of the motor that stays farthest: one dead motor of many is enough.

        Args:
            act: What the known robot would be told, ``(A,)`` or ``(B, A)``, in [-1, 1].

        Raises:
            ValueError: If the shape does not fit, or a value is not finite.
        """
        left = np.atleast_2d(np.abs(self.executed(self.action(act)) - np.asarray(act)))
        return float(left.mean(0).max())

    def executed(self, act: ArrayLike) -> NDArray[Any]:
        """What the changed robot executes when told this, in terms of the known one.

        Args:
            act: Shape ``(A,)`` or ``(B, A)``, in [-1, 1].

        Raises:
            ValueError: If the shape does not fit, or a value is not finite.
        """
        told = self._rows("act", act, len(self.act_offset))
        return np.clip(told @ self.act_matrix.T + self.act_offset, -1, 1)

    def shown(self, obs: ArrayLike) -> NDArray[Any]:
        """What the changed robot shows where the known one would have shown this.

        Args:
            obs: Shape ``(O,)`` or ``(B, O)``.

        Raises:
            ValueError: If the shape does not fit, a value is not finite, or ``obs_matrix`` has no
                inverse.
        """
        if not len(self.obs_offset):
            return np.asarray(obs)
        rows = self._rows("obs", obs, len(self.obs_offset))
        return np.linalg.solve(self.obs_matrix, (rows - self.obs_offset).T).T

    def observation(self, obs: ArrayLike) -> NDArray[Any]:
        """What the known robot would have shown, where the changed one shows this.

        Args:
            obs: Shape ``(O,)`` or ``(B, O)``.

        Raises:
            ValueError: If the shape does not fit.
        """
        if not len(self.obs_offset):
            return np.asarray(obs)
        shown_obs = self._rows("obs", obs, len(self.obs_offset))
        return (shown_obs @ self.obs_matrix.T + self.obs_offset).astype(shown_obs.dtype)

    @checked
    def policy(
        self, policy: Callable[[NDArray[Any]], ArrayLike]
    ) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """A policy of any make, ``obs -> act`` in [-1, 1], as one for the changed robot."""
        return lambda obs: self.action(policy(self.observation(obs)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: getattr(self, name).tolist() for name in _FILE}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` gave.

        Raises:
            ValueError: If it is something else.
        """
        require_kinds(_FILE, dict(values), "it")
        return cls(**{name: np.array(values[name], np.float64) for name in _FILE})

    @checked
    def save(self, path: Path) -> None:
        """Write it as JSON."""
        replace_text(path, json.dumps(self.to_dict()) + "\n")

    @classmethod
    @checked
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: If the file is damaged.
            OSError: If it cannot be read.
        """
        kept = read_json(path, _FILE)
        try:
            return cls.from_dict(kept)
        except ValueError as error:
            raise CheckpointError(f"{path} holds no compensation: {error}") from error

    def _rows(self, name: str, values: ArrayLike, dim: int) -> NDArray[Any]:
        rows = require_array("Compensation", name, values, None)
        if rows.shape[-1:] != (dim,) or rows.ndim > 2 or not np.isfinite(rows).all():
            raise ValueError(
                f"Compensation expected {name} of shape ({dim},) or (B, {dim}), finite, got "
                f"{shown(values)}."
            )
        return rows if rows.dtype.kind == "f" else rows.astype(np.float64)
