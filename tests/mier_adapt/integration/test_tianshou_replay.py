"""What stock buffers hold, filled by stock collectors, and what of it is handed out."""

import logging

import gymnasium
import numpy as np
import pytest
import torch
from tianshou.data import (
    Batch,
    CachedReplayBuffer,
    Collector,
    PrioritizedReplayBuffer,
    ReplayBuffer,
    VectorReplayBuffer,
)
from tianshou.env import DummyVectorEnv
from tianshou.exploration import GaussianNoise

from mier_adapt.integration import ContextReplayBuffer, MixedReplayBuffer, from_tianshou

from ..doubles import ALGORITHMS, assert_same_tree, random_transitions

EPISODE = 7

EMPTY = {
    "one": lambda **options: ReplayBuffer(20, **options),
    "many": lambda **options: VectorReplayBuffer(60, 2, **options),
    "cached": lambda **options: CachedReplayBuffer(ReplayBuffer(40, **options), 2, 10),
    "prioritized": lambda **options: PrioritizedReplayBuffer(20, alpha=0.5, beta=0.5, **options),
}


def counted(buffer: ReplayBuffer, steps: int = 25) -> ReplayBuffer:
    """Filled with slots that count: each next observation is one more.

    The first slot's episodes terminate and the second one's are cut.
    """
    slots = 2 if isinstance(buffer, VectorReplayBuffer | CachedReplayBuffer) else 1
    for step in range(steps):
        over = step % EPISODE == EPISODE - 1
        rows = [
            Batch(
                obs=np.full(3, step + 100.0 * slot),
                act=np.full(2, 1.3),
                rew=float(step),
                terminated=over and slot == 0,
                truncated=over and slot == 1,
                obs_next=np.full(3, step + 1 + 100.0 * slot),
                info=Batch(),
            )
            for slot in range(slots)
        ]
        if slots == 1:
            buffer.add(rows[0])
        else:
            buffer.add(Batch.stack(rows), buffer_ids=np.arange(slots))
    return buffer


@pytest.mark.parametrize("kind", EMPTY)
def test_a_buffer_that_ignores_next_observations_gives_those_that_it_knows(kind, caplog):
    whole = from_tianshou(counted(EMPTY[kind]()))
    assert not caplog.records
    buffer = counted(EMPTY[kind](ignore_obs_next=True))
    with caplog.at_level(logging.WARNING):
        known = from_tianshou(buffer)
    assert torch.equal(known.obs_next, known.obs + 1)
    # All but the ends of episodes and each slot's newest.
    numbers = whole.obs[:, 0].tolist()
    newest = {number for number in numbers if number + 1 not in numbers}
    expected = [
        number
        for number in numbers
        if number % 100 % EPISODE != EPISODE - 1 and number not in newest
    ]
    assert known.obs[:, 0].tolist() == expected
    (record,) = caplog.records
    left_out = len(whole) - len(expected)
    ended = int(whole.terminated.sum())
    assert f"left out {left_out} of {len(whole)} transitions" in record.getMessage()
    assert f"{ended} of them terminated" in record.getMessage()


def test_a_buffer_of_ends_alone_is_refused():
    buffer = counted(ReplayBuffer(1, ignore_obs_next=True))
    with pytest.raises(ValueError, match=r"observations are known, .* got 0 of 1 transitions"):
        from_tianshou(buffer)
    with pytest.raises(ValueError, match="got 0 of 0 transitions"):
        from_tianshou(ReplayBuffer(1))


@pytest.mark.parametrize("option", [{"stack_num": 4}, {"save_only_last_obs": True}])
@pytest.mark.parametrize("ignored", [False, True])
def test_stacked_observations_are_refused(option, ignored):
    buffer = ReplayBuffer(20, ignore_obs_next=ignored, **option)
    for _ in range(5):
        buffer.add(
            Batch(
                obs=np.zeros((4, 3)),
                act=np.zeros(2),
                rew=0.0,
                terminated=False,
                truncated=False,
                obs_next=np.zeros((4, 3)),
                info=Batch(),
            )
        )
    with pytest.raises(ValueError, match="without stack_num and save_only_last_obs"):
        from_tianshou(buffer)


class Recording(gymnasium.Env):
    """Keeps the actions that it is given; its own are within [-2, 4]."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-2, 4, (2,), np.float32)

    def __init__(self):
        self.received = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.received.append(action.copy())
        return self.np_random.normal(size=3).astype(np.float32), 0.0, False, False, {}


@pytest.mark.filterwarnings("error")
def test_actions_are_those_that_the_environment_was_given(caplog):
    """Stock TD3 explores beyond the bounds, and collectors store what they then clip."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - stock Tianshou draws from the global generators
    algorithm = ALGORITHMS["TD3"](3, 0)
    policy = algorithm.policy
    policy.action_space = Recording.action_space
    policy.exploration_noise = GaussianNoise(sigma=1.0)
    env = Recording()
    buffer = VectorReplayBuffer(100, 1)
    collector = Collector(algorithm, DummyVectorEnv([lambda: env]), buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=60)
    assert np.abs(buffer.act).max() > 1.5
    given = from_tianshou(buffer)
    np.testing.assert_allclose(given.act.numpy() * 3 + 1, env.received, atol=1e-6)
    assert not caplog.records


def test_of_the_librarys_own_buffers_it_reads_the_parts():
    """As a whole they give observations with contexts, of several tasks, or synthetic ones."""
    first, second = random_transitions(5), random_transitions(4, seed=1)
    options = {"obs_dim": 3, "act_dim": 2, "generator": np.random.default_rng(0)}
    tasks = ContextReplayBuffer(2, 6, context_dim=2, **options)
    tasks.extend(0, first)
    tasks.extend(1, second)
    mixed = MixedReplayBuffer(6, 6, context=torch.ones(2), real_fraction=0.5, **options)
    mixed.extend_real(first)
    mixed.extend_synthetic(second)
    for buffer in (
        tasks,
        mixed,
        ContextReplayBuffer.of([first, second], generator=tasks.generator),
    ):
        with pytest.raises(TypeError, match=r"of one task .* got a \w+, .*buffer\.buffers\[n\]"):
            from_tianshou(buffer)
        for part, expected in zip(buffer.buffers, (first, second), strict=True):
            assert_same_tree(vars(from_tianshou(part)), vars(expected))
