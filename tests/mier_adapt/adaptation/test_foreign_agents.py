"""Agents of one's own parts: other algorithms, with and without a context, and what is refused."""

import copy
import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import mier_adapt
from mier_adapt import (
    AdaptationSession,
    Agent,
    ContextModel,
    GradientContextAdapter,
    NewTask,
    adapt,
    load_run,
)
from mier_adapt.agents import AdaptConfig
from mier_adapt.integration import ContextReplayBuffer, algorithm_state

from ..doubles import (
    ACT_DIM,
    ALGORITHMS,
    CONTEXT_DIM,
    OBS_DIM,
    CountedEnv,
    DriftEnv,
    assert_same_tree,
    random_transitions,
    small_redq,
    small_sac,
    small_td3,
)

STEPS = 10
CONFIG = AdaptConfig(
    adaptation_steps=25,
    diagnose=False,
    context_steps=3,
    refresh_updates=2,
    num_models=2,
    weight_steps=3,
    rehearsal_batch_size=6,
    model_batch_size=4,
    validate_every=2,
    relabel_rounds=2,
    relabel_size=30,
    updates_per_round=3,
    batch_size=16,
)
WITHOUT_CONTEXT = dataclasses.replace(CONFIG, refresh_updates=0)


def drifting(*, steps: int = STEPS, **options) -> CountedEnv:
    return CountedEnv(gymnasium.wrappers.TimeLimit(DriftEnv(**options), steps))


def task_of(env, **options) -> NewTask:
    given = {"label": "drift", "termination_fn": DriftEnv.ends, "episode_steps": STEPS}
    return NewTask.of_env(env, **{**given, **options})


def replay_of(*, tasks: int = 4, context_dim: int = CONTEXT_DIM, obs_dim: int = OBS_DIM):
    logs = [random_transitions(30, seed=seed, obs_dim=obs_dim) for seed in range(tasks)]
    return ContextReplayBuffer.of(logs, context_dim=context_dim, generator=np.random.default_rng(0))


def adapter_of(*, context_dim: int = CONTEXT_DIM, **options) -> GradientContextAdapter:
    given = {"hidden_sizes": (8,), "generator": torch.Generator().manual_seed(0), **options}
    return GradientContextAdapter(ContextModel(OBS_DIM, ACT_DIM, context_dim, **given), lr=0.1)


def agent_of(algorithm="SAC", *, conditioned: bool = True, context_dim: int = CONTEXT_DIM):
    """An agent of stock parts; its policy sees the model's context, or nothing of it."""
    torch.manual_seed(0)
    seen = context_dim if conditioned else 0
    return Agent(
        adapter=adapter_of(context_dim=context_dim),
        algorithm=ALGORITHMS[algorithm](OBS_DIM, seen),
        replay=replay_of(context_dim=seen),
        conditioned=conditioned,
    )


@pytest.fixture
def identification(monkeypatch):
    """Numbers of steps that were taken while real transitions were gathered, by round."""
    spent, run = [], NewTask.run

    def watched(task, actor, *, explore=True, **options):
        (env,) = task.env_of_size(1).unwrapped.envs
        before = env.steps
        rollout = run(task, actor, explore=explore, **options)
        if explore:
            spent.append(env.steps - before)
        return rollout

    monkeypatch.setattr(NewTask, "run", watched)
    return spent


# Whole adaptations --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SAC", "TD3", "REDQ"])
@pytest.mark.parametrize(
    ("conditioned", "context_dim"), [(True, CONTEXT_DIM), (False, CONTEXT_DIM), (False, 0)]
)
def test_stock_algorithms_go_through_a_whole_adaptation(
    name, conditioned, context_dim, identification
):
    agent = agent_of(name, conditioned=conditioned, context_dim=context_dim)
    before = copy.deepcopy(algorithm_state(agent.algorithm))
    env = drifting(strength=-1.0)
    adaptation = adapt(
        agent,
        task_of(env),
        CONFIG if conditioned else WITHOUT_CONTEXT,
        seed=0,
        evaluation_episodes=2,
    )
    adapted, context, report = adaptation.algorithm, adaptation.context, adaptation.report
    stages = ["unchanged", "relabeled"]
    if conditioned:
        stages = ["initial context", "adapted context", "actor only", "relabeled"]
    assert list(report.returns) == stages
    assert list(report.gate_returns) == [stages[conditioned], "relabeled"]
    assert report.decision in report.gate_returns
    assert report.real_transitions == sum(identification) == 25
    assert identification == [13, 12]
    assert 2 <= report.gate_transitions <= 2 * STEPS
    assert len(stages) * 2 <= report.evaluation_transitions <= len(stages) * 2 * STEPS
    counted = report.real_transitions + report.gate_transitions + report.evaluation_transitions
    assert env.steps == counted
    assert (report.updates, report.synthetic_transitions) == (2 * 3, 2 * 30)
    assert report.novelty is not None
    assert report.validation_loss[2] <= report.validation_loss[1]
    assert context.shape == (context_dim,)
    assert context.any() == bool(context_dim)
    assert type(adapted) is type(agent.algorithm)
    assert_same_tree(algorithm_state(agent.algorithm), before)
    kept = dict(zip(adapted.state_dict(), adapted.policy.parameters(), strict=False))
    assert all(bool(value.isfinite().all()) for value in kept.values())


@pytest.mark.parametrize("name", ["SAC", "TD3", "REDQ"])
@pytest.mark.parametrize("stage", ["actor only", "relabeled"])
def test_each_stage_changes_what_it_should(name, stage):
    agent = agent_of(name)
    rounds = 2 if stage == "relabeled" else 0
    config = dataclasses.replace(
        CONFIG, relabel_rounds=rounds, gate=mier_adapt.adaptation.AlwaysGate()
    )
    adaptation = adapt(agent, task_of(drifting()), config, seed=0, evaluation_episodes=1)
    adapted, report = adaptation.algorithm, adaptation.report
    assert report.decision == stage

    def changed(part) -> bool:
        own, other = (part(each).state_dict() for each in (agent.algorithm, adapted))
        return any(not torch.equal(own[key], other[key]) for key in own)

    assert changed(lambda algorithm: algorithm.policy.actor)
    assert changed(lambda algorithm: algorithm.critic) == (stage == "relabeled")
    assert all(parameter.requires_grad for parameter in adapted.critic.parameters())


# Step sizes of identification ---------------------------------------------------------------


def test_later_context_steps_have_the_size_that_the_configuration_gives(
    negated_joints_run, negated_joints_envs
):
    run = load_run(negated_joints_run, negated_joints_envs)
    agent = Agent(adapter=run.adapter, algorithm=run.algorithm, replay=run.replay)
    task = run.new_task(negated_joints_envs, negated_joints_envs.task_set[12])
    config = dataclasses.replace(
        run.adapt_config, refresh_updates=0, weight_steps=0, relabel_rounds=0, num_models=1
    )

    def found(agent, **changes):
        changed = dataclasses.replace(config, **changes)
        return adapt(agent, task, changed, seed=0, evaluation_episodes=1)

    small, large = (found(agent, later_context_lr=lr) for lr in (0.001, 0.5))
    assert not torch.equal(small.context, large.context)
    own, again = found(agent), found(run)
    assert torch.equal(own.context, again.context)
    assert own.report.returns == again.report.returns
    assert_same_tree(algorithm_state(own.algorithm), algorithm_state(again.algorithm))
    # Steps that meta-training knows keep their size.
    few = [found(agent, later_context_lr=lr, context_steps=2) for lr in (0.001, 0.5)]
    assert torch.equal(few[0].context, few[1].context)


# Refused before the first real step ---------------------------------------------------------


def refused(agent, task, env, config, error, message, **options):
    with pytest.raises(error, match=message):
        adapt(agent, task, config, seed=0, **options)
    assert (env.steps, env.resets) == (0, 0)


@pytest.mark.parametrize("conditioned", [True, False])
def test_a_task_without_a_rule_for_the_end_is_refused_where_dynamics_vary(conditioned):
    agent, env = agent_of(conditioned=conditioned), drifting()
    task = task_of(env, termination_fn=None)
    config = CONFIG if conditioned else WITHOUT_CONTEXT
    refused(agent, task, env, config, ValueError, "adapt expected a task with termination_fn")
    config = dataclasses.replace(config, relabel_rounds=0)
    adapt(agent, task, config, seed=0, evaluation_episodes=1)
    assert env.steps > 0


@pytest.mark.parametrize(
    "rule",
    [
        lambda obs, act, obs_next: False,
        lambda obs, act, obs_next: np.zeros(len(obs)),
        lambda obs, act, obs_next: np.zeros((len(obs), 1), bool),
    ],
)
def test_a_rule_for_the_end_that_answers_otherwise_is_refused(rule):
    env = drifting()
    task = task_of(env, termination_fn=rule)
    message = "expected termination_fn to return bool of shape"
    refused(agent_of(), task, env, CONFIG, ValueError, f"adapt {message}")
    with pytest.raises(ValueError, match=f"AdaptationSession {message}"):
        AdaptationSession(agent_of(), CONFIG, seed=0, termination_fn=rule)


def test_where_rewards_alone_vary_no_rule_for_the_end_is_asked_for():
    agent = dataclasses.replace(agent_of(), adapter=adapter_of(varies="reward"))
    env = drifting()
    adaptation = adapt(
        agent, task_of(env, termination_fn=None), CONFIG, seed=0, evaluation_episodes=1
    )
    assert "relabeled" in adaptation.report.returns


def test_refreshing_an_actor_that_knows_no_context_is_refused():
    agent, env = agent_of("TD3", conditioned=False), drifting()
    refused(agent, task_of(env), env, CONFIG, ValueError, "adapt expected refresh_updates=0 for")


@pytest.mark.parametrize("bound", [2.0, np.array([1.0, 3.0], np.float32)])
def test_a_policy_that_was_built_for_other_actions_is_refused(bound):
    agent, env = agent_of(), drifting()
    env.env.env.action_space = spaces.Box(-bound, bound, (ACT_DIM,), np.float32)
    refused(
        agent, task_of(env), env, CONFIG, ValueError, r"adapt expected a policy .*RescaleAction"
    )


def test_a_policy_that_does_not_scale_its_actions_is_refused():
    env = drifting(bound=2.0)
    algorithm = small_sac()
    algorithm.policy.action_space = env.action_space
    algorithm.policy.action_scaling = False
    agent = dataclasses.replace(agent_of(), algorithm=algorithm)
    refused(
        agent, task_of(env), env, CONFIG, ValueError, "adapt expected a policy with action_scaling"
    )


def test_actions_without_bounds_are_refused():
    env = drifting(bound=np.inf)
    with pytest.raises(ValueError, match=r"actions .*have bounds, got Box\(-inf, inf"):
        task_of(env)
    # Nor can a task that was put together by hand be acted in.
    task = dataclasses.replace(
        task_of(drifting()),
        action_space=env.action_space,
        env_of_size=lambda size: gymnasium.vector.SyncVectorEnv(
            [lambda: env], autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
        ),
    )
    refused(agent_of(), task, env, CONFIG, ValueError, "actions")
    algorithm = small_td3()
    algorithm.policy.action_space = env.action_space
    agent = dataclasses.replace(agent_of(), algorithm=algorithm)
    refused(agent, task, env, CONFIG, ValueError, r"actions .*have bounds, got Box\(-inf, inf")


@pytest.mark.parametrize("conditioned", [True, False])
def test_a_task_without_experience_is_refused(conditioned):
    agent, env = agent_of(conditioned=conditioned), drifting()
    replay = ContextReplayBuffer(
        3,
        50,
        obs_dim=OBS_DIM,
        act_dim=ACT_DIM,
        context_dim=agent.replay.context_dim,
        generator=np.random.default_rng(0),
    )
    for task in (0, 2):
        replay.extend(task, random_transitions(20, seed=task), initial_context=True)
    agent = dataclasses.replace(agent, replay=replay)
    config = CONFIG if conditioned else WITHOUT_CONTEXT
    refused(agent, task_of(env), env, config, ValueError, r"of each of its tasks.* \[1\]")
    # Experience that was gathered under other contexts identifies no task.
    replay.extend(1, random_transitions(20, seed=1))
    refused(agent, task_of(env), env, config, ValueError, r"of each of its tasks.* \[1\]")
    replay.extend(1, random_transitions(20, seed=1), initial_context=True)
    adapt(agent, task_of(env), config, seed=0, evaluation_episodes=1)


def test_a_task_of_other_shapes_is_refused():
    env = drifting()
    task = task_of(env)
    for name, dim in (("observation_space", OBS_DIM + 1), ("action_space", ACT_DIM + 1)):
        other = dataclasses.replace(task, **{name: spaces.Box(-1.0, 1.0, (dim,), np.float32)})
        refused(agent_of(), other, env, CONFIG, ValueError, "adapt expected")


@pytest.mark.parametrize("build", [small_sac, small_td3, small_redq])
def test_a_policy_that_takes_other_observations_is_refused(build):
    env = drifting()
    for context_dim in (0, CONTEXT_DIM + 1):
        agent = dataclasses.replace(agent_of(), algorithm=build(context_dim=context_dim))
        message = "obs that the policy takes, contexts included"
        refused(agent, task_of(env), env, CONFIG, ValueError, message)


def test_a_single_real_transition_is_refused():
    config = dataclasses.replace(CONFIG, collection_rounds=1, adaptation_steps=2)
    env = drifting()
    adapt(agent_of(), task_of(env), config, seed=0, evaluation_episodes=1)
    assert env.steps > 0
    with pytest.raises(ValueError, match="AdaptConfig expected adaptation_steps >= 2, got 1"):
        dataclasses.replace(config, adaptation_steps=1)


def test_parts_that_do_not_belong_together_make_no_agent():
    agent = agent_of()
    for changes, message in (
        ({"replay": replay_of(obs_dim=OBS_DIM + 1)}, r"\(3, 2, 2\), got \(4, 2, 2\)"),
        ({"replay": replay_of(context_dim=0)}, r"\(3, 2, 2\), got \(3, 2, 0\)"),
        ({"conditioned": False}, r"\(3, 2, 0\), got \(3, 2, 2\)"),
        ({"adapter": adapter_of(context_dim=5)}, r"\(3, 2, 5\), got \(3, 2, 2\)"),
    ):
        with pytest.raises(ValueError, match=f"Agent expected .*{message}"):
            dataclasses.replace(agent, **changes)


@pytest.mark.usefixtures("unchecked")
def test_parts_of_other_kinds_make_no_agent():
    agent = agent_of()
    for changes, message in (
        ({"algorithm": agent.algorithm.policy}, "an actor-critic such as SAC, TD3 or REDQ"),
        ({"adapter": agent.model}, "GradientContextAdapter"),
        ({"replay": [random_transitions(3)]}, "ContextReplayBuffer"),
        ({"conditioned": 3}, "conditioned to be of type bool"),
    ):
        with pytest.raises(TypeError, match=f"Agent expected .*{message}"):
            dataclasses.replace(agent, **changes)


@pytest.mark.usefixtures("unchecked")
def test_arguments_of_other_kinds_are_refused():
    env = drifting()
    given = {"agent": agent_of(), "task": task_of(env), "config": CONFIG}
    for name, other in (
        ("agent", agent_of().algorithm),
        ("task", env),
        ("config", mier_adapt.preset("smoke")),
    ):
        with pytest.raises(TypeError, match=f"adapt expected {name} to be of type"):
            adapt(*{**given, name: other}.values(), seed=0)
    with pytest.raises(ValueError, match="adapt expected seed >= 0"):
        adapt(*given.values(), seed=-1)
    assert (env.steps, env.resets) == (0, 0)
