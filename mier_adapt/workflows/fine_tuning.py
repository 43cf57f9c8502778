"""Algorithm 2: adapt a meta-trained run to one new task by identifying and relabeling."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt.context_adapter import FineTuneResult
from mier_adapt.integration import (
    MixedReplayBuffer,
    relabeling_policy,
    restart_optimizers,
    update,
)
from mier_adapt.integration.collection import require_finite_parameters
from mier_adapt.relabeler import ExperienceRelabeler
from mier_adapt.transitions import Transitions
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.evaluation import collect_for_tasks
from mier_adapt.workflows.randomness import forked_global_generators
from mier_adapt.workflows.runs import Run
from mier_adapt_envs import Task, termination_fn

__all__ = ["AdaptationReport", "fine_tune_by_relabeling"]


@dataclass(frozen=True, kw_only=True)
class AdaptationReport:
    """What an adaptation cost and what each of its stages achieved."""

    task: str
    """The new task's label."""
    parameters: tuple[float, ...]
    """The new task's parameters."""
    seed: int
    real_transitions: int
    """Environment steps that the adaptation spent."""
    evaluation_transitions: int
    """Environment steps spent on the returns below, which steer nothing."""
    returns: dict[str, tuple[float, ...]]
    """Undiscounted returns of deterministic episodes from common starts, after each stage:
    ``initial context``, ``adapted context`` and, where it ran, ``relabeled``."""
    train_loss: tuple[float, float, float]
    """Model loss on the adaptation data: at first, with the adapted context, and with the
    fine-tuned weights."""
    validation_loss: tuple[float, float, float]
    """The same on the held-out fifth."""
    weight_steps: int
    """Weight steps behind the model that was kept."""
    relabeled: bool
    """Whether the policy was trained on relabeled experience."""
    reason: str
    """Why, or why not."""
    synthetic_transitions: int
    """Transitions that were relabeled."""
    updates: int
    """SAC updates on them."""
    seconds: dict[str, float]
    """Wall-clock time of each stage."""


def fine_tune_by_relabeling(
    run: Run,
    envs: TaskEnvs,
    task: Task,
    *,
    seed: int,
    evaluation_episodes: int = 4,
    on_stage: Callable[[str, float], None] = lambda stage, progress: None,
) -> tuple[Any, torch.Tensor, AdaptationReport]:
    """Adapt to a task that the run has not seen.

    Gathers real transitions with the initial context; fits context and model to them; predicts
    what other tasks' stored experience would have been in this task; and goes on with SAC on a
    mixture of both. The run itself is not changed.

    Args:
        run: A meta-trained run. ``run.config.adapt`` says how it adapts.
        envs: The family's environments.
        task: Any task of the family.
        seed: Fixes the adaptation.
        evaluation_episodes: Deterministic episodes after each stage; they only measure.
        on_stage: Told the stage and its progress from 0 to 1.

    Returns:
        The adapted algorithm, the policy's context ``(C,)``, and the report.

    Raises:
        ValueError: If the task is of another family or the run has no experience.
        FloatingPointError: If a loss, an action, a prediction or a parameter stops being finite;
            names it, the step and the task. No policy is given back then.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, Algorithm 2. Ours: validation decides how
        many weight steps count; few updates with a low step size of the actor, since longer
        training on a model's predictions loses what it gained; the temperature is fixed.
    """
    if task.family != run.config.family:
        raise ValueError(
            f"fine_tune_by_relabeling expected a task of {run.config.family}, got one of "
            f"{task.family}."
        )
    if evaluation_episodes < 1:
        raise ValueError(
            f"fine_tune_by_relabeling expected evaluation_episodes >= 1, got {evaluation_episodes}."
        )
    config = run.config.adapt
    generator = np.random.default_rng(seed)
    seconds: dict[str, float] = {}
    returns: dict[str, tuple[float, ...]] = {}

    def evaluate(stage: str, context: torch.Tensor, policy_run: Run) -> None:
        returns[stage] = _evaluate(policy_run, envs, task, context, seed, evaluation_episodes)

    with forked_global_generators(seed):
        started = time.monotonic()
        on_stage("collect", 0.0)
        initial = run.model.initial_context.detach()
        (rollout,) = collect_for_tasks(
            run,
            envs,
            [task],
            initial[None].cpu().numpy(),
            steps=config.adaptation_steps,
            generator=generator,
        )
        real = rollout.transitions.flatten()[: config.adaptation_steps].to(run.device)
        truncated = rollout.truncated.reshape(-1)[: config.adaptation_steps]
        seconds["collect"] = time.monotonic() - started

        started = time.monotonic()
        on_stage("identify", 0.0)
        try:
            fitted = run.adapter.fine_tune(
                real,
                context_steps=config.context_steps,
                weight_steps=config.weight_steps,
                weight_lr=config.weight_lr,
                generator=torch.Generator().manual_seed(seed),
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"Adapting to task {task}: {error}") from error
        seconds["identify"] = time.monotonic() - started
        evaluate("initial context", initial, run)
        evaluate("adapted context", fitted.context, run)

        relabeled, reason = _decide(fitted, config.validation_threshold)
        adapted = copy.copy(run)
        adapted.algorithm = copy.deepcopy(run.algorithm)
        synthetic = 0
        started = time.monotonic()
        if relabeled:
            synthetic = _train_on_relabeled(
                adapted,
                task,
                fitted,
                real,
                truncated,
                generator=generator,
                seed=seed,
                on_stage=on_stage,
            )
            seconds["relabel"] = time.monotonic() - started
            evaluate("relabeled", fitted.context, adapted)
    updates = config.relabel_rounds * config.updates_per_round if relabeled else 0
    report = AdaptationReport(
        task=str(task),
        parameters=task.parameters,
        seed=seed,
        real_transitions=len(real),
        evaluation_transitions=len(returns) * evaluation_episodes * run.config.episode_steps,
        returns=returns,
        train_loss=(fitted.train_loss_initial, fitted.train_loss_context, fitted.train_loss_final),
        validation_loss=(
            fitted.validation_loss_initial,
            fitted.validation_loss_context,
            fitted.validation_loss_final,
        ),
        weight_steps=fitted.weight_steps,
        relabeled=relabeled,
        reason=reason,
        synthetic_transitions=synthetic,
        updates=updates,
        seconds=seconds,
    )
    return adapted.algorithm, fitted.context, report


def _decide(fitted: FineTuneResult, threshold: float | None) -> tuple[bool, str]:
    """Whether the model is fit to relabel with, by what it predicts on held-out data."""
    loss = fitted.validation_loss_final
    if threshold is not None:
        if loss < threshold:
            return True, f"validation loss {loss:.2f} is below the threshold {threshold:g}"
        return False, f"validation loss {loss:.2f} is not below the threshold {threshold:g}"
    before = fitted.validation_loss_initial
    if loss < before:
        return True, f"validation loss fell from {before:.2f} to {loss:.2f}"
    return False, f"validation loss did not fall ({before:.2f} to {loss:.2f})"


def _train_on_relabeled(
    run: Run,
    task: Task,
    fitted: FineTuneResult,
    real: Transitions,
    truncated: NDArray[np.bool_],
    *,
    generator: np.random.Generator,
    seed: int,
    on_stage: Callable[[str, float], None],
) -> int:
    """Relabel other tasks' experience and train ``run.algorithm`` on it, in turns."""
    config = run.config.adapt
    restart_optimizers(run.algorithm, actor_lr=config.actor_lr, critic_lr=config.critic_lr)
    varies_dynamics = fitted.model.varies != "reward"
    relabeler = ExperienceRelabeler(
        fitted.model,
        fitted.context,
        policy=relabeling_policy(run.algorithm.policy, fitted.context) if varies_dynamics else None,
        termination_fn=termination_fn(run.config.family) if varies_dynamics else None,
        generator=torch.Generator(run.device).manual_seed(seed),
    )
    buffer = MixedReplayBuffer(
        len(real),
        config.relabel_rounds * config.relabel_size,
        obs_dim=fitted.model.obs_dim,
        act_dim=fitted.model.act_dim,
        context=fitted.context,
        real_fraction=config.real_fraction,
        generator=generator,
    )
    buffer.extend_real(real, truncated=truncated)
    for done in range(config.relabel_rounds):
        for chunk in relabeler.stream(
            _stored(run, config.relabel_size, relabeler.chunk_size, generator)
        ):
            buffer.extend_synthetic(chunk)
        for count in range(config.updates_per_round):
            losses = update(run.algorithm, buffer, config.batch_size)
            if not all(math.isfinite(loss) for loss in losses.values()):
                raise FloatingPointError(
                    f"Adapting to task {task}: SAC's losses are {losses} at update {count} of "
                    f"relabeling {done}. The run is unchanged; lower adapt.critic_lr."
                )
            on_stage(
                "relabel", (done + (count + 1) / config.updates_per_round) / config.relabel_rounds
            )
    require_finite_parameters(run.algorithm, f"Adapting to task {task}: SAC")
    return config.relabel_rounds * config.relabel_size


def _stored(
    run: Run, count: int, chunk_size: int, generator: np.random.Generator
) -> Iterator[Transitions]:
    """``count`` stored transitions, drawn evenly over the meta-training tasks, in chunks."""
    tasks = np.arange(run.replay.num_tasks)
    while count > 0:
        size = min(count, chunk_size)
        per_task = -(-size // len(tasks))
        drawn = run.replay.sample_transitions(
            tasks, per_task, adaptation=False, generator=generator
        ).flatten()
        order = torch.from_numpy(generator.permutation(len(drawn))[:size])
        yield drawn[order].to(run.device)
        count -= size


def _evaluate(
    run: Run, envs: TaskEnvs, task: Task, context: torch.Tensor, seed: int, episodes: int
) -> tuple[float, ...]:
    (rollout,) = collect_for_tasks(
        run,
        envs,
        [task],
        context[None].cpu().numpy(),
        steps=episodes * run.config.episode_steps,
        generator=np.random.default_rng(seed + 1),
        explore=False,
    )
    return tuple(float(value) for value in rollout.first_returns)
