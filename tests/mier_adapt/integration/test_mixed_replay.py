import copy
import pickle
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt import Transitions
from mier_adapt.integration import MixedReplayBuffer

from ..doubles import ACT_DIM, CONTEXT_DIM, OBS_DIM, random_transitions

CONTEXT = torch.tensor([0.5, -1.5])


def numbered(first: int, count: int) -> Transitions:
    bare = random_transitions(count, seed=first)
    rew = torch.arange(first, first + count, dtype=torch.float32)
    return Transitions(bare.obs, bare.act, rew, bare.obs_next, bare.terminated)


def empty(real_size: int = 6, synthetic_size: int = 20, **options) -> MixedReplayBuffer:
    options = {"context": CONTEXT, "generator": np.random.default_rng(0), **options}
    return MixedReplayBuffer(real_size, synthetic_size, obs_dim=OBS_DIM, act_dim=ACT_DIM, **options)


def full(**options) -> MixedReplayBuffer:
    """Real rewards are below 100, synthetic ones above."""
    buffer = empty(**options)
    buffer.extend_real(numbered(0, 5))
    buffer.extend_synthetic(numbered(100, 12))
    return buffer


def test_what_a_copy_is_given_is_read_from_it():
    buffer = full()
    for made in (copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer))):
        made.extend_real(numbered(5_000, 2))
        made.extend_synthetic(numbered(6_000, 2))
        assert {5_000, 5_001, 6_000, 6_001} <= set(made[made.sample_indices(0)].rew.tolist())
        assert made.num_real == buffer.num_real + 1  # of 6
    assert buffer[buffer.sample_indices(0)].rew.max() < 5_000


@given(batch_size=st.integers(1, 300), real_fraction=st.floats(0, 1), seed=st.integers(0, 1000))
def test_the_ratio_is_exact(batch_size, real_fraction, seed):
    buffer = full(real_fraction=real_fraction, generator=np.random.default_rng(seed))
    batch, indices = buffer.sample(batch_size)
    num_real = int((batch.rew < 100).sum())
    assert num_real == round(real_fraction * batch_size)
    assert abs(num_real - real_fraction * batch_size) <= 0.5
    assert len(indices) == batch_size
    assert set(batch.rew.astype(int)) <= {*range(5), *range(100, 112)}


def test_each_region_is_drawn_evenly():
    batch, _ = full(real_fraction=0.5).sample(20_000)
    for numbers in (range(5), range(100, 112)):
        counts = [int((batch.rew == number).sum()) for number in numbers]
        assert max(counts) < 1.3 * min(counts)


@given(
    operations=st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=10),
    real_size=st.integers(1, 8),
    synthetic_size=st.integers(1, 12),
)
def test_each_region_is_a_ring_of_its_own(operations, real_size, synthetic_size):
    buffer = empty(real_size, synthetic_size)
    expected = {True: deque(maxlen=real_size), False: deque(maxlen=synthetic_size)}
    for step, (real, count) in enumerate(operations):
        (buffer.extend_real if real else buffer.extend_synthetic)(numbered(100 * step, count))
        expected[real].extend(range(100 * step, 100 * step + count))
    assert (buffer.num_real, buffer.num_synthetic) == (len(expected[True]), len(expected[False]))
    assert len(buffer) == buffer.num_real + buffer.num_synthetic
    _, indices = buffer.sample(0)
    rewards = buffer.rew[indices]
    assert sorted(rewards[: buffer.num_real]) == sorted(expected[True])
    assert sorted(rewards[buffer.num_real :]) == sorted(expected[False])


def test_the_context_stands_behind_both_observations_and_only_there():
    buffer = full()
    batch, indices = buffer.sample(40)
    for name in ("obs", "obs_next"):
        np.testing.assert_array_equal(batch[name][:, :OBS_DIM], getattr(buffer, name)[indices])
        np.testing.assert_array_equal(batch[name][:, OBS_DIM:], CONTEXT.expand(40, -1))
        assert batch[name].dtype == np.float32
    np.testing.assert_array_equal(batch.act, buffer.act[indices])
    assert buffer.obs.shape == (26, OBS_DIM)
    assert buffer.get(0, "obs").shape == (OBS_DIM + CONTEXT_DIM,)


def test_a_policy_without_context_sees_bare_observations():
    buffer = full(context=torch.zeros(0))
    batch, indices = buffer.sample(10)
    np.testing.assert_array_equal(batch.obs, buffer.obs[indices])


def test_the_generator_fixes_the_samples():
    draws = [
        full(generator=np.random.default_rng(seed)).sample(30)[1].tolist() for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_truncation_is_kept_with_real_data():
    buffer = empty()
    truncated = np.array([False, True, False])
    buffer.extend_real(numbered(0, 3), truncated=truncated)
    np.testing.assert_array_equal(buffer.truncated[:3], truncated)
    np.testing.assert_array_equal(buffer.done[:3], truncated | buffer.terminated[:3])


def test_synthetic_transitions_have_no_successor_beyond_their_region():
    buffer = full()
    last = buffer.last_index
    assert buffer.rew[last].tolist() == [4, 111]
    np.testing.assert_array_equal(buffer.next(last), last)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_fraction": -0.1}, "real_fraction >= 0 and <= 1, got -0.1"),
        ({"real_fraction": 1.1}, "real_fraction >= 0 and <= 1, got 1.1"),
        ({"real_fraction": float("nan")}, "real_fraction >= 0 and <= 1, got nan"),
        ({"context": torch.zeros(1, 2)}, r"context of shape \(2,\) .* of shape \(1, 2\)"),
        ({"context": torch.tensor([torch.inf])}, "context .* finite values"),
        ({"real_size": 0}, "real_size >= 1, got 0"),
        ({"synthetic_size": -1}, "synthetic_size >= 1, got -1"),
    ],
)
def test_construction_names_the_argument_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        empty(**options)


@pytest.mark.usefixtures("unchecked")
def test_only_transitions_of_one_task_are_taken():
    buffer = full()
    for extend in (buffer.extend_real, buffer.extend_synthetic):
        for nonsense in (random_transitions(2, 3), numbered(0, 2).obs):
            with pytest.raises(ValueError, match=r"transitions of one task, .*\(B, \.\.\.\)"):
                extend(nonsense)
        with pytest.raises(ValueError, match=r"\(3, 2\) dimensions.* got \(4, 2\)"):
            extend(random_transitions(2, obs_dim=4))
    assert (buffer.num_real, buffer.num_synthetic) == (5, 12)


def test_a_region_that_the_ratio_asks_for_must_hold_something():
    buffer = empty(real_fraction=0.5)
    buffer.extend_real(numbered(0, 2))
    with pytest.raises(ValueError, match=r"asked for 5 synthetic .* extend_synthetic first"):
        buffer.sample(10)
    buffer = empty(real_fraction=0.5)
    buffer.extend_synthetic(numbered(0, 2))
    with pytest.raises(ValueError, match=r"asked for 5 real .* extend_real first"):
        buffer.sample(10)
    buffer = empty(real_fraction=0.0)
    buffer.extend_synthetic(numbered(0, 2))
    assert len(buffer.sample(10)[1]) == 10  # nothing real is asked for
