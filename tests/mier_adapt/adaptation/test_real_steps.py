"""What an adaptation makes an environment do is counted, and what it gathered is kept."""

import dataclasses
import threading

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorWrapper
from hypothesis import given, settings
from hypothesis import strategies as st

from mier_adapt import NewTask, adapt, adapt_algorithm, load_run
from mier_adapt._storage import checkpoints
from mier_adapt._storage.checkpoints import load_tree
from mier_adapt.adaptation import (
    AlwaysGate,
    MarginGate,
    NeverGate,
    identification,
    own_policy,
)
from mier_adapt.agents import ContinueConfig, FamilyEnvs

from ..doubles import (
    ACT_DIM,
    CountedEnv,
    DriftEnv,
    assert_same_tree,
    random_transitions,
    small_sac,
)
from .test_foreign_agents import (
    CONFIG,
    STEPS,
    WITHOUT_CONTEXT,
    adapter_of,
    agent_of,
    task_of,
)


class BreaksError(RuntimeError):
    """What an environment raises."""


class Ends(gymnasium.Wrapper):
    """Ends every episode after a number of steps, and breaks after a number of steps in all."""

    def __init__(self, env, *, terminates=None, truncates=None, breaks=None) -> None:
        super().__init__(env)
        self.terminates, self.truncates, self.breaks = terminates, truncates, breaks
        self.clock = self.taken = 0

    def reset(self, **options):
        self.clock = 0
        return super().reset(**options)

    def step(self, action):
        if self.taken == self.breaks:
            raise BreaksError
        self.clock, self.taken = self.clock + 1, self.taken + 1
        obs, rew, *_, info = super().step(action)
        return obs, rew, self.clock == self.terminates, self.clock == self.truncates, info


def counted(**ends) -> CountedEnv:
    return CountedEnv(Ends(DriftEnv(strength=-1.0), **ends))


def totals(report) -> tuple[int, int]:
    """Steps and resets that a report speaks of."""
    steps = report.real_transitions + report.gate_transitions + report.evaluation_transitions
    return steps, sum(report.resets.values())


# Counting -----------------------------------------------------------------------------------


@settings(max_examples=12)
@given(
    terminates=st.none() | st.integers(1, 12),
    truncates=st.none() | st.integers(1, 12),
    evaluation_episodes=st.integers(0, 2),
    gate_episodes=st.integers(0, 2),
    logged=st.integers(0, 40),
)
def test_the_report_says_what_the_environment_did(
    terminates, truncates, evaluation_episodes, gate_episodes, logged
):
    gate = MarginGate(episodes=gate_episodes) if gate_episodes else AlwaysGate()
    env = counted(terminates=terminates, truncates=truncates)
    report = adapt(
        agent_of(),
        task_of(env),
        dataclasses.replace(CONFIG, gate=gate),
        seed=0,
        evaluation_episodes=evaluation_episodes,
        logged=random_transitions(logged) if logged else None,
    ).report
    assert totals(report) == (env.steps, env.resets)
    assert report.real_transitions == max(0, CONFIG.adaptation_steps - logged)
    assert report.logged_transitions == logged
    length = min(STEPS, terminates or STEPS, truncates or STEPS)
    assert report.gate_transitions == len(report.gate_returns) * gate_episodes * length
    assert report.evaluation_transitions == len(report.returns) * evaluation_episodes * length
    assert str(report).startswith("drift, seed 0.")
    assert bool(report.returns) == bool(evaluation_episodes)


def test_so_does_that_of_a_policy_of_ones_own():
    env = CountedEnv(gymnasium.wrappers.TimeLimit(Ends(DriftEnv(), terminates=4), STEPS))
    report = adapt_algorithm(
        small_sac(context_dim=0),
        env,
        [random_transitions(30)],
        seed=0,
        config=WITHOUT_CONTEXT,
        adapter=adapter_of(context_dim=0),
        termination_fn=DriftEnv.ends,
        evaluation_episodes=1,
    ).report
    assert totals(report) == (env.steps, env.resets)


def test_and_that_of_a_run_in_its_batched_environments(negated_joints_run, negated_joints_envs):
    seen = {"steps": 0, "resets": 0}

    class Watched(VectorWrapper):
        def reset(self, **options):
            seen["resets"] += self.num_envs
            return super().reset(**options)

        def step(self, actions):
            seen["steps"] += self.num_envs
            outcome = super().step(actions)
            seen["resets"] += int((outcome[2] | outcome[3]).sum())
            return outcome

    class WatchedEnvs(FamilyEnvs):
        def of_size(self, num_envs):
            return Watched(super().of_size(num_envs))

    run = load_run(negated_joints_run, negated_joints_envs)
    with WatchedEnvs(run.task_set, num_threads=1) as envs:
        task = run.new_task(envs, run.task_set[12])
        report = adapt(run, task, run.adapt_config, seed=0, evaluation_episodes=3).report
    assert totals(report) == (seen["steps"], seen["resets"])


# Logged before ------------------------------------------------------------------------------


def log_of(count, **options):
    """No end of an episode that the rule would miss."""
    made = random_transitions(count, **options)
    return dataclasses.replace(made, terminated=torch.zeros(count, dtype=torch.bool))


def from_log(env, logged, config=CONFIG, **options):
    given = {"seed": 0, "evaluation_episodes": 0, **options}
    return adapt(agent_of(), task_of(env), config, logged=logged, **given)


@pytest.mark.parametrize("gate", [AlwaysGate(), NeverGate()])
@pytest.mark.parametrize("logged", [CONFIG.adaptation_steps, 3 * CONFIG.adaptation_steps])
def test_a_log_that_is_long_enough_leaves_the_environment_alone(gate, logged):
    env, log = counted(), log_of(logged)
    adaptation = from_log(env, log, dataclasses.replace(CONFIG, gate=gate))
    assert (env.steps, env.resets) == (0, 0)
    report = adaptation.report
    assert totals(report) == (0, 0)
    assert report.logged_transitions == logged
    assert f"{logged:,} real transitions were logged before." in str(report)
    assert report.updates == 6  # it learned all the same
    assert_same_tree(vars(adaptation.transitions), vars(log))


def test_so_does_one_of_a_policy_of_ones_own():
    env = CountedEnv(gymnasium.wrappers.TimeLimit(DriftEnv(), STEPS))
    log = log_of(25, dtype=torch.float64)
    adaptation = adapt_algorithm(
        small_sac(context_dim=0),
        env,
        [random_transitions(30)],
        seed=0,
        config=dataclasses.replace(WITHOUT_CONTEXT, gate=AlwaysGate()),
        adapter=adapter_of(context_dim=0),
        termination_fn=DriftEnv.ends,
        evaluation_episodes=0,
        logged=log,
    )
    assert (env.steps, env.resets) == (0, 0)
    assert adaptation.report.decision == "relabeled"
    assert_same_tree(vars(adaptation.transitions), vars(log.to(torch.float32)))


def test_a_log_is_as_good_as_gathering():
    gathered = from_log(counted(), None)
    assert len(gathered.transitions) == CONFIG.adaptation_steps
    again = from_log(counted(), gathered.transitions)
    assert torch.equal(again.context, gathered.context)
    assert_same_tree(vars(again.transitions), vars(gathered.transitions))


@pytest.mark.parametrize("logged", [5, 13, 20])
def test_what_a_log_lacks_is_gathered_behind_it(logged):
    log = random_transitions(logged)
    adaptation = from_log(counted(), log)
    assert adaptation.report.real_transitions == CONFIG.adaptation_steps - logged
    assert_same_tree(vars(adaptation.transitions[:logged]), vars(log))
    assert len(adaptation.transitions) == CONFIG.adaptation_steps


def test_a_checkpoint_is_of_one_log_and_keeps_what_was_gathered_beside_it(tmp_path):
    path, log = tmp_path / "real", random_transitions(10)
    env = counted(breaks=9)
    with pytest.raises(BreaksError):
        from_log(env, log, checkpoint=path)
    assert len(load_tree(path)["real"]["rew"]) == 9
    env.env.breaks = None
    for other in (None, log[:9], random_transitions(10, seed=1)):
        with pytest.raises(ValueError, match="is of another adaptation: logged differ"):
            from_log(env, other, checkpoint=path)
    assert env.steps == 10  # the one that broke
    adaptation = from_log(env, log, checkpoint=path)
    assert adaptation.report.real_transitions == CONFIG.adaptation_steps - len(log) + 1
    assert totals(adaptation.report) == (env.steps, env.resets)
    assert_same_tree(vars(adaptation.transitions[:10]), vars(log))


@pytest.mark.parametrize(
    ("logged", "match"),
    [
        (random_transitions(25, obs_dim=4), r"logged with \(3, 2\) dimensions .* got \(4, 2\)"),
        (random_transitions(25, act_dim=1), r"logged with \(3, 2\) dimensions .* got \(3, 1\)"),
        (random_transitions(5, 5), r"logged of one task, transitions \(B, \.\.\.\), got"),
        (
            dataclasses.replace(random_transitions(25), act=torch.full((25, ACT_DIM), 1.5)),
            r"actions of logged in \[-1, 1\], got values from 1\.5 to 1\.5",
        ),
    ],
)
def test_a_log_that_does_not_fit_is_refused_before_anything_costly(logged, match, monkeypatch):
    env = CountedEnv(gymnasium.wrappers.TimeLimit(DriftEnv(), STEPS))
    with pytest.raises(ValueError, match=f"adapt expected.* {match}"):
        from_log(env, logged)
    monkeypatch.setattr(own_policy, "meta_train_offline", None)  # which would train a model
    with pytest.raises(ValueError, match=f"adapt_algorithm expected.* {match}"):
        adapt_algorithm(
            small_sac(context_dim=0), env, [random_transitions(30)], seed=0, config=WITHOUT_CONTEXT,
            termination_fn=DriftEnv.ends, logged=logged,
        )  # fmt: skip
    assert (env.steps, env.resets) == (0, 0)


# Safety limits ------------------------------------------------------------------------------


class Executed(gymnasium.Wrapper):
    """Remembers what it was given."""

    def __init__(self, env) -> None:
        super().__init__(env)
        self.given = []

    def step(self, action):
        self.given.append(np.array(action))
        return super().step(action)


def gentle(obs, act):
    """Clips, and more so far out."""
    return np.clip(act, -0.5, 0.25 if np.abs(obs).max() > 1 else 0.5)


def test_a_filter_stands_before_every_step_whatever_that_is_for():
    env = Executed(counted(truncates=STEPS))
    agent = agent_of()
    rounds = ContinueConfig(weight_steps=1, relabel_size=9, updates=1)
    adaptation = adapt(
        agent,
        task_of(env, act_filter=gentle),
        CONFIG,
        seed=0,
        evaluation_episodes=1,
        budget=40,
        rounds=rounds,
    )
    report = adaptation.report
    spent = [report.real_transitions, report.gate_transitions, report.evaluation_transitions]
    assert min(*spent, report.continued_transitions) > 0
    given = np.array(env.given)
    assert len(given) == sum(spent) + report.continued_transitions
    assert np.abs(given).max() == 0.5  # it was needed
    gathered = adaptation.transitions
    np.testing.assert_allclose(gathered.act, given[: len(gathered)], atol=1e-6)
    for obs, act in zip(gathered.obs, gathered.act, strict=True):
        assert (act <= (0.25 if obs.abs().max() > 1 else 0.5)).all()


def test_so_it_does_for_a_policy_of_ones_own():
    env = Executed(gymnasium.wrappers.TimeLimit(DriftEnv(strength=-1.0), STEPS))
    adaptation = adapt_algorithm(
        small_sac(context_dim=0),
        env,
        [log_of(30)],
        seed=0,
        config=WITHOUT_CONTEXT,
        adapter=adapter_of(context_dim=0),
        termination_fn=DriftEnv.ends,
        evaluation_episodes=1,
        act_filter=gentle,
    )
    assert np.abs(env.given).max() == 0.5
    act = adaptation.transitions.act
    report = adaptation.report
    first = len(env.given) - report.gate_transitions - report.evaluation_transitions
    assert first == len(act)
    np.testing.assert_allclose(act, env.given[:first], atol=1e-6)


def test_a_filter_that_fails_loses_nothing_that_was_gathered(tmp_path):
    calls = []

    def fails(obs, act):
        calls.append(act)
        return act if len(calls) <= 7 else act[:1]

    env, path = counted(), tmp_path / "real"
    task = task_of(env, act_filter=fails)
    with pytest.raises(ValueError, match=r"act_filter .* at step 7 in task drift"):
        adapt(agent_of(), task, CONFIG, seed=0, checkpoint=path, evaluation_episodes=0)
    assert env.steps == len(load_tree(path)["real"]["rew"]) == 7


# Keeping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("breaks", [3, 13, 20])
def test_what_was_gathered_before_an_error_is_kept_and_not_gathered_again(tmp_path, breaks):
    checkpoint = tmp_path / "real.safetensors"
    env = counted(terminates=7, breaks=breaks)
    agent, task = agent_of(), task_of(env)
    with pytest.raises(BreaksError):
        adapt(agent, task, CONFIG, seed=0, checkpoint=checkpoint, evaluation_episodes=0)
    kept = load_tree(checkpoint)["real"]
    assert len(kept["rew"]) == breaks
    spent = env.steps, env.resets
    env.env.breaks = None
    report = adapt(agent, task, CONFIG, seed=0, checkpoint=checkpoint, evaluation_episodes=0).report
    assert report.real_transitions == CONFIG.adaptation_steps + 1  # the one that broke
    assert totals(report) == (env.steps, env.resets)
    assert env.steps - spent[0] == CONFIG.adaptation_steps - breaks + report.gate_transitions
    for name, value in load_tree(checkpoint)["real"].items():
        torch.testing.assert_close(value[:breaks], kept[name], rtol=0, atol=0)


@pytest.mark.parametrize("goes", ["before it is read", "while it is read"])
def test_a_checkpoint_that_another_process_deletes_is_none(tmp_path, monkeypatch, goes):
    checkpoint = tmp_path / "real.safetensors"
    agent, task = agent_of(), task_of(counted())
    adapt(agent, task, CONFIG, seed=0, checkpoint=checkpoint, evaluation_episodes=0)
    module, name = {
        "before it is read": (identification, "load_tree"),
        "while it is read": (checkpoints, "_load_tree"),
    }[goes]
    read = getattr(module, name)

    def read_too_late(path):
        path.unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(module, name, read_too_late)
    report = adapt(agent, task, CONFIG, seed=0, checkpoint=checkpoint, evaluation_episodes=0).report
    assert report.real_transitions == CONFIG.adaptation_steps
    assert checkpoint.exists()  # anew


def test_a_checkpoint_asks_for_a_label_before_the_first_step(tmp_path):
    env = counted()
    task = NewTask.of_env(env, termination_fn=DriftEnv.ends, episode_steps=STEPS)
    with pytest.raises(ValueError, match=r"a task with a label to go with checkpoint.*label="):
        adapt(agent_of(), task, CONFIG, seed=0, checkpoint=tmp_path / "real.safetensors")
    assert (env.steps, env.resets) == (0, 0)


# Ends of episodes ---------------------------------------------------------------------------


def test_a_rule_that_misses_the_real_ends_keeps_models_from_relabeling():
    def never(obs, act, obs_next):
        return np.zeros(len(obs), bool)

    env = counted(terminates=5)
    report = adapt(
        agent_of(), task_of(env, termination_fn=never), CONFIG, seed=0, evaluation_episodes=1
    ).report
    assert "relabeled" not in report.returns
    assert report.synthetic_transitions == 0
    narrow = dataclasses.replace(CONFIG, refresh_updates=0)
    reason = adapt(agent_of(), task_of(env, termination_fn=never), narrow, seed=0).report.reason
    assert reason == (
        "4 of 4 real episodes ended where the rule for the end of episodes does not say so (give a "
        "right termination_fn)"
    )


def test_a_time_limit_around_an_environment_that_was_never_registered_is_enough():
    env = gymnasium.wrappers.TimeLimit(DriftEnv(), 6)
    assert NewTask.of_env(env).episode_steps == 6
    assert NewTask.of_env(gymnasium.wrappers.RecordEpisodeStatistics(env)).episode_steps == 6


@pytest.mark.parametrize("env", [DriftEnv, lambda: gymnasium.wrappers.TimeLimit(DriftEnv(), 60)])
def test_episodes_are_as_long_as_was_asked_for(env):
    task = NewTask.of_env(env(), label="robot", episode_steps=5)
    rollout = task.run(agent_of().initial_actor(1), steps=12, generator=np.random.default_rng(0))
    assert np.flatnonzero(rollout.truncated[0]).tolist() == [4, 9]


def test_the_recipe_of_a_task_ends_its_episodes_where_they_end():
    for env, steps in (
        (gymnasium.make("Pendulum-v1"), 50),
        (gymnasium.make("Pendulum-v1").unwrapped, 50),
        (gymnasium.make("Pendulum-v1"), None),
    ):
        task = NewTask.of_env(env, episode_steps=steps)
        assert task.environment["max_episode_steps"] == (steps or 200)


def test_an_environment_that_ends_sooner_is_refused():
    with pytest.raises(ValueError, match=r"NewTask\.of_env expected episode_steps of at most 200,"):
        NewTask.of_env(gymnasium.make("Pendulum-v1"), episode_steps=201)


# Side by side -------------------------------------------------------------------------------


def test_adaptations_in_threads_of_one_process_do_not_disturb_each_other():
    def report(seed: int):
        found = adapt(agent_of(), task_of(counted()), CONFIG, seed=seed, evaluation_episodes=1)
        return dataclasses.replace(found.report, seconds={})

    agents = agent_of()  # in the threads it would seed torch's generator, which they share
    alone = [report(seed) for seed in range(3)]
    found = {}

    def run(seed: int) -> None:
        task = task_of(counted())
        report = adapt(agents, task, CONFIG, seed=seed, evaluation_episodes=1).report
        found[seed] = dataclasses.replace(report, seconds={})

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(3)] == alone
