"""Runs of any method: their usual settings, their training, and what they return on every task."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mier_adapt.agents.configs import AdaptConfig, MetaTrainConfig
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.evaluation import evaluation_record
from mier_adapt.agents.presets import PRESETS, Preset
from mier_adapt.agents.run import load_run
from mier_adapt.agents.run_file import OURS, RunFile, method_of_run, read_run_file
from mier_adapt.baselines import BASELINES
from mier_adapt.baselines.presets import baseline_presets, family_settings, preset_settings
from mier_adapt.training import meta_train
from mier_adapt_envs import Task, TaskSet, env_class

DIFFICULTY = "fig5"
"""Task sets, and the split of an evaluation, whose test tasks lie ever further outside training."""


def presets_of(method: str) -> list[str]:
    """Names of the presets that a method can be trained by."""
    return list(PRESETS) if method == OURS else baseline_presets(method)


def usual_settings(method: str, preset: str | Preset) -> dict[str, Any]:
    """What holds for a run that is told nothing else, by field.

    Args:
        method: By its name in runs' files.
        preset: One's name, of those of the method; or ours for a family.

    Raises:
        ValueError: If a baseline has no preset of this name.
    """
    if method == OURS:
        found = PRESETS[preset] if isinstance(preset, str) else preset
        return {**found.meta_train.to_dict(), "adapt": found.adapt.to_dict()}
    if isinstance(preset, str):
        return preset_settings(method, preset)
    return family_settings(method, preset.meta_train)


def training(
    method: str, settings: Mapping[str, Any], *, device: str = "cpu"
) -> tuple[dict[str, Any], int, Callable[..., bool]]:
    """The whole configuration of a run, its steps, and what trains as it says.

    Args:
        method: By its name in runs' files.
        settings: As :func:`usual_settings` gives them.
        device: Where networks live and learn.

    Raises:
        ValueError: If these are no settings of the method.
    """
    if method in BASELINES:
        kind = BASELINES[method]
        baseline = kind(config=kind.run_file.config_class.from_dict(settings), device=device)
        return baseline.config.to_dict(), baseline.config.updates, baseline.meta_train
    adapt_config = AdaptConfig.from_dict(settings["adapt"])
    config = MetaTrainConfig.from_dict({k: v for k, v in settings.items() if k != "adapt"})
    resolved = {**config.to_dict(), "adapt": adapt_config.to_dict()}
    train = partial(meta_train, config, adapt_config=adapt_config, device=device)
    return resolved, config.model.pretrain_steps + config.updates, train


def run_file_of(directory: Path) -> Any:
    """What the file of a run of any method says.

    Raises:
        FileNotFoundError: If there is no run.
        CheckpointError: If its file is damaged.
    """
    method = method_of_run(directory)
    return read_run_file(directory, BASELINES[method].run_file if method in BASELINES else RunFile)


def config_of(directory: Path) -> Any:
    """What a run was trained by: a :class:`.MetaTrainConfig`, or its method's own.

    Raises:
        FileNotFoundError: If there is no run.
        CheckpointError: If its file is damaged.
    """
    return run_file_of(directory).config


def harder_tasks(tasks: TaskSet) -> tuple[Task, ...]:
    """The family's tasks ever further outside these training tasks, if it has such for them.

    Source:
        Figure 5 of Mendonca et al. (2020), arXiv:2006.07178.
    """
    known = env_class(tasks.family).task_sets()
    if DIFFICULTY in known and known[DIFFICULTY].meta_train == tasks.meta_train:
        return known[DIFFICULTY].meta_test
    return ()


def evaluate_run(
    directory: Path,
    splits: Mapping[str, Sequence[Task]],
    *,
    seeds: int,
    episodes: int,
    device: str = "cpu",
    context_steps: int | None = None,
    on_stage: Callable[[str, float], None] = lambda stage, done: None,
) -> dict[str, Any]:
    """What a run of any method returns on tasks before and after it adapts to them.

    Args:
        directory: The run's.
        splits: As for :func:`.evaluation_record`, whose record this gives, with the method's name.
        seeds: See there.
        episodes: See there.
        device: Where networks live.
        context_steps: Of a run of ours; as many as in meta-training if None.
        on_stage: See there.

    Raises:
        FileNotFoundError: If there is no run or no checkpoint yet.
        CheckpointError: If a file is damaged, or the tasks are not those of the run.
    """
    method, config = method_of_run(directory), config_of(directory)
    with FamilyEnvs(config.tasks) as envs:
        policy: Any
        if method in BASELINES:
            policy = BASELINES[method].policy_of(directory, device=device)
            adaptation_steps = config.adaptation_steps
        else:
            policy = load_run(directory, envs, device=device)
            adaptation_steps = policy.adapt_config.adaptation_steps
            if context_steps is not None:
                policy = policy.with_context_steps(context_steps)
        record = evaluation_record(
            policy,
            envs,
            splits,
            seeds=seeds,
            episodes=episodes,
            adaptation_steps=adaptation_steps,
            episode_steps=config.episode_steps,
            on_stage=on_stage,
        )
    record["method"] = method
    if method == OURS:
        record["context_steps"] = policy.adapter.steps
    return record
