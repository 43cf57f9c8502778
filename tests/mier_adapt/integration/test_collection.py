import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from tianshou.data import Batch

from mier_adapt import Transitions
from mier_adapt.integration import Rollout, act, build_sac, collect, relabeling_policy
from mier_adapt.workflows.randomness import global_generator_state, seed_global_generators

from ..doubles import (
    ACT_DIM,
    ALGORITHMS,
    CONTEXT_DIM,
    OBS_DIM,
    ClockVectorEnv,
    assert_same_tree,
    random_transitions,
)

# Steps until an episode terminates, steps until a time limit cuts it.
TASKS = [(3, 100), (100, 4), (5, 5), (100, 100)]


def policy_for(env: ClockVectorEnv):
    seed_global_generators(0)
    return build_sac(
        env.single_observation_space, env.single_action_space, CONTEXT_DIM, hidden_sizes=(8,)
    ).policy


def rollout(env=None, *, seed: int = 0, torch_seed: int = 0, steps: int = 12, **options) -> Rollout:
    env = env or ClockVectorEnv(len(TASKS))
    policy = options.pop("policy", None) or policy_for(env)
    seed_global_generators(torch_seed)
    options.setdefault("contexts", np.zeros((len(TASKS), CONTEXT_DIM), np.float32))
    options.setdefault("tasks", TASKS)
    return collect(
        env,
        options.pop("tasks"),
        policy,
        options.pop("contexts"),
        steps=steps,
        generator=np.random.default_rng(seed),
        **options,
    )


def columns(result: Rollout) -> dict[str, torch.Tensor]:
    names = ("obs", "act", "rew", "obs_next", "terminated")
    values = {name: getattr(result.transitions, name) for name in names}
    return {**values, "truncated": torch.from_numpy(result.truncated)}


def test_the_generators_fix_a_rollout_and_nothing_is_carried_over():
    env = ClockVectorEnv(len(TASKS))
    first = columns(rollout(env))
    assert_same_tree(columns(rollout(env)), first)
    other_starts = columns(rollout(env, seed=1))
    assert not torch.equal(other_starts["obs"], first["obs"])
    other_actions = columns(rollout(env, torch_seed=1))
    assert torch.equal(other_actions["obs"][:, 0], first["obs"][:, 0])
    assert not torch.equal(other_actions["act"], first["act"])


def test_deterministic_rollouts_draw_no_actions():
    first, second = (columns(rollout(torch_seed=s, explore=False)) for s in (0, 1))
    assert_same_tree(first, second)
    assert not torch.equal(first["act"], columns(rollout())["act"])


def test_every_slot_starts_afresh_and_runs_its_own_task():
    result = columns(rollout())
    assert result["obs"].shape == (len(TASKS), 12, OBS_DIM)
    assert result["act"].shape == (len(TASKS), 12, ACT_DIM)
    for slot, (terminates, cut) in enumerate(TASKS):
        length = min(terminates, cut)
        clock = np.arange(12) % length
        np.testing.assert_array_equal(result["obs"][slot, :, 0], clock)
        # The observation that ended an episode, not the next one's first.
        np.testing.assert_array_equal(result["obs_next"][slot, :, 0], clock + 1)
        ends = clock + 1 == length
        np.testing.assert_array_equal(result["terminated"][slot], ends & (terminates == length))
        # What terminates is not also cut.
        np.testing.assert_array_equal(result["truncated"][slot], ends & (terminates != length))
        assert (result["obs"][slot, :, 2] == terminates).all()
        starts = result["obs"][slot, :, 1]
        assert (result["obs_next"][slot, :, 1] == starts).all()
        assert len(set(starts.tolist())) == len(np.unique(np.arange(12) // length))


def test_actions_are_stored_in_the_policys_range_and_mapped_to_the_environments():
    env = ClockVectorEnv(len(TASKS))
    result = columns(rollout(env))
    stored = result["act"].numpy()
    assert np.abs(stored).max() <= 1
    low, high = env.single_action_space.low, env.single_action_space.high
    received = np.stack(env.received, axis=1)
    np.testing.assert_allclose(received, low + (stored + 1) / 2 * (high - low), rtol=1e-5)
    assert received[..., 1].max() > 2  # beyond the policy's own range
    np.testing.assert_allclose(result["rew"], received.sum(-1), rtol=1e-5)


def test_the_policy_sees_each_slots_context_which_is_not_stored():
    env = ClockVectorEnv(len(TASKS))
    contexts = np.arange(2 * len(TASKS), dtype=np.float64).reshape(-1, 2)
    policy, observed = policy_for(env), []

    def forward(batch, **_):
        observed.append(np.array(batch.obs))
        return Batch(act=torch.full((len(batch.obs), ACT_DIM), 0.5))

    policy.forward = forward
    result = columns(rollout(env, policy=policy, contexts=contexts, explore=False))
    assert len(observed) == 12
    for step, asked in enumerate(observed):
        assert asked.dtype == np.float32
        np.testing.assert_array_equal(asked[:, OBS_DIM:], contexts)
        np.testing.assert_array_equal(asked[:, :OBS_DIM], result["obs"][:, step])
    assert (result["act"] == 0.5).all()


def test_without_a_context_the_policy_sees_observations_alone():
    env = ClockVectorEnv(len(TASKS))
    policy = build_sac(
        env.single_observation_space, env.single_action_space, 0, hidden_sizes=(8,)
    ).policy
    result = rollout(env, policy=policy, contexts=np.zeros((len(TASKS), 0)))
    assert result.transitions.obs.shape[-1] == OBS_DIM


@given(
    ends=st.lists(
        st.lists(st.sampled_from(["", "terminated", "truncated"]), min_size=4, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_first_returns_are_those_of_the_first_episodes(ends):
    shape = (len(ends), 4)
    bare = random_transitions(*shape)
    terminated = torch.tensor([[end == "terminated" for end in slot] for slot in ends])
    truncated = np.array([[end == "truncated" for end in slot] for slot in ends])
    transitions = Transitions(bare.obs, bare.act, bare.rew, bare.obs_next, terminated)
    expected = []
    for slot, names in enumerate(ends):
        total = 0.0
        for step, end in enumerate(names):
            total += float(bare.rew[slot, step])
            if end:
                break
        expected.append(total)
    np.testing.assert_allclose(Rollout(transitions, truncated).first_returns, expected, atol=1e-9)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_refuses_another_way_of_restarting(mode):
    with pytest.raises(ValueError, match=r"autoreset mode SAME_STEP, got .*" + mode.name):
        rollout(ClockVectorEnv(len(TASKS), autoreset_mode=mode))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": TASKS[:3]}, "4 slots, got 3 tasks"),
        ({"contexts": np.zeros((3, CONTEXT_DIM))}, "4 slots, got 4 tasks and 3 contexts"),
        ({"steps": 0}, "steps >= 1, got 0"),
    ],
)
def test_refuses_counts_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        rollout(**options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_contexts_that_are_not_finite(value):
    with pytest.raises(ValueError, match="contexts"):
        rollout(contexts=np.full((len(TASKS), CONTEXT_DIM), value))


# Policies -----------------------------------------------------------------------------------

OBS = np.random.default_rng(0).normal(size=(6, OBS_DIM + CONTEXT_DIM)).astype(np.float32)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_acts_in_the_policys_range_and_leaves_it_as_it_was(name):
    seed_global_generators(0)
    policy = ALGORITHMS[name]().policy
    explored = [act(policy, OBS, explore=True) for _ in range(2)]
    certain = [act(policy, OBS, explore=False) for _ in range(2)]
    for action in explored + certain:
        assert action.shape == (6, ACT_DIM)
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1
    assert not np.array_equal(*explored)
    assert np.array_equal(*certain)
    assert not np.array_equal(explored[0], certain[0])
    assert not policy.is_within_training_step


def test_exploration_noise_is_clipped_too():
    policy = ALGORITHMS["TD3"]().policy
    policy.exploration_noise._sigma = 50.0
    action = act(policy, OBS, explore=True)
    assert set(np.abs(action[np.abs(action) > 0.99])) == {1.0}


@pytest.mark.parametrize("name", ["build_sac", "SAC", "REDQ"])
@pytest.mark.parametrize("explore", [False, True])
def test_a_relabeling_policy_acts_as_the_policy_under_its_context(name, explore):
    policy = ALGORITHMS[name]().policy
    context = torch.tensor([0.3, -0.8])
    obs = torch.from_numpy(OBS[:, :OBS_DIM])
    seed_global_generators(5)
    action = relabeling_policy(policy, context, explore=explore)(obs)
    seed_global_generators(5)
    expected = act(policy, np.concatenate((obs, context.expand(6, -1)), axis=1), explore=explore)
    np.testing.assert_allclose(action, expected, rtol=1e-6)
    assert not action.requires_grad
    other = relabeling_policy(policy, -context, explore=False)(obs)
    assert not torch.equal(other, action)


def test_acting_deterministically_draws_nothing():
    policy = ALGORITHMS["SAC"]().policy
    before = global_generator_state()
    act(policy, OBS, explore=False)
    relabeling_policy(policy, torch.zeros(CONTEXT_DIM), explore=False)(
        torch.from_numpy(OBS[:, :OBS_DIM])
    )
    assert_same_tree(global_generator_state(), before)
