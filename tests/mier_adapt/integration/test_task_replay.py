from collections import deque

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tianshou.data import Batch, Collector, ReplayBuffer
from tianshou.env import DummyVectorEnv

from mier_adapt import Transitions
from mier_adapt.integration import ContextReplayBuffer, MixedReplayBuffer, build_sac
from mier_adapt.integration.task_replay import TaskReplayBuffer

from ..doubles import random_transitions

COLUMNS = ("obs", "act", "rew", "obs_next", "terminated", "truncated", "done")

stretches = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=8)


def numbered(first: int, count: int) -> Transitions:
    """Transitions whose reward says which they are."""
    bare = random_transitions(count, seed=first)
    rew = torch.arange(first, first + count, dtype=torch.float32)
    return Transitions(bare.obs, bare.act, rew, bare.obs_next, bare.terminated)


def filled(size: int, parts: list[tuple[int, bool]]) -> tuple[TaskReplayBuffer, deque]:
    """A buffer, and a plain list of what it should hold: number and flag, oldest first."""
    buffer, expected, first = TaskReplayBuffer(size), deque(maxlen=size), 0
    for count, initial in parts:
        indices = buffer.extend(numbered(first, count), initial_context=initial)
        assert len(indices) == min(count, size)
        assert buffer.rew[indices[-1]] == first + count - 1
        expected.extend((number, initial) for number in range(first, first + count))
        first += count
    return buffer, expected


@given(size=st.integers(1, 12), parts=stretches)
def test_is_a_ring_that_forgets_the_oldest(size, parts):
    buffer, expected = filled(size, parts)
    assert len(buffer) == len(expected)
    oldest = buffer._insertion_idx if len(buffer) == size else 0
    order = (oldest + np.arange(len(buffer))) % size
    assert buffer.rew[order].tolist() == [number for number, _ in expected]
    held = buffer.adaptation_indices()
    assert buffer.rew[held].tolist() == [number for number, initial in expected if initial]
    # The same through the public, typed door.
    transitions = buffer.transitions(order)
    assert transitions.rew.tolist() == [number for number, _ in expected]
    assert transitions.rew.dtype == torch.float32


@given(
    size=st.integers(2, 12),
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_whole_stretches_are_stored_as_tianshou_stores_single_steps(size, counts, seed):
    generator = np.random.default_rng(seed)
    mine, stock = TaskReplayBuffer(size), ReplayBuffer(size)
    for first, count in enumerate(min(count, size) for count in counts):
        transitions = numbered(100 * first, count)
        truncated = generator.random(count) < 0.2
        mine.extend(transitions, truncated=truncated)
        for row in range(count):
            step = {
                name: getattr(transitions, name)[row].numpy()
                for name in ("obs", "act", "rew", "obs_next", "terminated")
            }
            step["rew"] = float(step["rew"])
            stock.add(Batch(**step, truncated=truncated[row], info=Batch()))
    assert len(mine) == len(stock)
    everything = np.arange(len(stock))
    for name in COLUMNS:
        np.testing.assert_array_equal(mine[everything][name], stock[everything][name])
    np.testing.assert_array_equal(mine.next(everything), stock.next(everything))
    np.testing.assert_array_equal(mine.prev(everything), stock.prev(everything))
    np.testing.assert_array_equal(mine.unfinished_index(), stock.unfinished_index())
    np.testing.assert_array_equal(mine.last_index, stock.last_index)


def test_of_more_than_the_capacity_the_last_are_kept():
    buffer, _ = filled(4, [(10, True)])
    assert sorted(buffer.rew) == [6, 7, 8, 9]


def test_an_emptied_buffer_has_no_adaptation_data():
    buffer, _ = filled(4, [(3, True)])
    assert len(buffer.adaptation_indices()) == 3
    buffer.reset()
    assert len(buffer) == 0
    assert len(buffer.adaptation_indices()) == 0


OURS = {
    "extend": [
        lambda: TaskReplayBuffer(20),
        lambda: ContextReplayBuffer(
            1, 20, obs_dim=3, act_dim=2, context_dim=0, generator=np.random.default_rng(0)
        ),
    ],
    "extend_real, extend_synthetic": [
        lambda: MixedReplayBuffer(
            9, 9, obs_dim=3, act_dim=2, context=torch.zeros(0), generator=np.random.default_rng(0)
        )
    ],
}


@pytest.mark.parametrize(
    ("ways", "make"), [(ways, make) for ways, makes in OURS.items() for make in makes]
)
def test_a_collector_is_told_what_to_fill_instead(ways, make):
    env = gymnasium.make("Pendulum-v1")
    algorithm = build_sac(env.observation_space, env.action_space, 0, hidden_sizes=(4,))
    buffer = make()
    collector = Collector(algorithm, DummyVectorEnv([lambda: env]), buffer)
    collector.reset()
    with pytest.raises(TypeError, match=f"from_tianshou, and give that to {ways}\\."):
        collector.collect(n_step=5)
    with pytest.raises(TypeError, match="takes no single steps"):
        buffer.update(ReplayBuffer(3))
    assert len(buffer) == 0


def test_refuses_what_does_not_fit():
    buffer, _ = filled(4, [(2, True)])
    with pytest.raises(ValueError, match=r"\(3, 2\) dimensions, as the buffer holds, got \(5, 2\)"):
        buffer.extend(random_transitions(2, obs_dim=5))
    with pytest.raises(ValueError, match=r"\(3, 2\) dimensions, as the buffer holds, got \(3, 1\)"):
        buffer.extend(random_transitions(2, act_dim=1))
    with pytest.raises(ValueError, match=r"truncated of shape \(2,\), got \(3,\)"):
        buffer.extend(random_transitions(2), truncated=np.zeros(3, dtype=bool))
    assert len(buffer) == 2
    assert buffer.rew[:2].tolist() == [0, 1]
