"""What the engine asks of many simulations of one robot."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from mier_adapt_envs.robot import Robot, State

Restarts = Mapping[int, np.random.Generator]
"""Slots to put into initial states, and the generators to draw these from."""


class Simulations(ABC):
    """One simulation per slot.

    Args:
        robot: The robot to simulate.
        models: The MuJoCo model of each slot; slots may share one. Call ``update_models`` after
            editing one.
        num_threads: Threads to step on, the caller's included. Their number changes no result.
    """

    def __init__(self, robot: Robot, models: Sequence[mujoco.MjModel], *, num_threads: int) -> None:
        self.models = list(models)
        self._robot = robot
        self._num_threads = num_threads

    @property
    @abstractmethod
    def state(self) -> State:
        """What the last step or reset left in every slot. Kept until the next step but one."""

    @property
    @abstractmethod
    def warnings(self) -> NDArray[np.integer]:
        """How often MuJoCo warned of each slot since its reset, ``(B, kinds of warning)``."""

    @abstractmethod
    def step(self, ctrl_BA: NDArray[np.float64], restarts: Restarts) -> None:
        """Step every slot under its controls, but those of ``restarts`` start anew instead."""

    @abstractmethod
    def reset(self, restarts: Restarts) -> None:
        """Put the slots of ``restarts`` into initial states; the others stay as they are."""

    @abstractmethod
    def update_models(self) -> None:
        """Go on with the models as they are now."""

    @abstractmethod
    def data(self, slot: int) -> mujoco.MjData:
        """Return a slot's simulation as its last step left it, always in the same object."""

    @abstractmethod
    def close(self) -> None:
        """End the threads."""
