"""Evaluation of whatever was meta-trained: returns before and after adaptation to each task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._checks import Seed, Size, checked
from mier_adapt._products import quick_products
from mier_adapt._storage.randomness import forked_global_generators
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.rollouts import Rollout, collect_episodes
from mier_adapt.protocols import MetaPolicy
from mier_adapt.statistics import summarize
from mier_adapt.transitions import Transitions
from mier_adapt_envs import Task


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskEvaluation:
    """One task before and after adaptation to it."""

    task: Task
    """The task that was identified and acted on."""
    returns_initial: NDArray[np.floating]
    """Undiscounted returns of deterministic episodes before adaptation, ``(E,)``."""
    returns_adapted: NDArray[np.floating]
    """The same from the same starts after it, ``(E,)``."""
    loss_initial: float | None
    """Loss of the actor's model, if it has one, on fresh transitions, before adaptation."""
    loss_adapted: float | None
    """The same after it."""
    loss_others: float | None
    """The same under the best of the other tasks' contexts, where there are others: where it is
    lower, the context does not identify the task among them."""


@checked
@quick_products()
def evaluate(
    policy: MetaPolicy,
    envs: FamilyEnvs,
    tasks: Sequence[Task],
    *,
    seed: Seed,
    adaptation_steps: Size,
    episodes: Size = 1,
    episode_steps: Size | None = None,
) -> list[TaskEvaluation]:
    """Adapt to each task from fresh transitions, then act on it.

    Draws nothing from the generators of a training run. Every task, before and after adaptation,
    sees the same starts.

    Args:
        policy: A :class:`.Run`, or any :class:`.MetaPolicy`; not changed.
        envs: The family's environments.
        tasks: Tasks of the family.
        seed: Fixes adaptation data and starts.
        adaptation_steps: Transitions of each task that it adapts to.
        episodes: Deterministic episodes, before and after; one after the other for an actor that
            remembers, which goes on learning in them.
        episode_steps: Environment steps of an episode; by default the family's.

    Raises:
        ValueError: If there are no tasks, or one is of another family.
    """
    envs.require_family("evaluate", tasks)
    length = episode_steps or envs.episode_steps
    generator = np.random.default_rng(seed)
    with forked_global_generators(seed):
        adaptation, fresh = (
            stack_tasks(
                collect_episodes(
                    envs.of_size,
                    tasks,
                    policy.initial_actor(len(tasks)),
                    steps=adaptation_steps,
                    episode_steps=length,
                    generator=generator,
                ),
                adaptation_steps,
            )
            for _ in range(2)
        )
        actors = policy.initial_actor(len(tasks)), policy.adapt(adaptation)
        others = _best_of_others(actors[1], fresh)
        losses = [
            loss(fresh).tolist() if (loss := getattr(actor, "loss", None)) else [None] * len(tasks)
            for actor in actors
        ]
        returns = [
            [
                rollout.first_returns
                for rollout in collect_episodes(
                    envs.of_size,
                    tasks,
                    actor,
                    steps=episodes * length,
                    episode_steps=length,
                    generator=np.random.default_rng(seed + 1),
                    explore=False,
                    until_end=True,
                )
            ]
            for actor in actors
        ]
    return [
        TaskEvaluation(
            task=task,
            returns_initial=returns[0][i],
            returns_adapted=returns[1][i],
            loss_initial=losses[0][i],
            loss_adapted=losses[1][i],
            loss_others=others[i],
        )
        for i, task in enumerate(tasks)
    ]


def _best_of_others(actor: Any, fresh: Transitions) -> list[float] | list[None]:
    """Each task's least loss under another one's context, if the actor has a model."""
    if len(fresh) < 2 or not hasattr(actor, "cross_losses"):
        return [None] * len(fresh)
    losses = actor.cross_losses(fresh).fill_diagonal_(torch.inf)
    best: list[float] = losses.amin(1).tolist()
    return best


def stack_tasks(rollouts: Sequence[Rollout], steps: int) -> Transitions:
    """The first ``steps`` transitions of each task's rollout, shape ``(T, steps, ...)``."""
    flat = [rollout.transitions.flatten() for rollout in rollouts]
    return Transitions.stack([transitions[:steps] for transitions in flat])


@checked
def evaluation_record(
    policy: MetaPolicy,
    envs: FamilyEnvs,
    splits: Mapping[str, Sequence[Task]],
    *,
    seeds: Size,
    episodes: Size,
    adaptation_steps: Size,
    episode_steps: Size | None = None,
    on_stage: Callable[[str, float], None] = lambda stage, done: None,
) -> dict[str, Any]:
    """Evaluate several tasks with several adaptation seeds, as plain values for JSON.

    Args:
        policy: As :func:`evaluate`, like all that are not named here.
        envs: See there.
        splits: Tasks by the name of their split, e.g. ``train`` and ``test``.
        seeds: Adaptation seeds; each gathers its own transitions.
        episodes: See there.
        adaptation_steps: See there.
        episode_steps: See there.
        on_stage: Told which tasks are evaluated with which seed, and the share that is done.

    Returns:
        How it was measured; under ``summary`` mean and interquartile mean of each split before and
        after adaptation, with 95% intervals over seeds; under ``identified`` in how many tasks of
        each split no other task's context predicts better, None without a model; and under
        ``splits``, for each task, its label, parameters and, a number for each seed,
        ``return_initial``, ``return_adapted`` (means over episodes), ``loss_initial``,
        ``loss_adapted`` and ``loss_others``.
    """
    record: dict[str, Any] = {
        "family": envs.task_set.family,
        "task_set": envs.task_set.name,
        "seeds": seeds,
        "episodes": episodes,
        "adaptation_steps": adaptation_steps,
        "summary": {},
        "identified": {},
        "splits": {},
    }
    total, done = seeds * sum(map(len, splits.values())), 0
    for split, tasks in splits.items():
        by_seed = []
        for seed in range(seeds):
            on_stage(f"{split} tasks, seed {seed}", done / total)
            evaluations = evaluate(
                policy,
                envs,
                tasks,
                seed=1000 * seed,
                adaptation_steps=adaptation_steps,
                episodes=episodes,
                episode_steps=episode_steps,
            )
            by_seed.append(evaluations)
            done += len(tasks)
        record["splits"][split] = [
            {
                "task": str(task),
                "parameters": list(task.parameters),
                "return_initial": [float(each.returns_initial.mean()) for each in evaluations],
                "return_adapted": [float(each.returns_adapted.mean()) for each in evaluations],
                "loss_initial": [each.loss_initial for each in evaluations],
                "loss_adapted": [each.loss_adapted for each in evaluations],
                "loss_others": [each.loss_others for each in evaluations],
            }
            for task, evaluations in zip(tasks, zip(*by_seed, strict=True), strict=True)
        ]
        record["summary"][split] = {
            context: summarize(
                np.array([row[f"return_{context}"] for row in record["splits"][split]])
            )
            for context in ("initial", "adapted")
        }
        record["identified"][split] = _identified(record["splits"][split])
    return record


def _identified(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """In how many tasks, over all seeds, no other task's context had a lower loss."""
    if any(loss is None for row in rows for loss in row["loss_others"]):
        return None
    return sum(bool(np.mean(row["loss_adapted"]) < np.mean(row["loss_others"])) for row in rows)
