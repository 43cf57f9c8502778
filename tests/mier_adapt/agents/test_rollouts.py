import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from tianshou.data import Batch

from mier_adapt import Transitions
from mier_adapt._storage.randomness import seed_global_generators
from mier_adapt.agents import collect
from mier_adapt.agents.rollouts import Rollout, collect_episodes
from mier_adapt.integration import PolicyActor, build_sac

from ..doubles import (
    ACT_DIM,
    CONTEXT_DIM,
    OBS_DIM,
    ClockVectorEnv,
    DriftEnv,
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
    contexts = options.pop("contexts", torch.zeros(CONTEXT_DIM))
    actor = options.pop("actor", None) or PolicyActor(policy, contexts)
    seed_global_generators(torch_seed)
    return collect(
        env,
        options.pop("tasks", TASKS),
        actor,
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


class Executing(gymnasium.Wrapper):
    """Remembers what it was given."""

    def __init__(self, env) -> None:
        super().__init__(env)
        self.given = []

    def step(self, action):
        self.given.append(np.array(action))
        return super().step(action)


def filtered(act_filter, *, low=-2.0, high=6.0, steps=15):
    """A rollout of random actions through a filter, and what the environment was given."""
    env = Executing(DriftEnv())
    env.action_space = gymnasium.spaces.Box(low, high, (ACT_DIM,), np.float32)
    draws = np.random.default_rng(7)

    class Random:
        def act(self, obs, *, explore):
            return draws.uniform(-1, 1, (len(obs), ACT_DIM)).astype(np.float32)

    slots = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
    made = rollout(slots, actor=Random(), tasks=None, steps=steps, act_filter=act_filter)
    return columns(made), np.array(env.given)


@given(limit=st.floats(0.0, 8.0), shift=st.floats(-1.0, 1.0), share=st.floats(0.0, 1.0))
def test_what_a_filter_lets_pass_is_executed_and_recorded(limit, shift, share):
    asked = []

    def act_filter(obs, act):
        asked.append((obs.copy(), act.copy()))
        act[:] = np.clip(share * act + shift, max(-limit, -2), min(limit, 6))
        return act

    result, given = filtered(act_filter)
    assert np.abs(given).max() <= limit + 1e-6
    recorded = -2 + 8 * (result["act"][0].numpy() + 1) / 2
    np.testing.assert_allclose(recorded, given, atol=1e-6)
    np.testing.assert_array_equal([obs for obs, _ in asked], result["obs"][0])
    assert result["act"].abs().max() <= 1
    # What was asked for is what would have been executed, in the same units.
    np.testing.assert_array_equal([act for _, act in asked], filtered(None)[1])


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-2.0, 6.0), (0.3, 0.7)])
def test_a_filter_that_lets_everything_pass_changes_no_bit(bounds):
    low, high = bounds
    assert_same_tree(
        filtered(lambda obs, act: act, low=low, high=high)[0], filtered(None, low=low, high=high)[0]
    )


@pytest.mark.filterwarnings("error:.*:RuntimeWarning")
def test_a_filter_where_an_action_has_no_choice():
    low, high = np.array([-1, 3], np.float32), np.array([1, 3], np.float32)
    result, given = filtered(lambda obs, act: act / np.array([2, 1]), low=low, high=high)
    assert (given[:, 1] == 3).all()
    np.testing.assert_allclose(result["act"][0, :, 0], given[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    "returned",
    [
        np.zeros(3),
        np.zeros((1, ACT_DIM)),
        0.0,
        np.full(ACT_DIM, np.nan),
        np.full(ACT_DIM, 6.1),
        np.array([0.0, -np.inf]),
        None,
        "x",
        [[1.0], [2.0, 3.0]],
    ],
)
def test_what_a_filter_may_not_return_never_reaches_the_environment(returned):
    env = Executing(DriftEnv())
    slots = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
    actor = PolicyActor(build_sac(_box(), env.action_space, 0).policy, torch.zeros(0))
    with pytest.raises(ValueError, match=r"collect expected .*act_filter"):
        rollout(slots, actor=actor, tasks=None, act_filter=lambda obs, act: returned)
    assert env.given == []


def _box():
    return gymnasium.spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32)


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
    contexts = torch.arange(2.0 * len(TASKS), dtype=torch.float64).reshape(-1, 2)
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
    result = rollout(env, policy=policy, contexts=torch.zeros(0))
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


def test_refuses_another_way_of_restarting():
    with pytest.raises(ValueError, match=r"autoreset mode SAME_STEP, got .*NEXT_STEP"):
        rollout(ClockVectorEnv(len(TASKS), autoreset_mode=AutoresetMode.NEXT_STEP))


class Policy:
    """Pushes by what it sees."""

    def act(self, obs, *, explore):
        return np.tanh(obs[:, :ACT_DIM]).astype(np.float32)


def drifts(mode, count: int = 3) -> SyncVectorEnv:
    return SyncVectorEnv(
        [lambda: gymnasium.wrappers.TimeLimit(DriftEnv(strength=0.7), 7)] * count,
        autoreset_mode=mode,
    )


def test_without_autoreset_it_restarts_what_has_ended_and_gives_the_same():
    same, none = (
        collect(drifts(mode), None, Policy(), steps=20, generator=np.random.default_rng(0))
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
    )
    assert same.truncated.any()
    assert same.transitions.terminated.any()
    np.testing.assert_array_equal(same.truncated, none.truncated)
    for name in ("obs", "act", "rew", "obs_next", "terminated"):
        assert torch.equal(getattr(same.transitions, name), getattr(none.transitions, name))


@pytest.mark.parametrize("autoreset", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_an_actor_that_asks_for_it_is_told_where_episodes_start(autoreset):
    """Also where one is cut, and not where none follows any more."""
    told = []

    class Told:
        def start_episodes(self, starting):
            told.append((steps, starting.tolist()))

        def act(self, obs, *, explore):
            nonlocal steps
            steps += 1
            return np.zeros((len(obs), ACT_DIM), np.float32)

    steps = 0
    made = collect(drifts(autoreset), None, Told(), steps=14, generator=np.random.default_rng(0))
    over = made.transitions.terminated.numpy() | made.truncated
    assert over[:, -1].any()
    expected = [(step + 1, over[:, step].tolist()) for step in range(13) if over[:, step].any()]
    assert told == [(0, [True] * 3), *expected]


class Remembers(Policy):
    """Keeps what it is told, and acts more strongly the more that is."""

    def __init__(self) -> None:
        self.told = []

    def act(self, obs, *, explore):
        return np.tanh(super().act(obs, explore=explore) + len(self.told)).astype(np.float32)

    def remember(self, act, rew):
        self.told.append((act, rew))


@pytest.mark.parametrize("halved", [False, True])
def test_an_actor_that_remembers_is_told_what_was_executed_and_its_reward(halved):
    """After every step, the last one and those that end episodes included."""
    actor = Remembers()
    made = collect(
        drifts(AutoresetMode.SAME_STEP),
        None,
        actor,
        steps=14,
        generator=np.random.default_rng(0),
        act_filter=(lambda obs, act: act / 2) if halved else None,
    )
    assert (made.transitions.terminated.numpy() | made.truncated).any()
    acts, rews = (torch.from_numpy(np.stack(each, 1)) for each in zip(*actor.told, strict=True))
    assert torch.equal(acts, made.transitions.act)
    assert torch.equal(rews, made.transitions.rew)
    assert bool((acts.abs() <= 0.5).all()) == halved


def test_it_stops_when_every_first_episode_has_ended():
    whole, stopped = (
        collect(
            drifts(AutoresetMode.DISABLED),
            None,
            Policy(),
            steps=20,
            generator=np.random.default_rng(0),
            until_end=until_end,
        )
        for until_end in (False, True)
    )
    ended = stopped.transitions.terminated.numpy() | stopped.truncated
    assert ended.any(1).all()
    assert not ended[:, :-1].any(1).all()
    np.testing.assert_array_equal(stopped.first_returns, whole.first_returns)


def test_an_interrupted_rollout_hands_over_its_whole_steps():
    class Interrupted(Policy):
        asked = 0

        def act(self, obs, *, explore):
            self.asked += 1
            if self.asked == 6:
                raise KeyboardInterrupt
            return super().act(obs, explore=explore)

    handed: list[Rollout] = []
    options = {"steps": 9, "generator": np.random.default_rng(0)}
    with pytest.raises(KeyboardInterrupt):
        collect(
            drifts(AutoresetMode.DISABLED),
            None,
            Interrupted(),
            on_interrupt=handed.append,
            **options,
        )
    (rollout,) = handed
    options["generator"] = np.random.default_rng(0)
    whole = collect(drifts(AutoresetMode.DISABLED), None, Policy(), **options)
    assert torch.equal(rollout.transitions.obs_next, whole.transitions.obs_next[:, :5])


def test_an_observation_that_is_not_finite_at_the_start_is_named():
    class Broken(DriftEnv):
        def reset(self, **options):
            return super().reset(**options)[0] * np.float32(np.nan), {}

    env = SyncVectorEnv([Broken], autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(FloatingPointError, match="first observation at step 0 in task mine"):
        collect(env, None, Policy(), steps=2, generator=np.random.default_rng(0), names=["mine"])


@pytest.mark.parametrize("autoreset", [AutoresetMode.DISABLED, AutoresetMode.SAME_STEP])
def test_an_observation_that_is_not_finite_at_a_later_start_costs_no_whole_step(autoreset):
    class BrokenLater(DriftEnv):
        resets = 0

        def reset(self, **options):
            self.resets += 1
            obs, info = super().reset(**options)
            return (obs * np.float32(np.nan) if self.resets == 2 else obs), info

    env = SyncVectorEnv(
        [lambda: gymnasium.wrappers.TimeLimit(BrokenLater(), 3)], autoreset_mode=autoreset
    )
    handed: list[Rollout] = []
    with pytest.raises(FloatingPointError, match="observation at step 3 in task mine"):
        collect(
            env,
            None,
            Pushes(),
            steps=9,
            generator=np.random.default_rng(0),
            names=["mine"],
            on_interrupt=handed.append,
        )
    (kept,) = handed
    assert kept.transitions.obs.shape[:2] == (1, 3)
    assert kept.truncated.tolist() == [[False, False, True]]


@pytest.mark.parametrize("autoreset", [AutoresetMode.DISABLED, AutoresetMode.SAME_STEP])
def test_an_unstable_simulation_is_told(autoreset, caplog):
    class Unstable(DriftEnv):
        steps = 0

        def step(self, action):
            self.steps += 1
            obs, rew, terminated, truncated, info = super().step(action)
            return (
                obs,
                rew,
                terminated,
                truncated or self.steps == 2,
                info | {"unstable": "mjWARN_BADQACC" if self.steps == 2 else None},
            )

    env = SyncVectorEnv([Unstable], autoreset_mode=autoreset)
    collect(env, None, Pushes(), steps=4, generator=np.random.default_rng(0), names=["mine"])
    assert caplog.messages == [
        "The simulation of task mine became unstable at step 1 (mjWARN_BADQACC); that episode ends."
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": TASKS[:3]}, "4 slots, got 3 tasks"),
        ({"contexts": torch.zeros(3, CONTEXT_DIM)}, "N a multiple of 3 tasks"),
        ({"steps": 0}, "steps >= 1, got 0"),
    ],
)
def test_refuses_counts_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        rollout(**options)


class Pushes:
    """An actor of no policy at all."""

    def __init__(self, action: float = 0.25) -> None:
        self.action = action
        self.asked: list[tuple[tuple[int, ...], bool]] = []

    def act(self, obs, *, explore):
        self.asked.append((obs.shape, explore))
        return np.full((len(obs), ACT_DIM), self.action, np.float32)


def test_anything_that_acts_can_be_run():
    actor = Pushes()
    for explore in (True, False):
        result = rollout(actor=actor, steps=3, explore=explore)
        assert (result.transitions.act == 0.25).all()
    assert actor.asked == [((4, OBS_DIM), explore) for explore in (True, False) for _ in range(3)]


def test_what_does_not_act_is_refused():
    with pytest.raises(TypeError, match=r"(?s)actor to be an? Actor, .* has no act\."):
        rollout(actor=policy_for(ClockVectorEnv(4)))


def test_an_action_that_is_not_finite_names_the_step_and_the_task():
    with pytest.raises(FloatingPointError, match=r"action at step 0 in task \(3, 100\)"):
        rollout(actor=Pushes(np.nan))


@pytest.mark.parametrize("remembers", [False, True])
def test_whole_episodes_are_cut_where_they_end(remembers):
    actor = Remembers() if remembers else Pushes()
    options = {"episode_steps": 5, "generator": np.random.default_rng(0)}
    for steps, ends in ((10, True), (4, False)):
        tasks = [(100, 100), (5, 100), (3, 100)]
        for (terminates, _), made in zip(
            tasks,
            collect_episodes(ClockVectorEnv, tasks, actor, steps=steps, **options),
            strict=True,
        ):
            cut = ends and terminates != 5
            assert (made.truncated[:, -1] == cut).all()
            assert not made.truncated[:, :-1].any()


@pytest.mark.parametrize(("steps", "shape"), [(12, (3, 5)), (15, (3, 5)), (5, (1, 5)), (2, (1, 2))])
def test_episodes_of_several_tasks_run_side_by_side(steps, shape):
    sizes = []

    def env_of_size(num_envs):
        sizes.append(num_envs)
        return ClockVectorEnv(num_envs)

    rollouts = collect_episodes(
        env_of_size,
        TASKS[1:],
        Pushes(),
        steps=steps,
        episode_steps=5,
        generator=np.random.default_rng(0),
    )
    assert sizes == [3 * shape[0]]
    for (terminates, _), result in zip(TASKS[1:], rollouts, strict=True):
        assert result.transitions.rew.shape == result.truncated.shape == shape
        assert (result.transitions.obs[..., 2] == terminates).all()
        assert len(np.unique(result.transitions.obs[:, 0, 1])) == shape[0]  # starts of their own


@pytest.mark.parametrize("until_end", [False, True])
@pytest.mark.parametrize(("steps", "shape"), [(12, (3, 5)), (5, (1, 5)), (2, (1, 2))])
def test_episodes_of_an_actor_that_remembers_follow_each_other(steps, shape, until_end):
    class Counts(Pushes):
        def __init__(self) -> None:
            super().__init__()
            self.steps = 0

        def act(self, obs, *, explore):
            assert len(obs) == 3
            return np.full((3, ACT_DIM), self.steps / 100, np.float32)

        def remember(self, act, rew):
            self.steps += 1

    rollouts = collect_episodes(
        ClockVectorEnv,
        TASKS[1:],
        Counts(),
        steps=steps,
        episode_steps=5,
        generator=np.random.default_rng(0),
        until_end=until_end,
    )
    expected = torch.arange(shape[0] * shape[1]).reshape(shape) / 100
    for (terminates, _), result in zip(TASKS[1:], rollouts, strict=True):
        assert result.transitions.rew.shape == result.truncated.shape == shape
        assert (result.transitions.obs[..., 2] == terminates).all()
        assert (result.transitions.obs[:, 0, 0] == 0).all()
        assert len(np.unique(result.transitions.obs[:, 0, 1])) == shape[0]
        torch.testing.assert_close(result.transitions.act[..., 0], expected)
