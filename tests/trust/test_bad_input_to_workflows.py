"""Every public function of the workflows, with arguments that make no sense."""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mier_adapt
import mier_adapt_envs
from mier_adapt import ContextModel, GradientContextAdapter, adapt_algorithm
from mier_adapt.integration import build_sac
from mier_adapt.workflows import adaptation_stages, checkpoints, pretrained, randomness, runs
from mier_adapt.workflows.adaptation_report import novelty
from mier_adapt.workflows.comparison import compare, with_all_stages
from mier_adapt.workflows.doctor import diagnose
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.evaluation import collect_for_tasks, evaluate_tasks, evaluation_record
from mier_adapt.workflows.files import replace_text
from mier_adapt.workflows.films import film_side_by_side
from mier_adapt.workflows.fine_tuning import adapt_agent, fine_tune_by_relabeling
from mier_adapt.workflows.identification import Identified, identify
from mier_adapt.workflows.imitation import imitate
from mier_adapt.workflows.locks import run_lock
from mier_adapt.workflows.meta_training import MetaTrainer, meta_train
from mier_adapt.workflows.metrics import MetricsLog, read_metrics
from mier_adapt.workflows.new_tasks import NewTask
from mier_adapt.workflows.offline_training import meta_train_offline, replay_of
from mier_adapt.workflows.plots import (
    plot_adaptation,
    plot_comparison,
    plot_learning_curve,
    plot_learning_curves,
    plot_task_returns,
)
from mier_adapt.workflows.presets import ModelConfig
from mier_adapt.workflows.runs import Run, load_run
from mier_adapt.workflows.statistics import bootstrap_interval
from tests.mier_adapt.doubles import example_report, tiny_config
from tests.trust import test_bad_input
from tests.trust.senseless import PLAIN, Target, arrays, require_sense

CONFIG = tiny_config(initial_episodes=2, evaluated_tasks=1)
ROW = {"updates": 5, "return_initial": 1.0, "return_adapted": 2.0, "loss_initial": 0.0}
ROW["loss_adapted"] = 0.0
CURVE_ROW = {"env_steps": 10, "returns_adapted": [1.0, 2.0]}

LEFT_OUT = {
    "main": "reads the command line, which tyro checks",
    "TensorboardLogger": "is Tianshou's",
    # what functions give back; nothing takes them
    **dict.fromkeys(("FineTuneResult", "FineTuneStep", "MetaLoss", "Prediction"), "a result"),
    **dict.fromkeys(("Rollout", "TaskEvaluation", "AdaptationReport"), "a result"),
    **dict.fromkeys(("Adaptation", "Identified", "Novelty"), "a result"),
    **dict.fromkeys(("Check", "Diagnosis"), "a result"),
    "Agent": "holds parts that are checked by themselves",
    "NewTask": "is made by its class methods, which are called",
}
"""Public names that are not called here, and why."""


class EnoughError(Exception):
    """Raised by a callback, to end what would take long."""


def until_the_first_check(directory: Path | None) -> None:
    def stop(_name: str) -> None:
        raise EnoughError

    with contextlib.suppress(EnoughError):
        diagnose(directory, on_check=stop)


def until_it_draws(**arguments: Any) -> None:
    """What comes then needs a display."""

    def stop(*_args: Any, **_options: Any) -> None:
        raise EnoughError

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(EnoughError):
        patch.setattr("gymnasium.make_vec", stop)
        film_side_by_side(**arguments)


def targets(finished: Path, here: Path) -> Iterator[Target]:
    """All of them, on a finished run and in a directory of their own."""
    tasks = mier_adapt_envs.task_set(CONFIG.family)
    envs = TaskEnvs(tasks, num_threads=1)
    run = load_run(finished, envs)
    generator = np.random.default_rng(0)
    manifest = runs.run_manifest(CONFIG, 1, tasks)
    common = {"run": run, "envs": envs}
    contexts = np.zeros((2, run.model.context_dim), np.float32)

    tree = {"path": here / "tree", "tree": {"a": np.pi}}
    checkpoints.save_tree(**tree)
    yield Target("save_tree", checkpoints.save_tree, {**tree, "previous": here / "previous"})
    yield Target("load_tree", checkpoints.load_tree, {"path": here / "tree"})
    directory = {"directory": here / "run"}
    directory["directory"].mkdir()
    saved = {**directory, "tree": {"a": 1}}
    yield Target("save_checkpoint", checkpoints.save_checkpoint, saved)
    checkpoints.save_checkpoint(**saved)
    yield Target(
        "load_checkpoint", checkpoints.load_checkpoint, {**directory, "set_damaged_aside": True}
    )
    yield Target("diagnose", until_the_first_check, {"directory": here})
    yield Target("TaskEnvs", TaskEnvs, {"task_set": tasks, "num_threads": 1})
    yield Target("TaskEnvs.of_size", envs.of_size, {"num_envs": 2})
    yield Target(
        "collect_for_tasks",
        collect_for_tasks,
        {
            **common,
            "tasks": tasks[:2],
            "contexts": contexts,
            "steps": 3,
            "generator": generator,
            "explore": True,
        },
    )
    yield Target(
        "evaluate_tasks",
        evaluate_tasks,
        {**common, "tasks": tasks[:1], "seed": 1, "episodes": 1, "context_steps": 1},
    )
    yield Target(
        "fine_tune_by_relabeling",
        fine_tune_by_relabeling,
        {**common, "task": tasks[11], "seed": 1, "evaluation_episodes": 1, "checkpoint": None},
    )
    yield Target(
        "identify",
        identify,
        {
            "agent": run,
            "task": NewTask.of_family(envs, tasks[11], episode_steps=20),
            "config": CONFIG.adapt,
            "seed": 1,
            "generator": generator,
            "checkpoint": None,
        },
    )
    yield Target(
        "adapt_agent",
        adapt_agent,
        {
            "agent": run,
            "task": NewTask.of_family(envs, tasks[11], episode_steps=20),
            "config": CONFIG.adapt,
            "seed": 1,
            "evaluation_episodes": 1,
            "checkpoint": None,
        },
    )
    real = run.replay.stored()[:20]
    stage = {"agent": run, "config": CONFIG.adapt, "generator": generator}
    refining = {
        **stage,
        "task": NewTask.of_family(envs, tasks[11], episode_steps=20),
        "real": real,
        "contexts": torch.zeros(run.replay.num_tasks, run.model.context_dim),
    }
    context = torch.zeros(run.model.context_dim)
    yield Target("earlier_contexts", adaptation_stages.earlier_contexts, stage)
    yield Target("refresh", adaptation_stages.refresh, {**stage, "context": context})
    yield Target("refine", adaptation_stages.refine, refining)
    yield Target(
        "train_on_relabeled",
        adaptation_stages.train_on_relabeled,
        {
            **stage,
            "task": refining["task"],
            "fitted": adaptation_stages.refine(**refining),
            "found": Identified(real, np.zeros(len(real), bool), context),
        },
    )
    yield Target(
        "draw_stored",
        adaptation_stages.draw_stored,
        {"agent": run, "count": 5, "chunk_size": 2, "generator": generator},
    )
    yield Target(
        "passes_gate",
        adaptation_stages.passes_gate,
        {"safe": (1.0, 2.0), "candidate": (3.0,), "margin": 0.04},
    )
    yield Target(
        "NewTask.of_family",
        NewTask.of_family,
        {"envs": envs, "task": tasks[11], "episode_steps": 3},
    )
    pendulum = gymnasium.make("Pendulum-v1")
    yield Target(
        "NewTask.of_env",
        NewTask.of_env,
        {"env": pendulum, "label": "mine", "termination_fn": None, "episode_steps": 3},
    )
    new_task = NewTask.of_family(envs, tasks[11], episode_steps=20)
    acting = {
        "policy": run.algorithm.policy,
        "context": torch.zeros(run.model.context_dim),
        "generator": generator,
    }
    yield Target("NewTask.run", new_task.run, {**acting, "steps": 3, "explore": True})
    yield Target("NewTask.returns", new_task.returns, {**acting, "episodes": 1})
    earlier = run.replay.stored()[:20]
    offline = {"earlier": [earlier, earlier], "seed": 1}
    yield Target(
        "replay_of", replay_of, {"earlier": [earlier], "context_dim": 2, "generator": generator}
    )
    yield Target(
        "meta_train_offline",
        meta_train_offline,
        {
            **offline,
            "steps": 1,
            "config": ModelConfig(context_dim=1, hidden_sizes=(4,)),
            "varies": "reward",
            "device": "cpu",
        },
    )
    plain = build_sac(envs.observation_space, envs.action_space, 0, hidden_sizes=(4,))
    yield Target(
        "imitate",
        functools.partial(imitate, policy=lambda obs: obs[:, :6].tanh()),
        {
            "algorithm": plain,
            "earlier": earlier,
            "seed": 1,
            "actor_updates": 1,
            "critic_updates": 1,
            "batch_size": 4,
            "lr": 1e-3,
            "noise": 0.1,
            "temperature": 0.1,
        },
    )
    adapter = GradientContextAdapter(ContextModel(20, 6, 0, hidden_sizes=(4,)))
    yield Target(
        "adapt_algorithm",
        functools.partial(adapt_algorithm, adapter=adapter, termination_fn=None),
        {
            **offline,
            "algorithm": plain,
            "env": gymnasium.make(tasks.env_id, max_episode_steps=5),
            "config": dataclasses.replace(
                CONFIG.adapt, adaptation_steps=5, refresh_updates=0, rehearsal_batch_size=0
            ),
            "label": "mine",
            "evaluation_episodes": 1,
            "checkpoint": None,
        },
    )
    yield Target(
        "novelty",
        novelty,
        {
            "agent": run,
            "real": run.replay.stored()[:5],
            "context": torch.zeros(run.model.context_dim),
            "earlier_contexts": torch.randn(run.replay.num_tasks, run.model.context_dim),
        },
    )
    splits = {"test": tasks.meta_test[:1]}
    evaluating = {**common, "splits": splits, "seeds": 1, "episodes": 1, "context_steps": 1}
    yield Target("evaluation_record", evaluation_record, evaluating)
    exporting = {
        "directory": finished,
        "out": here / "pretrained" / "tiny",
        "name": "tiny",
        "command": "x",
        "commit": "x",
        "machine": "x",
        "max_megabytes": 1.0,
        "seeds": 1,
        "episodes": 1,
        "device": "cpu",
    }
    card = pretrained.export_run(**exporting)
    yield Target("export_run", pretrained.export_run, exporting)
    yield Target(
        "load_pretrained",
        pretrained.load_pretrained,
        {"name": "tiny", "envs": envs, "device": "cpu"},
    )
    yield Target("read_card", pretrained.read_card, {"name": "tiny"})
    yield Target("find_run", pretrained.find_run, {"run": Path("tiny")})
    yield Target("read_evaluation", pretrained.read_evaluation, {"run": Path("tiny")})
    yield Target("replace_text", replace_text, {"path": here / "text", "text": "x"})

    def lock(directory: Path) -> None:
        with run_lock(directory):
            pass

    yield Target("run_lock", lock, {"directory": here})
    yield Target(
        "MetaTrainer", MetaTrainer, {"config": CONFIG, "envs": envs, "seed": 1, "device": "cpu"}
    )
    trainer = MetaTrainer(CONFIG, envs, seed=1)
    trainer.step()
    yield Target("MetaTrainer.load_state", trainer.load_state, {"state": trainer.state()})
    yield Target("Run.load_state", trainer.run.load_state, {"state": trainer.run.state()})
    meta_training = {"config": CONFIG, "directory": here / "new", "seed": 1, "device": "cpu"}
    begin = functools.partial(meta_train, should_stop=lambda: True)
    begin(**meta_training)
    yield Target(
        "meta_train",
        begin,
        {**meta_training, "checkpoint_seconds": 1.0},
    )
    yield Target("MetricsLog", MetricsLog, {**directory, "updates": 0})
    yield Target("MetricsLog.write", MetricsLog(here, updates=0).write, {"row": ROW})
    yield Target("read_metrics", read_metrics, directory)
    yield Target(
        "plot_learning_curve", plot_learning_curve, {"rows": [ROW], "path": here / "curve.png"}
    )
    yield Target(
        "plot_learning_curves",
        plot_learning_curves,
        {"curves": {"one": [[CURVE_ROW]]}, "path": here / "curves.png"},
    )
    yield Target(
        "plot_task_returns",
        plot_task_returns,
        {
            "evaluations": {"one": [card["evaluation"]]},
            "path": here / "returns.png",
            "family": tasks.family,
        },
    )
    yield Target(
        "plot_adaptation",
        plot_adaptation,
        {"report": example_report(), "path": here / "adaptation.png"},
    )
    yield Target("compare", compare, {"reports": [example_report()]})
    yield Target(
        "plot_comparison",
        plot_comparison,
        {"reports": [example_report()], "path": here / "comparison.png"},
    )
    yield Target("with_all_stages", with_all_stages, {"run": run})
    actors = {"one": (run.algorithm, torch.zeros(run.model.context_dim))}
    filming = {"actors": actors, "path": here / "film.gif", "seed": 1}
    yield Target("film_side_by_side", until_it_draws, {"run": run, "task": tasks[11], **filming})
    state = randomness.global_generator_state()
    for function in (
        randomness.set_global_generator_state,
        randomness.check_global_generator_state,
    ):
        yield Target(function.__name__, function, {"state": state})
    yield Target("seed_global_generators", randomness.seed_global_generators, {"seed": 1})

    def fork(seed: int) -> None:
        with randomness.forked_global_generators(seed):
            pass

    yield Target("forked_global_generators", fork, {"seed": 1})
    yield Target(
        "Run.build",
        Run.build,
        {"config": CONFIG, "envs": envs, "generator": generator, "device": "cpu"},
    )
    yield Target("Run", Run, {name: getattr(run, name) for name in run.__dataclass_fields__})
    yield Target("load_run", load_run, {"directory": finished, "envs": envs, "device": "cpu"})
    yield Target("read_run_file", runs.read_run_file, {"directory": finished})
    yield Target("run_manifest", runs.run_manifest, {"config": CONFIG, "seed": 1, "tasks": tasks})
    manifests = {**directory, "manifest": manifest}
    yield Target("write_run_file", runs.write_run_file, manifests)
    runs.write_run_file(**manifests)
    yield Target("require_same_run", runs.require_same_run, manifests)


@pytest.fixture
def workflows(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Target]:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(pretrained, "_DIRECTORY", tmp_path / "pretrained")
    return {target.name: target for target in targets(finished_run, tmp_path)}


def test_the_good_arguments_work(workflows: dict[str, Target]) -> None:
    for target in workflows.values():
        target.function(**target.good)


def test_plain_values(workflows: dict[str, Target]) -> None:
    for target in workflows.values():
        for argument in target.good:
            for value in PLAIN:
                require_sense(target, argument, value)


def test_tensors_and_arrays(workflows: dict[str, Target]) -> None:
    @settings(parent=settings.get_profile("trust"), max_examples=300)
    @given(
        st.sampled_from([(t, argument) for t in workflows.values() for argument in t.good]),
        arrays(),
    )
    def check(place: tuple[Target, str], value: Any) -> None:
        require_sense(*place, value)

    check()


@pytest.mark.parametrize("value", [None, 3, "x", [], np.zeros(3)])
def test_callbacks_that_cannot_be_called(value: Any, finished_run: Path, tmp_path: Path) -> None:
    tasks = mier_adapt_envs.task_set(CONFIG.family)
    with TaskEnvs(tasks) as envs:
        run = load_run(finished_run, envs)
        with pytest.raises(TypeError, match="on_stage"):
            fine_tune_by_relabeling(run, envs, tasks[11], seed=1, on_stage=value)
    for name in ("should_stop", "on_step"):
        with pytest.raises(TypeError, match=name):
            meta_train(CONFIG, tmp_path / "run", **{name: value})
    with pytest.raises(TypeError, match="on_stage"):
        pretrained.export_run(finished_run, tmp_path / "export", name="x", on_stage=value)
    with pytest.raises(TypeError, match="statistic"):
        bootstrap_interval(np.zeros((2, 2)), value)
    with pytest.raises(TypeError, match="on_check"):
        diagnose(tmp_path, on_check=value)


def test_no_public_name_is_missing(workflows: dict[str, Target]) -> None:
    called = {target.name.partition(".")[0] for target in test_bad_input.TARGETS} | set(workflows)
    packages = list(pkgutil.walk_packages(mier_adapt.__path__, "mier_adapt."))
    names = ["mier_adapt", "mier_adapt_envs", *(package.name for package in packages)]
    for module in map(importlib.import_module, names):
        if module.__name__.startswith("mier_adapt._"):
            continue
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            takes_nothing = inspect.isfunction(thing) and not inspect.signature(thing).parameters
            is_error = inspect.isclass(thing) and issubclass(thing, Exception)
            assert takes_nothing or is_error or name in called | LEFT_OUT.keys(), (
                f"{module.__name__}.{name}"
            )
