"""The wrappers for vector environments: contexts of all slots, a compensation for all of them."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorObservationWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from mier_adapt._checks import Count, checked, require_array, shown
from mier_adapt.compensation import Compensation
from mier_adapt.wrappers.compensated_action import command, known_space
from mier_adapt.wrappers.context_observation import append_context_space

__all__ = ["CompensatedAction", "ContextObservation"]


class ContextObservation(VectorObservationWrapper, gym.utils.RecordConstructorArgs):
    """Appends each slot's context to its observations.

    Contexts start at zero and stay until :meth:`set_contexts` changes them; a change shows
    from the next observation on. For a single environment see
    :class:`mier_adapt.wrappers.ContextObservation`.

    Example:
        >>> import gymnasium
        >>> envs = ContextObservation(gymnasium.make_vec("Pendulum-v1", num_envs=2), context_dim=1)
        >>> envs.set_contexts([[0.5], [-1.0]])
        >>> obs, info = envs.reset(seed=0)
        >>> obs.shape, obs[:, -1].tolist()
        ((2, 4), [0.5, -1.0])

    Args:
        env: A vector environment whose observations are vectors.
        context_dim: Dimensions of a context; 0 changes nothing.

    Raises:
        ValueError: If the observation space is not a ``Box`` of one axis per slot or
            ``context_dim`` is negative.
    """

    @checked
    def __init__(self, env: VectorEnv[Any, Any, Any], context_dim: Count) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, context_dim=context_dim)
        VectorObservationWrapper.__init__(self, env)
        self.single_observation_space = append_context_space(
            env.single_observation_space, context_dim
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._contexts = np.zeros(
            (self.num_envs, context_dim), dtype=self.single_observation_space.dtype
        )

    @property
    def contexts(self) -> NDArray[Any]:
        """The contexts that are appended, shape ``(num_envs, C)``; a copy."""
        return self._contexts.copy()

    def set_contexts(self, contexts: ArrayLike) -> None:
        """Append these contexts, shape ``(num_envs, C)``, from the next observation on.

        Raises:
            ValueError: If the shape does not fit or a value is not finite.
        """
        value = require_array("set_contexts", "contexts", contexts, self._contexts.dtype)
        if value.shape != self._contexts.shape or not np.isfinite(value).all():
            raise ValueError(
                f"set_contexts expected shape {self._contexts.shape} (num_envs, context_dim) and "
                f"finite values, got shape {value.shape}, {shown(value)}. To give all slots one "
                "context, repeat it with np.tile."
            )
        self._contexts = value.copy()

    def observations(self, observations: NDArray[Any]) -> NDArray[Any]:
        """The environment's observations with each slot's context behind them."""
        return np.concatenate((observations, self._contexts), axis=-1)


class CompensatedAction(VectorObservationWrapper, gym.utils.RecordConstructorArgs):
    """As :class:`mier_adapt.wrappers.CompensatedAction`, the same compensation for all slots.

    Args:
        env: Environments of the changed robot.
        compensation: What to undo.

    Raises:
        ValueError: If spaces are no vectors, or of other dimensions than the compensation.
    """

    @checked
    def __init__(self, env: VectorEnv[Any, Any, Any], compensation: Compensation) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, compensation=compensation)
        VectorObservationWrapper.__init__(self, env)
        self.compensation = compensation
        self.single_observation_space = known_space(
            compensation, env.single_observation_space, env.single_action_space
        )
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def step(self, actions: NDArray[Any]) -> Any:
        """The environments', told what makes the changed robots do this."""
        return super().step(command(self.compensation, actions, self.single_action_space))

    def observations(self, observations: NDArray[Any]) -> NDArray[Any]:
        """What the known robots would have shown."""
        return self.compensation.observation(observations)
