"""CompensatedAction: a changed robot that looks like the known one to whatever acts in it."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mier_adapt._checks import checked
from mier_adapt._spaces import vector_space
from mier_adapt.compensation import Compensation


class CompensatedAction(
    gym.ObservationWrapper[NDArray[Any], Any, Any], gym.utils.RecordConstructorArgs
):
    """Undoes what changed: actions on their way to the robot, observations on their way back.

    Whatever acts in it, of any make, acts as in the known task. For vector environments see
    :class:`mier_adapt.wrappers.vector.CompensatedAction`.

    Example:
        >>> import gymnasium
        >>> from mier_adapt.compensation import Compensation
        >>> weak = Compensation(np.array([[0.5]]), np.zeros(1))  # half of what it is told
        >>> env = CompensatedAction(gymnasium.make("Pendulum-v1"), weak)
        >>> obs, info = env.reset(seed=0)
        >>> obs, *_ = env.step(np.array([0.8], np.float32))  # 1.6 of 2 go to the motor

    Args:
        env: The changed robot; observations and actions are vectors, actions bounded.
        compensation: What to undo, as :func:`.adapt` or :func:`.diagnose` gives it.

    Raises:
        ValueError: If the spaces are others, or of other dimensions than the compensation.
    """

    @checked
    def __init__(self, env: gym.Env[NDArray[Any], Any], compensation: Compensation) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, compensation=compensation)
        gym.ObservationWrapper.__init__(self, env)
        self.compensation = compensation
        self.observation_space = known_space(compensation, env.observation_space, env.action_space)

    def step(self, action: NDArray[Any]) -> Any:
        """The environment's, told what makes the changed robot do this."""
        return super().step(command(self.compensation, action, self.action_space))

    def observation(self, observation: NDArray[Any]) -> NDArray[Any]:
        """What the known robot would have shown."""
        return self.compensation.observation(observation)


def known_space(
    compensation: Compensation, observations: spaces.Space[Any], actions: spaces.Space[Any]
) -> spaces.Box:
    """The space of what the known robot would show."""
    space = vector_space("CompensatedAction", "env's observations", observations)
    bounded = vector_space("CompensatedAction", "env's actions", actions, bounded=True)
    wanted = len(compensation.act_offset), len(compensation.obs_offset)
    found = *bounded.shape, *space.shape
    if found[0] != wanted[0] or wanted[1] not in (0, found[1]):
        raise ValueError(
            f"CompensatedAction expected a compensation of env's dimensions of actions and "
            f"observations, {found}, got one of {wanted}."
        )
    if not wanted[1]:
        return space
    unbounded = np.full(space.shape, np.inf, dtype=space.dtype)
    return spaces.Box(-unbounded, unbounded, dtype=space.dtype)


def command(compensation: Compensation, action: NDArray[Any], space: Any) -> NDArray[Any]:
    """What to tell the changed robot, in the units of its action space, of one or many slots.

    Actions beyond the bounds are taken as the bounds, as the known robot does.
    """
    low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
    middle, reach = (high + low) / 2, (high - low) / 2
    wanted = np.clip(action, low, high)
    act = compensation.action((wanted - middle) / np.where(reach > 0, reach, 1))
    # Kept within the bounds as the space's own precision has them.
    return np.asarray(np.clip((middle + reach * act).astype(space.dtype), space.low, space.high))
