"""Grids: which runs a sweep consists of, how they are evaluated, and how they adapt."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mier_adapt._checks import Count, Seed, Size, checked_fields
from mier_adapt.adaptation.comparison import with_all_stages
from mier_adapt.agents.configs import AdaptConfig, ContinueConfig, MetaTrainConfig, merged
from mier_adapt.agents.run_file import OURS
from mier_adapt.sweeps.jobs import Adapting, Job, Oracle, Training
from mier_adapt.sweeps.methods import training, usual_settings
from mier_adapt_envs import task_set

FAST = {
    **{"updates": 4, "updates_per_iteration": 2, "evaluate_every": 1, "evaluated_tasks": 2},
    **{"episode_steps": 40, "initial_episodes": 1, "exploration_episodes": 2},
    **{"tasks_per_iteration": 2, "episodes_per_iteration": 2, "episodes_per_task": 2},
    **{"adaptation_episodes": 1, "evaluation_episodes": 1, "prior_episodes": 1},
    **{"trials_per_update": 4, "trials_per_minibatch": 2, "tasks_per_batch": 2, "batch_size": 32},
    **{"windows_per_batch": 2, "candidates": 20, "horizon": 2, "own_updates": 1},
    **{"replay_updates": 1, "replay_batch_size": 32, "pretrain_steps": 4, "replay_size": 50_000},
    **{"replay_per_task": 1_000, "adaptation_steps": 80, "refresh_updates": 2, "num_models": 1},
    **{"weight_steps": 4, "rehearsal_batch_size": 32, "relabel_rounds": 1, "relabel_size": 200},
    **{"updates_per_round": 2},
}
"""The most that a field is in a fast sweep."""
_FAST_TASKS = 2
"""Tasks of each split that a run of a fast sweep is evaluated on, and adapts to; and oracles."""
_FAST_BUDGET = 80
"""Further real transitions of each of its adaptations: two episodes that do not end early."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Every preset by every method with every seed."""

    presets: tuple[str, ...]
    """Names, as `mier-adapt meta-train` takes them."""
    methods: tuple[str, ...] = (OURS,)
    """Names of methods, each of which has all these presets."""
    seeds: tuple[Seed, ...] = (0,)
    """One run of each for each."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of their configurations that are different, as `meta-train --config` has them."""

    def __post_init__(self) -> None:
        checked_fields(self)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How every run is evaluated, before and after adaptation by its own means."""

    seeds: Size = 1
    """Adaptation seeds 0, 1, ...: each gathers its own transitions."""
    episodes: Size = 4
    """Deterministic episodes of each task."""
    tasks: Size | None = None
    """Of training, meta-test and harder tasks each as many, from the first; None is all."""

    def __post_init__(self) -> None:
        checked_fields(self)


@dataclass(frozen=True, kw_only=True)
class Adaptations:
    """How every run of ours adapts to all its meta-test tasks."""

    seeds: tuple[Seed, ...] = (0,)
    """One adaptation of each task for each."""
    episodes: Size = 4
    """Deterministic episodes after each stage."""
    compare: bool = True
    """Run all stages, also those not needed."""
    budget: Count = 0
    """Further real transitions, to go on adapting."""
    arms: dict[str, Any] = field(default_factory=lambda: {"usual": {}})
    """By name, fields of the adaptation's configuration that are different in that arm, as
    `adapt --config` has them."""

    def __post_init__(self) -> None:
        checked_fields(self)


@dataclass(frozen=True, kw_only=True)
class Oracles:
    """What could be reached: SAC on meta-test tasks alone, from scratch, of every preset."""

    tasks: Size = 2
    """As many of each preset's meta-test tasks, from the first to the last."""
    seeds: tuple[Seed, ...] = (0,)
    """One run on each task for each."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of SAC's configuration that are different."""

    def __post_init__(self) -> None:
        checked_fields(self)
        if "task" in self.changes:
            raise ValueError(
                "Expected [oracle] changes without task: each run has its own, of which [oracle] "
                "tasks says how many."
            )


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a grid's file says."""

    runs: tuple[Runs, ...]
    """Each in a table [[runs]]."""
    evaluate: Evaluation = field(default_factory=Evaluation)
    """Of all runs."""
    adapt: Adaptations | None = None
    """Of all runs of ours; none adapts without it."""
    oracle: Oracles | None = None
    """Of all presets; there are none without it."""


def expand(grid: Grid, *, fast: bool = False) -> list[Job]:
    """A grid's jobs, each after those that it needs.

    Args:
        grid: What is to be run.
        fast: Cut every run down to a few updates, evaluations, adaptations and oracles to two
            tasks, and all seeds to the first: to see that it runs.

    Raises:
        ValueError: If a run is there twice, settings are none of its method, there is nothing to
            adapt, or a budget is less than an episode or missing.
    """
    if fast:  # what is wrong with the grid as it is
        expand(grid)
    trainings: dict[str, Training] = {}
    for runs, (preset, method, seed) in _combinations(grid, fast):
        job = _training(grid, fast, preset, method, seed, runs.changes)
        if job.name in trainings:
            raise ValueError(f"Expected each run once, but {job.name} is there twice.")
        trainings[job.name] = job
    jobs: list[Job] = [*trainings.values()]
    if grid.oracle is not None:
        jobs += _oracles(grid, grid.oracle, fast)
    if grid.adapt is not None:
        ours = [job for job in trainings.values() if job.method == OURS]
        if not ours:
            raise ValueError(
                f"Expected a run by {OURS} to [adapt]; other methods adapt by their own means, as "
                "[evaluate] has it. Leave [adapt] out."
            )
        jobs += _adaptations(ours, grid.adapt, fast)
    return jobs


def _combinations(grid: Grid, fast: bool) -> Iterator[tuple[Runs, tuple[str, str, int]]]:
    for runs in grid.runs:
        seeds = runs.seeds[:1] if fast else runs.seeds
        for each in itertools.product(runs.presets, runs.methods, seeds):
            yield runs, each


def _training(
    grid: Grid, fast: bool, preset: str, method: str, seed: int, changes: dict[str, Any]
) -> Training:
    settings, _, _ = training(method, merged(usual_settings(method, preset), changes))
    if fast:  # what the preset leaves to defaults, too
        settings, _, _ = training(method, _capped(settings))
    return Training(
        preset=preset,
        method=method,
        seed=seed,
        settings=settings,
        episodes=1 if fast else grid.evaluate.episodes,
        evaluation_seeds=1 if fast else grid.evaluate.seeds,
        evaluation_tasks=_FAST_TASKS if fast else grid.evaluate.tasks,
    )


def _oracles(grid: Grid, oracle: Oracles, fast: bool) -> Iterator[Oracle]:
    presets = dict.fromkeys(preset for runs in grid.runs for preset in runs.presets)
    seeds = oracle.seeds[:1] if fast else oracle.seeds
    for preset in presets:
        usual = usual_settings("sac", preset)
        tasks = task_set(usual["family"], usual["task_set"])
        most = _FAST_TASKS if fast else oracle.tasks
        last, count = len(tasks.meta_test) - 1, min(oracle.tasks, most, len(tasks.meta_test))
        for number in np.linspace(0, last, count).astype(int).tolist():
            changes = {**oracle.changes, "task": len(tasks.meta_train) + number}
            for seed in seeds:
                run = _training(grid, fast, preset, "sac", seed, changes)
                yield Oracle(**vars(run), task=number)


def _adaptations(runs: list[Training], adapt: Adaptations, fast: bool) -> Iterator[Adapting]:
    seeds = adapt.seeds[:1] if fast else adapt.seeds
    for run, (arm, changes), seed in itertools.product(runs, adapt.arms.items(), seeds):
        given = {key: value for key, value in changes.items() if key != "rounds"}
        rounds = ContinueConfig(**changes.get("rounds", {}))
        if "rounds" in changes and not adapt.budget:
            raise ValueError(
                f"Expected [adapt] budget with rounds of {arm}, which say how it is spent."
            )
        steps = run.settings["episode_steps"]
        if not fast and 0 < adapt.budget < steps:
            raise ValueError(
                f"Expected [adapt] budget of 0, or at least an episode of {run.name}, {steps} "
                f"transitions, got {adapt.budget}."
            )
        settings = merged(run.settings["adapt"], given)
        config = AdaptConfig.from_dict(settings)
        if adapt.compare:
            config = with_all_stages(config)
        settings = config.to_dict()
        values = {k: v for k, v in run.settings.items() if k != "adapt"}
        tasks = MetaTrainConfig.from_dict(values).tasks
        first, last = len(tasks.meta_train), len(tasks)
        yield Adapting(
            preset=run.preset,
            method=run.method,
            seed=run.seed,
            settings=_capped(settings) if fast else settings,
            episodes=1 if fast else adapt.episodes,
            arm=arm,
            adaptation_seed=seed,
            tasks=list(range(first, min(last, first + _FAST_TASKS) if fast else last)),
            budget=min(adapt.budget, _FAST_BUDGET) if fast else adapt.budget,
            rounds=_capped(dataclasses.asdict(rounds)) if fast else dataclasses.asdict(rounds),
        )


def _capped(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a fast sweep."""
    return {
        key: _capped(value)
        if isinstance(value, dict)
        else min(value, FAST.get(key, value))
        if type(value) is int
        else value
        for key, value in settings.items()
    }
