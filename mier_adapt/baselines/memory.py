"""Memory of what happens: actors that go by it, and where an episode begins in what is stored."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._typing import Bool, Float, Tensor


class MemoryActor(ABC):
    """An :class:`.Actor` with a memory for each of T tasks, and then for each of their N slots.

    :func:`.collect` tells it what its actions brought, and where episodes begin. A method says what
    is made of that; whose slot is whose, and that no call is left out, is the same for all.

    Args:
        **memory: Tensors by name, ``(T, ...)``, what each slot of a task begins with. The first one
            has the precision and the device that all else is given in.
    """

    def __init__(self, **memory: Tensor) -> None:
        self.memory = memory
        self._waits = False

    @abstractmethod
    def begin(self, starting: Bool[Tensor, " N"]) -> None:
        """An episode begins in these slots."""

    @abstractmethod
    def choose(self, obs: Float[Tensor, "N O"], *, explore: bool) -> Float[Tensor, "N A"]:
        """Actions in [-1, 1]."""

    @abstractmethod
    def keep(self, act: Float[Tensor, "N A"], rew: Float[Tensor, " N"]) -> None:
        """This was executed in each slot, and brought this reward."""

    def start_episodes(self, starting: Bool[NDArray[np.bool_], " N"]) -> None:
        """Be told in which slots an episode begins.

        Raises:
            ValueError: If there are not as many slots for each task.
        """
        self._spread(len(starting))
        self.begin(torch.from_numpy(starting).to(self._like.device))

    @torch.no_grad()
    def act(
        self, obs: Float[NDArray[np.floating], "N O"], *, explore: bool
    ) -> Float[NDArray[np.floating], "N A"]:
        """As :meth:`.Actor.act`.

        Raises:
            RuntimeError: If it was not told what came of its last action.
            ValueError: If there are not as many slots for each task.
        """
        if self._waits:
            raise RuntimeError(
                f"{type(self).__name__}.act expected remember(act, rew) after its last action, "
                "whose outcome it goes by. Let collect or evaluate run it, which call that."
            )
        self._spread(len(obs))
        self._waits = True
        return np.asarray(self.choose(self._like.new_tensor(obs), explore=explore).cpu().numpy())

    def remember(
        self, act: Float[NDArray[np.floating], "N A"], rew: Float[NDArray[np.floating], " N"]
    ) -> None:
        """Be told what was executed in each slot, and its reward."""
        self.keep(self._like.new_tensor(act), self._like.new_tensor(rew))
        self._waits = False

    @property
    def _like(self) -> Tensor:
        return next(iter(self.memory.values()))

    def _spread(self, slots: int) -> None:
        """Give each of a task's slots a memory of its own, which begins as the task's."""
        each, rest = divmod(slots, len(self._like))
        if rest or not each:
            raise ValueError(
                f"{type(self).__name__} expected as many slots for each of {len(self._like)} "
                f"memories, got {slots} slots. Ask the policy for a new actor."
            )
        if each > 1:
            self.memory = {
                name: known.repeat_interleave(each, 0) for name, known in self.memory.items()
            }
