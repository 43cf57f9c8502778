"""Excited: an actor that moves a robot that came to rest, where it shows nothing of what changed.

Behind a reversed motor a policy may hold a pose that it never leaves: each motor is told much the
same at every step, and whatever would hold that pose explains it.
"""

import numpy as np
from numpy.typing import NDArray

from mier_adapt._typing import Bool, Float
from mier_adapt.protocols import Actor
from mier_adapt.transitions import Transitions

_WINDOW, _MOVED = 20, 10
"""Steps that tell whether a robot rests, and steps for which it is moved then."""
_STILL, _RARE = 0.25, 0.01
"""Share of the usual motion that is rest, and how often known tasks may come to it."""


class Excited:
    """An actor, with noise on its commands for a while wherever the robot has come to rest.

    A robot rests where its observations, in standard deviations, vary less over 20 steps than a
    quarter of the median in known tasks, and than in 99 of 100 stretches there.

    Args:
        actor: Acts.
        known: Transitions of known tasks, ``(T, B, ...)``, in order.
        std: Standard deviation of the noise; commands stay within [-1, 1].
        generator: Draws it.

    Source:
        Ours. Persistent excitation: Ljung (1999), System Identification, section 13.2.
    """

    def __init__(
        self, actor: Actor, known: Transitions, *, std: float, generator: np.random.Generator
    ) -> None:
        self.actor = actor
        self.moved = False
        """Whether it has moved the robot."""
        self._std, self._generator = std, generator
        obs = known.obs.cpu().numpy()  # (T, B, O)
        every = obs.reshape(-1, obs.shape[-1])
        self._varies = every.std(0) > 1e-5 * np.abs(every).mean(0)
        self._unit = every.std(0)[self._varies]
        self._rest = 0.0  # never
        if obs.shape[1] >= _WINDOW and self._varies.any():
            stretches = np.lib.stride_tricks.sliding_window_view(obs, _WINDOW, axis=1)
            follows = known.follows.cpu().numpy()
            whole = np.lib.stride_tricks.sliding_window_view(follows, _WINDOW - 1, axis=1).all(-1)
            if whole.any():
                motion = self._motion(np.moveaxis(stretches[whole], -1, 0))
                self._rest = min(_STILL * np.median(motion), np.quantile(motion, _RARE))
        self._seen: NDArray[np.floating] = np.empty((_WINDOW, 0, obs.shape[-1]))
        self._left = np.empty(0, dtype=np.int64)

    def start_episodes(self, starting_N: Bool[NDArray[np.bool_], " N"]) -> None:
        """Know nothing yet of the motion in these slots."""
        if len(self._left) != len(starting_N):
            self._seen = np.empty((_WINDOW, len(starting_N), self._seen.shape[-1]))
            self._left = np.empty(len(starting_N), dtype=np.int64)
        self._seen[:, starting_N], self._left[starting_N] = np.nan, 0
        getattr(self.actor, "start_episodes", lambda starting_N: None)(starting_N)

    def act(
        self, obs: Float[NDArray[np.floating], "N O"], *, explore: bool
    ) -> Float[NDArray[np.floating], "N A"]:
        """As :meth:`.Actor.act`."""
        act = self.actor.act(obs, explore=explore)
        if not self._rest:
            return act
        self._seen = np.concatenate((self._seen[1:], obs[None]))
        rests = self._motion(self._seen) < self._rest
        self._left = np.where(rests, _MOVED, np.maximum(self._left - 1, 0))
        if not self._left.any():
            return act
        self.moved = True
        noise = self._generator.normal(0.0, self._std, act.shape)
        moved = np.where(self._left[:, None] > 0, act + noise, act)
        return np.clip(moved, -1, 1).astype(act.dtype)

    def _motion(self, windows: Float[NDArray[np.floating], "W N O"]) -> NDArray[np.floating]:
        """Of each, the mean over dimensions, in standard deviations of known tasks."""
        motion: NDArray[np.floating] = (windows[..., self._varies].std(0) / self._unit).mean(-1)
        return motion
