"""ContextObservation: an environment whose observations end with the task's context."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from mier_adapt._checks import Count, checked, require_array
from mier_adapt._spaces import vector_space


class ContextObservation(
    gym.ObservationWrapper[NDArray[Any], Any, Any], gym.utils.RecordConstructorArgs
):
    """Appends a context to every observation, so that any policy can be conditioned on it.

    The context starts at zero and stays until :meth:`set_context` changes it; a change shows
    from the next observation on. For vector environments see
    :class:`mier_adapt.wrappers.vector.ContextObservation`.

    Example:
        >>> import gymnasium
        >>> env = ContextObservation(gymnasium.make("Pendulum-v1"), context_dim=2)
        >>> env.set_context([0.5, -1.0])
        >>> obs, info = env.reset(seed=0)
        >>> obs.shape, obs[-2:].tolist()
        ((5,), [0.5, -1.0])

    Args:
        env: An environment whose observations are vectors (a ``Box`` of one axis).
        context_dim: Dimensions of the context; 0 changes nothing.

    Raises:
        ValueError: If the observation space is not such a ``Box`` or ``context_dim`` is
            negative.
    """

    @checked
    def __init__(self, env: gym.Env[NDArray[Any], Any], context_dim: Count) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, context_dim=context_dim)
        gym.ObservationWrapper.__init__(self, env)
        self.observation_space = append_context_space(env.observation_space, context_dim)
        self._context = np.zeros(context_dim, dtype=self.observation_space.dtype)

    @property
    def context(self) -> NDArray[Any]:
        """The context that is appended, shape ``(C,)``; a copy."""
        return self._context.copy()

    def set_context(self, context: ArrayLike) -> None:
        """Append this context, shape ``(C,)``, from the next observation on.

        Raises:
            ValueError: If the shape does not fit or a value is not finite.
        """
        value = require_array("set_context", "context", context, self._context.dtype)
        if value.shape != self._context.shape or not np.isfinite(value).all():
            raise ValueError(
                f"set_context expected shape {self._context.shape} and finite values, got {value} "
                f"of shape {value.shape}. To use one context per environment, wrap a vector "
                "environment with mier_adapt.wrappers.vector.ContextObservation."
            )
        self._context = value.copy()

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """The environment's observation with the context behind it."""
        return np.concatenate((observation, self._context))


def append_context_space(space: spaces.Space[Any], context_dim: int) -> spaces.Box:
    """The space of vectors of ``space`` followed by ``context_dim`` unbounded entries."""
    space = vector_space("ContextObservation", "env's observation space", space)
    unbounded = np.full(context_dim, np.inf, dtype=space.dtype)
    return spaces.Box(
        np.concatenate((space.low, -unbounded)),
        np.concatenate((space.high, unbounded)),
        dtype=space.dtype,
    )
