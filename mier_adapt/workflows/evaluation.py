"""Evaluation: returns and model losses before and after identifying each task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._checks import require_array, require_int, require_seed, require_types
from mier_adapt.integration import Rollout, collect
from mier_adapt.transitions import Transitions
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.randomness import forked_global_generators
from mier_adapt.workflows.runs import Run
from mier_adapt.workflows.statistics import summarize
from mier_adapt_envs import Task

__all__ = ["TaskEvaluation", "collect_for_tasks", "evaluate_tasks", "evaluation_record"]


@dataclass(frozen=True, eq=False, kw_only=True)
class TaskEvaluation:
    """One task under the initial context and under its adapted one."""

    task: Task
    """The task that was identified and acted on."""
    context: NDArray[np.floating]
    """The adapted context, ``(C,)``."""
    returns_initial: NDArray[np.floating]
    """Undiscounted returns of deterministic episodes under the initial context, ``(E,)``."""
    returns_adapted: NDArray[np.floating]
    """The same from the same starts under the adapted context, ``(E,)``."""
    loss_initial: float
    """Model loss on fresh initial-context transitions, under the initial context."""
    loss_adapted: float
    """The same under the adapted context."""


def collect_for_tasks(
    run: Run,
    envs: TaskEnvs,
    tasks: Sequence[Task],
    contexts: NDArray[np.floating],
    *,
    steps: int,
    generator: np.random.Generator,
    explore: bool = True,
) -> list[Rollout]:
    """Run each task for ``steps`` environment steps under its context, side by side.

    Args:
        run: Gives the policy and the length of an episode.
        envs: The family's environments.
        tasks: T tasks.
        contexts: ``(T, C)``.
        steps: Steps of each task, rounded up to whole episodes.
        generator: Draws the starts.
        explore: Sample the policy's actions instead of taking the most probable.

    Returns:
        For each task a rollout of shape ``(episodes, episode_steps)``.

    Raises:
        ValueError: If there are no steps, or as :func:`mier_adapt.integration.collect`.
        FloatingPointError: As :func:`mier_adapt.integration.collect`.
    """
    require_types(
        "collect_for_tasks", run=(run, Run), envs=(envs, TaskEnvs), tasks=(tasks, Sequence)
    )
    require_int("collect_for_tasks", "steps", steps, least=1)
    contexts = require_array("collect_for_tasks", "contexts", contexts, np.float32)
    if contexts.ndim != 2 or not 0 < len(contexts) == len(tasks):
        raise ValueError(
            "collect_for_tasks expected at least one of tasks, and contexts of shape "
            f"({len(tasks)}, C), got shape {contexts.shape}."
        )
    length = min(steps, run.config.episode_steps)
    episodes = -(-steps // length)
    rollout = collect(
        envs.of_size(len(tasks) * episodes),
        [task for task in tasks for _ in range(episodes)],
        run.algorithm.policy,
        np.repeat(contexts, episodes, axis=0),
        steps=length,
        generator=generator,
        explore=explore,
    )
    slots = (slice(i, i + episodes) for i in range(0, len(tasks) * episodes, episodes))
    return [Rollout(rollout.transitions[slot], rollout.truncated[slot]) for slot in slots]


def stack_tasks(rollouts: Sequence[Rollout], steps: int) -> Transitions:
    """The first ``steps`` transitions of each task's rollout, shape ``(T, steps, ...)``."""
    flat = [rollout.transitions.flatten() for rollout in rollouts]
    return Transitions.stack([transitions[:steps] for transitions in flat])


def evaluate_tasks(
    run: Run,
    envs: TaskEnvs,
    tasks: Sequence[Task],
    *,
    seed: int,
    episodes: int = 1,
    context_steps: int | None = None,
) -> list[TaskEvaluation]:
    """Identify each task from fresh initial-context transitions, then act on it.

    Draws nothing from the generators of a training run. Every task, and both contexts, see
    the same starts.

    Args:
        run: The agent; not changed.
        envs: The family's environments.
        tasks: Tasks of the family.
        seed: Fixes adaptation data and starts.
        episodes: Deterministic episodes under each of the two contexts.
        context_steps: Context steps, if not those of meta-training.

    Raises:
        ValueError: If there are no episodes or no tasks, or a task is of another family.
    """
    require_types("evaluate_tasks", run=(run, Run), envs=(envs, TaskEnvs), tasks=(tasks, Sequence))
    require_seed("evaluate_tasks", seed)
    require_int("evaluate_tasks", "episodes", episodes, least=1)
    if not tasks:
        raise ValueError("evaluate_tasks expected at least one of tasks, got none.")
    config = run.config
    budget = config.adapt.adaptation_steps
    initial_C = run.model.initial_context.detach()
    initial_TC = initial_C.expand(len(tasks), -1).cpu().numpy()
    generator = np.random.default_rng(seed)
    with forked_global_generators(seed):
        adaptation, fresh = (
            stack_tasks(
                collect_for_tasks(run, envs, tasks, initial_TC, steps=budget, generator=generator),
                budget,
            ).to(run.device)
            for _ in range(2)
        )
        contexts = run.adapter.adapt(adaptation, steps=context_steps)
        with torch.no_grad():
            loss_initial = run.model.loss(fresh, initial_C)
            loss_adapted = run.model.loss(fresh, contexts)
        returns = []
        for used in (initial_TC, contexts.cpu().numpy()):
            rollouts = collect_for_tasks(
                run,
                envs,
                tasks,
                used,
                steps=episodes * config.episode_steps,
                generator=np.random.default_rng(seed + 1),
                explore=False,
            )
            returns.append([rollout.first_returns for rollout in rollouts])
    return [
        TaskEvaluation(
            task=task,
            context=contexts[i].cpu().numpy(),
            returns_initial=returns[0][i],
            returns_adapted=returns[1][i],
            loss_initial=float(loss_initial[i]),
            loss_adapted=float(loss_adapted[i]),
        )
        for i, task in enumerate(tasks)
    ]


def evaluation_record(
    run: Run,
    envs: TaskEnvs,
    splits: Mapping[str, Sequence[Task]],
    *,
    seeds: int,
    episodes: int,
    context_steps: int | None = None,
) -> dict[str, Any]:
    """Evaluate several tasks with several adaptation seeds, as plain values for JSON.

    Args:
        run: The agent; not changed.
        envs: The family's environments.
        splits: Tasks by the name of their split, e.g. ``train`` and ``test``.
        seeds: Adaptation seeds; each gathers its own transitions.
        episodes: Deterministic episodes for each task, context and seed.
        context_steps: Context steps, if not those of meta-training.

    Returns:
        How it was measured; under ``summary`` mean and interquartile mean of each split and
        context, with 95% intervals over seeds; and under ``splits``, for each task, its label,
        parameters and, a number for each seed, ``return_initial``, ``return_adapted`` (means
        over episodes), ``loss_initial`` and ``loss_adapted``.

    Raises:
        ValueError: As :func:`evaluate_tasks`, or if there are no seeds.
    """
    require_types(
        "evaluation_record", run=(run, Run), envs=(envs, TaskEnvs), splits=(splits, Mapping)
    )
    require_int("evaluation_record", "seeds", seeds, least=1)
    require_int("evaluation_record", "episodes", episodes, least=1)
    if context_steps is not None:
        require_int("evaluation_record", "context_steps", context_steps, least=0)
    record: dict[str, Any] = {
        "family": run.config.family,
        "task_set": run.config.task_set,
        "seeds": seeds,
        "episodes": episodes,
        "context_steps": run.adapter.steps if context_steps is None else context_steps,
        "adaptation_steps": run.config.adapt.adaptation_steps,
        "summary": {},
        "splits": {},
    }
    for split, tasks in splits.items():
        by_seed = [
            evaluate_tasks(
                run, envs, tasks, seed=1000 * seed, episodes=episodes, context_steps=context_steps
            )
            for seed in range(seeds)
        ]
        record["splits"][split] = [
            {
                "task": str(task),
                "parameters": list(task.parameters),
                "return_initial": [float(each.returns_initial.mean()) for each in evaluations],
                "return_adapted": [float(each.returns_adapted.mean()) for each in evaluations],
                "loss_initial": [each.loss_initial for each in evaluations],
                "loss_adapted": [each.loss_adapted for each in evaluations],
            }
            for task, evaluations in zip(tasks, zip(*by_seed, strict=True), strict=True)
        ]
        record["summary"][split] = {
            context: summarize(
                np.array([row[f"return_{context}"] for row in record["splits"][split]])
            )
            for context in ("initial", "adapted")
        }
    return record
