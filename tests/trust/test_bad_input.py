"""Every public constructor and function, with arguments that make no sense.

Those that need a run are in test_bad_input_to_agents.py.
"""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from tianshou.algorithm.optim import AdamOptimizerFactory

import mier_adapt_envs
from mier_adapt import (
    AdaptConfig,
    AdaptedPolicy,
    CompensatedAction,
    ContextModel,
    ExactRelabeler,
    ExperienceRelabeler,
    GradientContextAdapter,
    Transitions,
    diagnose,
    fit_model,
    meta_train_offline,
    preset,
)
from mier_adapt.adaptation import MarginGate, compare
from mier_adapt.agents import ContinueConfig, ModelConfig, PolicyConfig, collect
from mier_adapt.baselines import (
    GrbalConfig,
    MamlConfig,
    MqlConfig,
    PearlConfig,
    PrompConfig,
    RandomConfig,
    Rl2Config,
    SacConfig,
)
from mier_adapt.changes import Actuators, ChangedModel, LinearResidual, Sensors, Together
from mier_adapt.compensation import Compensation
from mier_adapt.figures import plot_adaptation, plot_comparison, plot_diagnosis, plot_episodes
from mier_adapt.integration import (
    ContextReplayBuffer,
    FastSAC,
    MixedReplayBuffer,
    PolicyActor,
    algorithm_state,
    build_sac,
    from_minari,
    from_sb3,
    from_tianshou,
    load_algorithm_state,
    relabeling_policy,
    sb3_transitions,
    to_minari,
    to_sb3,
    update,
)
from mier_adapt.statistics import bootstrap_interval
from mier_adapt.training import imitate
from mier_adapt.wrappers import ContextObservation
from mier_adapt.wrappers import vector as vector_wrappers
from mier_adapt_envs.vector import TaskVectorEnv
from tests.mier_adapt.doubles import (
    DriftEnv,
    example_diagnosis,
    example_report,
    random_transitions,
    small_sac,
    small_sb3,
)
from tests.trust.senseless import PLAIN, Target, arrays, require_sense

# Minari would like to know more about each dataset than these tests can tell it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are written by relative names go there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def model(**options: Any) -> ContextModel:
    return ContextModel(3, 2, 2, hidden_sizes=(4,), **options)


def adapter() -> GradientContextAdapter:
    return GradientContextAdapter(model())


def replay() -> ContextReplayBuffer:
    buffer = ContextReplayBuffer(
        2, 20, obs_dim=3, act_dim=2, context_dim=2, generator=np.random.default_rng(0)
    )
    for task in range(2):
        buffer.extend(task, random_transitions(5), initial_context=True)
    return buffer


def mixed() -> MixedReplayBuffer:
    return MixedReplayBuffer(
        9, 9, obs_dim=3, act_dim=2, context=torch.zeros(2), generator=np.random.default_rng(0)
    )


def filled(buffer: MixedReplayBuffer) -> MixedReplayBuffer:
    buffer.extend_real(random_transitions(5))
    buffer.extend_synthetic(random_transitions(5))
    return buffer


def single_env() -> Any:
    return gymnasium.make("MIER/HalfCheetahVel-v0")


def box_env() -> Any:
    return DriftEnv()


def vector_env(**options: Any) -> Any:
    return TaskVectorEnv("HalfCheetahVel", 2, num_threads=1, **options)


TASKS = mier_adapt_envs.task_set("HalfCheetahVel")
BOX = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
TRANSITIONS = random_transitions(6)
FIELDS = {field.name: getattr(TRANSITIONS, field.name) for field in dataclasses.fields(TRANSITIONS)}


def fields_of(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def targets() -> Iterator[Target]:
    """All of them. Functions make their objects anew, so that no call spoils another's."""
    generator = np.random.default_rng(0)
    yield Target("Transitions", Transitions, FIELDS)
    yield Target("Transitions.cat", Transitions.cat, {"parts": [TRANSITIONS]})
    yield Target("Transitions.stack", Transitions.stack, {"parts": [TRANSITIONS]})
    yield Target("Transitions.save", TRANSITIONS.save, {"path": Path("transitions")})
    written = Path(tempfile.mkdtemp()) / "transitions"
    TRANSITIONS.save(written)
    yield Target("Transitions.load", Transitions.load, {"path": written})
    yield Target(
        "ContextModel",
        ContextModel,
        {
            "obs_dim": 3,
            "act_dim": 2,
            "context_dim": 2,
            "hidden_sizes": (4,),
            "activation": "relu",
            "varies": "reward",
            "learn_initial_context": True,
            "generator": torch.Generator(),
        },
    )
    inputs = {"obs": torch.zeros(4, 3), "act": torch.zeros(4, 2), "context": torch.zeros(2)}
    for method in ("forward", "mean", "sample"):
        yield Target(
            f"ContextModel.{method}", lambda m=method, **k: getattr(model(), m)(**k), inputs
        )
    for method in ("loss", "loss_terms"):
        yield Target(
            f"ContextModel.{method}",
            lambda m=method, **k: getattr(model(), m)(**k),
            {"transitions": TRANSITIONS, "context": torch.zeros(2)},
        )
    yield Target(
        "ContextModel.fit_normalization",
        lambda **k: model().fit_normalization(**k),
        {"transitions": TRANSITIONS},
    )
    yield Target(
        "GradientContextAdapter",
        GradientContextAdapter,
        {"model": model(), "steps": 2, "lr": 0.1, "max_grad_norm": 10.0},
    )
    yield Target(
        "GradientContextAdapter.adapt",
        lambda **k: adapter().adapt(**k),
        {"adaptation": TRANSITIONS, "steps": 1, "initial_context": torch.zeros(2)},
    )
    tasks = random_transitions(2, 4)
    yield Target(
        "GradientContextAdapter.cross_losses",
        lambda **k: adapter().cross_losses(**k),
        {"fresh": tasks, "contexts": torch.zeros(2, 2)},
    )
    yield Target(
        "GradientContextAdapter.meta_loss",
        lambda **k: adapter().meta_loss(**k),
        {"adaptation": tasks, "evaluation": tasks},
    )
    yield Target(
        "GradientContextAdapter.with_steps",
        lambda **k: adapter().with_steps(**k),
        {"steps": 3, "later_lr": 0.1},
    )
    yield Target(
        "fit_model",
        fit_model,
        {
            "adapter": adapter(),
            "transitions": TRANSITIONS,
            "weight_steps": 1,
            "weight_lr": 0.1,
            "context_lr": 0.1,
            "batch_size": 2,
            "rehearsal": None,
            "validate_every": 1,
            "validation_fraction": 0.2,
            "generator": torch.Generator(),
        },
    )
    yield Target(
        "ExperienceRelabeler",
        ExperienceRelabeler,
        {
            "model": model(),
            "context": torch.zeros(2),
            "policy": lambda obs: torch.zeros(len(obs), 2),
            "termination_fn": lambda obs, act, obs_next: np.zeros(len(obs), dtype=bool),
            "chunk_size": 4,
            "generator": torch.Generator(),
        },
    )
    relabeler = ExperienceRelabeler(model(varies="reward"), torch.zeros(2))
    yield Target("ExperienceRelabeler.relabel", relabeler.relabel, {"transitions": TRANSITIONS})
    yield Target(
        "ContextObservation",
        lambda **k: ContextObservation(single_env(), **k),
        {"context_dim": 2},
    )
    wrapped = ContextObservation(single_env(), 2)
    yield Target("ContextObservation.set_context", wrapped.set_context, {"context": np.zeros(2)})
    many = vector_wrappers.ContextObservation(vector_env(), 2)
    yield Target(
        "vector.ContextObservation",
        lambda **k: vector_wrappers.ContextObservation(vector_env(), **k),
        {"context_dim": 2},
    )
    yield Target(
        "vector.ContextObservation.set_contexts", many.set_contexts, {"contexts": np.zeros((2, 2))}
    )
    undone = Compensation(np.eye(2), np.zeros(2))
    yield Target(
        "CompensatedAction", lambda **k: CompensatedAction(box_env(), **k), {"compensation": undone}
    )
    yield Target(
        "vector.CompensatedAction",
        lambda **k: vector_wrappers.CompensatedAction(SyncVectorEnv([box_env]), **k),
        {"compensation": undone},
    )
    parts = {"act_matrix": np.eye(2), "act_offset": np.zeros(2)}
    sensors = {"obs_matrix": np.eye(3), "obs_offset": np.zeros(3)}
    yield Target("Compensation", Compensation, {**parts, **sensors})
    yield Target("Compensation.action", undone.action, {"act": np.zeros((4, 2))})
    yield Target("Compensation.shortfall", undone.shortfall, {"act": np.zeros((4, 2))})
    both = Compensation(**parts, **sensors)
    yield Target("Compensation.observation", both.observation, {"obs": np.zeros((4, 3))})
    yield Target("Compensation.executed", undone.executed, {"act": np.zeros((4, 2))})
    yield Target("Compensation.shown", both.shown, {"obs": np.zeros((4, 3))})
    yield Target("ExactRelabeler", ExactRelabeler, {"compensation": undone})
    exact = ExactRelabeler(undone)
    yield Target("ExactRelabeler.relabel", exact.relabel, {"transitions": TRANSITIONS})
    yield Target("Compensation.policy", undone.policy, {"policy": lambda obs: np.zeros(2)})
    yield Target("Compensation.save", undone.save, {"path": Path("compensation.json")})
    kept = Path(tempfile.mkdtemp()) / "kept.json"
    undone.save(kept)
    yield Target("Compensation.load", Compensation.load, {"path": kept})
    network, box = (
        torch.nn.Sequential(torch.nn.Linear(5, 2)),
        {"low": -np.ones(2), "high": np.ones(2)},
    )
    parts = {"network": network, "context": torch.zeros(2), **box}
    policy = AdaptedPolicy(**parts)
    yield Target("AdaptedPolicy", AdaptedPolicy, {**parts, "compensation": undone})
    yield Target("AdaptedPolicy.predict", policy.predict, {"obs": np.zeros((4, 3))})
    yield Target("AdaptedPolicy.save", policy.save, {"path": Path("policy")})
    yield Target("AdaptedPolicy.export_onnx", policy.export_onnx, {"path": Path("policy.onnx")})
    policy.save(kept.with_name("policy"))
    yield Target("AdaptedPolicy.load", AdaptedPolicy.load, {"path": kept.with_name("policy")})
    for kind, dim in ((Actuators, 2), (Sensors, 3)):
        options = {"dim": dim, "structure": "offset", "sparse": False, "scale": torch.ones(dim)}
        yield Target(kind.__name__, kind, options)
    stds = {"input_mean": torch.zeros(5), "input_std": torch.ones(5), "target_std": torch.ones(4)}
    yield Target("LinearResidual", LinearResidual, stds)
    yield Target("Together", lambda changes: Together(changes), {"changes": Actuators(2, "gain")})
    changed = {"model": model(), "change": Actuators(2, "gains"), "parameters": torch.ones(2)}
    yield Target("ChangedModel", ChangedModel, changed)
    yield Target(
        "diagnose",
        diagnose,
        {
            "model": model(),
            "transitions": random_transitions(12),
            "contexts": torch.zeros(1, 2),
            "known": random_transitions(1, 12),
            "changes": [Actuators(2, "signs")],
            "others": {},
            "names": ["one"],
            "margin": 0.5,
            "share": 0.1,
            "generator": torch.Generator(),
        },
    )
    sizes = {"obs_dim": 3, "act_dim": 2, "generator": generator}
    yield Target(
        "ContextReplayBuffer",
        ContextReplayBuffer,
        {"num_tasks": 2, "size_per_task": 5, "context_dim": 2, **sizes},
    )
    yield Target(
        "ContextReplayBuffer.of",
        ContextReplayBuffer.of,
        {"earlier": [TRANSITIONS, TRANSITIONS], "context_dim": 2, "generator": generator},
    )
    yield Target(
        "ContextReplayBuffer.extend",
        lambda **k: replay().extend(**k),
        {
            "task": 1,
            "transitions": TRANSITIONS,
            "truncated": np.zeros(6, dtype=bool),
            "initial_context": True,
        },
    )
    yield Target(
        "ContextReplayBuffer.set_contexts",
        lambda **k: replay().set_contexts(**k),
        {"tasks": np.array([0, 1]), "contexts": torch.zeros(2, 2)},
    )
    yield Target(
        "ContextReplayBuffer.sample_transitions",
        lambda **k: replay().sample_transitions(**k),
        {"tasks": np.array([0, 1]), "batch_size": 3, "adaptation": True, "generator": generator},
    )
    yield Target(
        "ContextReplayBuffer.recent_transitions",
        lambda **k: replay().recent_transitions(**k),
        {"count": 3},
    )
    yield Target(
        "ContextReplayBuffer.stretches",
        lambda **k: replay().stretches(**k),
        {"indices": np.array([0, 1]), "length": 3},
    )
    yield Target(
        "ContextReplayBuffer.load_state",
        lambda **k: replay().load_state(**k),
        {"state": replay().state()},
    )
    yield Target(
        "MixedReplayBuffer",
        MixedReplayBuffer,
        {
            "real_size": 5,
            "synthetic_size": 5,
            "context": torch.zeros(2),
            "real_fraction": 0.5,
            **sizes,
        },
    )
    truncated = np.zeros(6, dtype=bool)
    for name, more in (("extend_real", {"truncated": truncated}), ("extend_synthetic", {})):
        yield Target(
            f"MixedReplayBuffer.{name}",
            lambda n=name, **k: getattr(mixed(), n)(**k),
            {"transitions": TRANSITIONS, **more},
        )
    yield Target(
        "build_sac",
        build_sac,
        {
            "observation_space": BOX,
            "action_space": ACTIONS,
            "context_dim": 2,
            "hidden_sizes": (4,),
            "lr": 1e-3,
            "gamma": 0.9,
            "tau": 0.1,
            "target_entropy": -1.0,
            "temperature": 1.0,
            "device": "cpu",
            "algorithm_class": FastSAC,
        },
    )
    yield Target("from_tianshou", from_tianshou, {"buffer": filled(mixed()).buffers[0]})
    algorithm = small_sac()
    policy = algorithm.policy
    yield Target("PolicyActor", PolicyActor, {"policy": policy, "contexts": torch.zeros(2, 2)})
    yield Target(
        "PolicyActor.act",
        PolicyActor(policy, torch.zeros(2, 2)).act,
        {"obs": np.zeros((4, 3)), "explore": True},
    )
    yield Target(
        "relabeling_policy",
        relabeling_policy,
        {"policy": policy, "context": torch.zeros(2), "explore": True},
    )
    yield Target(
        "update",
        update,
        {"algorithm": algorithm, "buffer": filled(mixed()), "batch_size": 4},
    )
    for function in (algorithm_state, load_algorithm_state):
        given = {} if function is algorithm_state else {"state": algorithm_state(algorithm)}
        yield Target(function.__name__, function, {"algorithm": algorithm, **given})
    parts = {
        "policy": algorithm.policy,
        "policy_optim": AdamOptimizerFactory(),
        "critic": algorithm.critic,
        "critic_optim": AdamOptimizerFactory(),
        "critic2": algorithm.critic2,
        "alpha": 0.2,
    }
    yield Target("FastSAC", FastSAC, parts)
    yield Target("from_minari", from_minari, {"dataset": "no/such-v0", "dtype": torch.float32})
    model_of_sb3 = small_sb3()
    yield Target("from_sb3", from_sb3, {"model": model_of_sb3})
    yield Target("sb3_transitions", sb3_transitions, {"model": model_of_sb3})
    mine = from_sb3(model_of_sb3)
    yield Target("to_sb3", to_sb3, {"algorithm": mine, "model": model_of_sb3})
    own = "our/own"
    numbers = itertools.count()  # Minari refuses names that are taken
    yield Target(
        "to_minari",
        lambda transitions, dataset_id, truncated: to_minari(
            transitions,
            f"our/own-v{next(numbers)}" if dataset_id is own else dataset_id,
            truncated=truncated,
        ),
        {"transitions": TRANSITIONS, "dataset_id": own, "truncated": np.zeros(6, dtype=bool)},
    )
    envs = vector_env(autoreset_mode="SameStep")
    env_policy = build_sac(
        envs.single_observation_space, envs.single_action_space, 2, hidden_sizes=(4,)
    ).policy
    yield Target(
        "collect",
        collect,
        {
            "env": envs,
            "tasks": TASKS[:2],
            "actor": PolicyActor(env_policy, torch.zeros(2, 2)),
            "steps": 3,
            "generator": generator,
            "explore": True,
        },
    )
    tiny = ModelConfig(context_dim=1, hidden_sizes=(4,))
    yield Target(
        "meta_train_offline",
        meta_train_offline,
        {
            "earlier": [TRANSITIONS, TRANSITIONS],
            "steps": 1,
            "seed": 1,
            "config": tiny,
            "varies": "reward",
            "device": "cpu",
        },
    )
    endless = dataclasses.replace(TRANSITIONS, terminated=torch.zeros(6, dtype=torch.bool))
    imitating = partial(imitate, policy=lambda obs: obs[:, :2].tanh())
    yield Target(
        "imitate",
        lambda **k: imitating(small_sac(context_dim=0), **k),
        {
            "earlier": endless,
            "seed": 1,
            "actor_updates": 1,
            "critic_updates": 1,
            "batch_size": 4,
            "lr": 1e-3,
            "noise": 0.1,
            "temperature": 0.1,
        },
    )
    yield Target(
        "imitate",
        partial(imitating, earlier=endless, seed=1, actor_updates=1, critic_updates=1),
        {"algorithm": small_sac(context_dim=0)},
    )
    smoke = preset("smoke").meta_train
    baselines = [
        kind(family="HalfCheetahVel")
        for kind in (
            *(MamlConfig, MqlConfig, PearlConfig, PrompConfig, RandomConfig, Rl2Config),
            SacConfig,
        )
    ]
    baselines.append(GrbalConfig(family="HalfCheetahNegatedJoints"))
    for config in (
        *(ModelConfig(), PolicyConfig(), AdaptConfig(), ContinueConfig(), MarginGate()),
        *(smoke, *baselines),
    ):
        yield Target(type(config).__name__, type(config), fields_of(config))
    for config in (AdaptConfig(), smoke, *baselines):
        yield Target(
            f"{type(config).__name__}.from_dict",
            type(config).from_dict,
            {"values": config.to_dict()},
        )
    yield Target("preset", preset, {"name": "smoke"})
    returns = np.arange(6.0).reshape(2, 3)
    yield Target(
        "bootstrap_interval",
        bootstrap_interval,
        {"returns_TS": returns, "confidence": 0.9, "resamples": 100},
    )
    yield Target("compare", compare, {"reports": [example_report()]})
    yield Target(
        "plot_comparison",
        plot_comparison,
        {"compared": compare([example_report()]), "path": Path("comparison.png")},
    )
    yield Target(
        "plot_adaptation",
        plot_adaptation,
        {"report": example_report().to_dict(), "path": Path("adaptation.png")},
    )
    log = [{"transitions": 0, "steps": 9, "return": 1.0, "policy": "gathering", "said": "x"}]
    yield Target(
        "plot_episodes", plot_episodes, {"log": log, "path": Path("log.png"), "title": "x"}
    )
    yield Target(
        "plot_diagnosis",
        plot_diagnosis,
        {"diagnosis": example_diagnosis(), "path": Path("diagnosis.png")},
    )
    task = TASKS[0]
    yield Target(
        "Task", mier_adapt_envs.Task, {"family": "F", "parameters": (1.0,), "label": "one"}
    )
    yield Target(
        "TaskSet",
        mier_adapt_envs.TaskSet,
        {
            "family": TASKS.family,
            "name": "mine",
            "env_id": TASKS.env_id,
            "meta_train": TASKS.meta_train,
            "meta_test": TASKS.meta_test,
        },
    )
    yield Target("Task.from_dict", mier_adapt_envs.Task.from_dict, {"values": task.to_dict()})
    yield Target(
        "TaskSet.from_dict", mier_adapt_envs.TaskSet.from_dict, {"values": TASKS.to_dict()}
    )
    yield Target("env_class", mier_adapt_envs.env_class, {"family": TASKS.family})
    yield Target(
        "register",
        mier_adapt_envs.register,
        {"env_class": mier_adapt_envs.env_class(TASKS.family), "max_episode_steps": 200},
    )
    robot = mier_adapt_envs.env_class(TASKS.family).robot
    yield Target("Robot", mier_adapt_envs.Robot, fields_of(robot))
    yield Target("task_set", mier_adapt_envs.task_set, {"family": TASKS.family, "name": TASKS.name})
    changes = mier_adapt_envs.change_set("Hopper", "test")
    yield Target("change_set", mier_adapt_envs.change_set, {"robot": "Hopper", "name": "test"})
    yield Target(
        "ChangeSet",
        mier_adapt_envs.ChangeSet,
        {"robot": "Hopper", "name": "mine", "changes": changes.changes},
    )
    different = {"motor_offset": (0.1,) * 3, "sensor_gain": (1.0,) * 11, "delay": 1, "mass": 2.0}
    yield Target("RobotChange", mier_adapt_envs.RobotChange, {"kind": "mine", **different})
    yield Target("task_sets", mier_adapt_envs.task_sets, {"family": TASKS.family})
    env, many_envs = single_env().unwrapped, vector_env()
    env.reset(seed=0)
    many_envs.reset(seed=0)
    yield Target("TaskEnv", type(env), {"task": task.to_dict()})
    yield Target("TaskEnv.set_task", env.set_task, {"task": task})
    yield Target("TaskEnv.reset", env.reset, {"seed": 1, "options": {}})
    yield Target("TaskEnv.step", env.step, {"action": np.zeros(6)})
    yield Target(
        "TaskVectorEnv",
        TaskVectorEnv,
        {
            "family": TASKS.family,
            "num_envs": 2,
            "tasks": TASKS[:2],
            "num_threads": 1,
            "autoreset_mode": AutoresetMode.NEXT_STEP,
            "max_episode_steps": 5,
            "render_mode": None,
        },
    )
    yield Target("TaskVectorEnv.set_tasks", many_envs.set_tasks, {"tasks": TASKS[:2]})
    yield Target("TaskVectorEnv.reset", many_envs.reset, {"seed": 1, "options": {}})
    yield Target("TaskVectorEnv.step", many_envs.step, {"actions": np.zeros((2, 6))})


TARGETS = list(targets())


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_plain_values(target: Target) -> None:
    for argument in target.good:
        for value in PLAIN:
            require_sense(target, argument, value)


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_tensors_and_arrays(target: Target) -> None:
    @settings(parent=settings.get_profile("trust"), max_examples=20)
    @given(st.sampled_from(list(target.good)), arrays())
    def check(argument: str, value: Any) -> None:
        require_sense(target, argument, value)

    check()


def test_the_good_arguments_work() -> None:
    for target in TARGETS:
        with contextlib.suppress(FileNotFoundError):  # Minari's dataset, which is not here
            target.function(**target.good)
