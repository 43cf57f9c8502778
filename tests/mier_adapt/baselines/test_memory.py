import numpy as np
import pytest
import torch

from mier_adapt.baselines.memory import MemoryActor
from mier_adapt.protocols import Actor


class Counting(MemoryActor):
    """Remembers the sum of rewards in its slots' episodes, and acts by it."""

    def __init__(self, *first: float) -> None:
        super().__init__(known=torch.tensor(first, dtype=torch.float64))

    def begin(self, starting):
        self.memory["known"] = torch.where(starting, 0.0, self.memory["known"])

    def choose(self, obs, *, explore):
        assert (obs.dtype, explore) == (torch.float64, False)
        return self.memory["known"].unsqueeze(-1) + obs

    def keep(self, act, rew):
        assert (act.dtype, rew.dtype) == (torch.float64, torch.float64)
        self.memory["known"] = self.memory["known"] + rew


def test_slots_begin_with_their_tasks_memory_and_go_on_alone():
    actor = Counting(1.0, 2.0)
    assert isinstance(actor, Actor)
    obs = np.zeros((4, 1), dtype=np.float32)
    assert actor.act(obs, explore=False).tolist() == [[1.0], [1.0], [2.0], [2.0]]
    actor.remember(obs, np.array([1, 2, 3, 4], dtype=np.float32))
    actor.start_episodes(np.array([False, True, False, False]))
    assert actor.act(obs, explore=False).tolist() == [[2.0], [0.0], [5.0], [6.0]]


@pytest.mark.parametrize("slots", [0, 3])
def test_numbers_of_slots_that_do_not_fit_are_refused(slots):
    told = f"^Counting expected as many slots for each of 2 memories, got {slots} slots. Ask"
    with pytest.raises(ValueError, match=told):
        Counting(1.0, 2.0).start_episodes(np.ones(slots, dtype=bool))
    with pytest.raises(ValueError, match=told):
        Counting(1.0, 2.0).act(np.zeros((slots, 1)), explore=False)


def test_an_actor_that_is_not_told_what_came_of_its_action_refuses_to_go_on():
    actor, obs = Counting(1.0), np.zeros((1, 1))
    actor.act(obs, explore=False)
    with pytest.raises(RuntimeError, match=r"^Counting\.act expected remember"):
        actor.act(obs, explore=False)
