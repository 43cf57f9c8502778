"""Algorithm 2: adapt a meta-trained run to one new task, stage by stage.

identify → refresh the actor → refine the model → relabel and train → gate. ``run.config.adapt``
switches stages off; the preset ``…-paper`` keeps what the paper has.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mier_adapt._checks import require_int, require_seed, require_types
from mier_adapt.context_adapter import FineTuneResult
from mier_adapt.workflows.adaptation_report import AdaptationReport, Decision, novelty
from mier_adapt.workflows.adaptation_stages import (
    draw_stored,
    earlier_contexts,
    passes_gate,
    refine,
    refresh,
    train_on_relabeled,
)
from mier_adapt.workflows.agents import Agent
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.identification import identify
from mier_adapt.workflows.new_tasks import NewTask
from mier_adapt.workflows.presets import AdaptConfig
from mier_adapt.workflows.randomness import forked_global_generators
from mier_adapt.workflows.runs import Run
from mier_adapt_envs import Task

__all__ = ["Adaptation", "adapt_agent", "fine_tune_by_relabeling"]

_PROBE = 1024
"""Transitions on which the refined models are compared."""


class Adaptation(NamedTuple):
    """What an adaptation hands back."""

    algorithm: Any
    """A copy of the agent's, adapted, whose policy takes what the agent's does."""
    context: torch.Tensor
    """The task's context, as the model knows it, ``(C,)``."""
    report: AdaptationReport
    """What it cost, what it achieved, and why this policy and no other."""


def fine_tune_by_relabeling(
    run: Run,
    envs: TaskEnvs,
    task: Task,
    *,
    seed: int,
    evaluation_episodes: int = 4,
    checkpoint: Path | None = None,
    on_stage: Callable[[str, float], None] = lambda stage, progress: None,
) -> Adaptation:
    """Adapt to a task that the run has not seen.

    Gathers real transitions and identifies the task's context; trains the actor alone against
    the critics; fits copies of the model to the new task while they rehearse the earlier ones;
    predicts what earlier tasks' stored experience would have been in this task, and goes on with
    SAC on a mixture of both; compares the result with the policy that only knows the new context
    in real episodes, and hands back the better one. The run itself is not changed.

    Args:
        run: A meta-trained run. ``run.config.adapt`` says how it adapts.
        envs: The family's environments.
        task: Any task of the family.
        seed: Fixes the adaptation.
        evaluation_episodes: Deterministic episodes after each stage; they only measure.
        checkpoint: File that keeps the real transitions, which are what an adaptation cannot
            compute again. If it is there, the same call goes on from them and ends with the same
            policy, bit for bit on the same machine's CPU. Delete it after the adaptation.
        on_stage: Told the stage and its progress from 0 to 1.

    Raises:
        ValueError: If the task is of another family, the run has no experience, or the checkpoint
            is of another adaptation.
        CheckpointError: If the checkpoint is damaged.
        FloatingPointError: If a loss, an action, a prediction or a parameter stops being finite;
            names it, the step and the task. No policy is given back then.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, Algorithm 2. Ours: several rounds of
        identification, the actor-only stage, rehearsal, several models, few updates with a low
        step size of the actor, the fixed temperature, and the gate.
    """
    require_types(
        "fine_tune_by_relabeling", run=(run, Run), envs=(envs, TaskEnvs), task=(task, Task)
    )
    if task.family != run.config.family:
        raise ValueError(
            f"fine_tune_by_relabeling expected a task of {run.config.family}, got one of "
            f"{task.family}."
        )
    return adapt_agent(
        run,
        NewTask.of_family(envs, task, episode_steps=run.config.episode_steps),
        run.config.adapt,
        seed=seed,
        evaluation_episodes=evaluation_episodes,
        checkpoint=checkpoint,
        on_stage=on_stage,
    )


def adapt_agent(
    agent: Agent,
    task: NewTask,
    config: AdaptConfig,
    *,
    seed: int,
    evaluation_episodes: int = 4,
    checkpoint: Path | None = None,
    on_stage: Callable[[str, float], None] = lambda stage, progress: None,
) -> Adaptation:
    """:func:`fine_tune_by_relabeling` for an agent from anywhere, in an environment from anywhere.

    For a policy that knows no context the actor-only stage is left out (there is no new context to
    learn under), and the policy to beat is the one that came, ``unchanged``.

    Args:
        agent: What is adapted; not changed.
        task: The new task, with its environments.
        config: How.
        seed: As in :func:`fine_tune_by_relabeling`, like all that follow.
        evaluation_episodes: See there.
        checkpoint: See there.
        on_stage: See there.

    Raises:
        ValueError: If the agent has no experience, dynamics vary and the task has no rule for the
            end of an episode, or the checkpoint is of another adaptation.
        CheckpointError: If the checkpoint is damaged.
        FloatingPointError: As :func:`fine_tune_by_relabeling`.

    Source:
        As :func:`fine_tune_by_relabeling`.
    """
    require_types(
        "adapt_agent",
        agent=(agent, Agent),
        task=(task, NewTask),
        config=(config, AdaptConfig),
        checkpoint=(checkpoint, (Path, type(None))),
        on_stage=(on_stage, Callable),
    )
    require_seed("adapt_agent", seed)
    require_int("adapt_agent", "evaluation_episodes", evaluation_episodes, least=1)
    generator = np.random.default_rng(seed)
    returns: dict[str, tuple[float, ...]] = {}
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        on_stage(name, 0.0)
        started = time.monotonic()
        yield
        seconds[name] = time.monotonic() - started

    def evaluate(name: str, algorithm: Any, context: torch.Tensor) -> None:
        returns[name] = task.returns(
            algorithm.policy,
            agent.policy_context(context),
            episodes=evaluation_episodes,
            generator=np.random.default_rng(seed + 1),
        )

    safe: Decision = "adapted context" if agent.conditioned else "unchanged"
    with forked_global_generators(seed):
        with stage("identify"):
            found = identify(
                agent, task, config, seed=seed, generator=generator, checkpoint=checkpoint
            )
            contexts = earlier_contexts(agent, config, generator)
        context = found.context
        if agent.conditioned:
            evaluate("initial context", agent.algorithm, agent.model.initial_context.detach())
        evaluate(safe, agent.algorithm, context)
        algorithms: dict[Decision, Any] = {safe: copy.deepcopy(agent.algorithm)}

        if config.refresh_updates and agent.conditioned:
            with stage("refresh"):
                algorithms["actor only"] = refresh(agent, config, context, generator)
            evaluate("actor only", algorithms["actor only"], context)

        with stage("refine"):
            fitted = refine(agent, task, config, found.real, contexts, generator)
        earlier_loss = _earlier_loss(agent, fitted, contexts)
        disagreement = _disagreement(agent, fitted)

        updates = config.relabel_rounds * config.updates_per_round
        trusted, reason = _trust(fitted, config)
        if trusted:
            with stage("relabel"):
                algorithms["relabeled"] = train_on_relabeled(
                    agent,
                    task,
                    config,
                    fitted,
                    found,
                    generator,
                    on_update=lambda made: on_stage("relabel", made / updates),
                )
            evaluate("relabeled", algorithms["relabeled"], context)

        gate_returns: dict[str, tuple[float, ...]] = {}
        candidate = list(algorithms)[-1]
        decision: Decision = candidate
        if config.gate_episodes and candidate != safe:
            with stage("gate"):
                starts = generator.integers(2**31)  # the same for both
                for name in (safe, candidate):
                    gate_returns[name] = task.returns(
                        algorithms[name].policy,
                        agent.policy_context(context),
                        episodes=config.gate_episodes,
                        generator=np.random.default_rng(starts),
                    )
            accepted, reason = passes_gate(
                gate_returns[safe], gate_returns[candidate], config.gate_margin
            )
            decision = candidate if accepted else safe

    report = AdaptationReport(
        task=task.label,
        parameters=task.parameters,
        seed=seed,
        decision=decision,
        reason=reason,
        real_transitions=len(found.real),
        gate_transitions=len(gate_returns) * config.gate_episodes * task.episode_steps,
        evaluation_transitions=len(returns) * evaluation_episodes * task.episode_steps,
        returns=returns,
        gate_returns=gate_returns,
        novelty=novelty(agent, found.real, context, contexts),
        train_loss=_mean_losses(fitted, "train"),
        validation_loss=_mean_losses(fitted, "validation"),
        earlier_tasks_loss=earlier_loss,
        disagreement=disagreement,
        weight_steps=tuple(each.weight_steps for each in fitted),
        synthetic_transitions=config.relabel_rounds * config.relabel_size if trusted else 0,
        updates=updates if trusted else 0,
        seconds=seconds,
    )
    return Adaptation(algorithms[decision], context, report)


def _trust(fitted: list[FineTuneResult], config: AdaptConfig) -> tuple[bool, str]:
    """Whether the models may relabel, by what they predict on held-out data."""
    if not config.relabel_rounds:
        return False, "relabeling is switched off"
    loss = _mean_losses(fitted, "validation")[2]
    threshold = config.validation_threshold
    if threshold is None:
        return True, "there is no gate"
    if loss < threshold:
        return True, f"validation loss {loss:.2f} is below the threshold {threshold:g}"
    return False, f"validation loss {loss:.2f} is not below the threshold {threshold:g}"


def _mean_losses(fitted: list[FineTuneResult], part: str) -> tuple[float, float, float]:
    initial, context, final = (
        float(np.mean([getattr(each, f"{part}_loss_{when}") for each in fitted]))
        for when in ("initial", "context", "final")
    )
    return initial, context, final


@torch.no_grad()
def _earlier_loss(
    agent: Agent, fitted: list[FineTuneResult], contexts: torch.Tensor
) -> tuple[float, float]:
    """Loss on earlier tasks' transitions under their contexts, before and after refinement."""
    per_task = max(1, _PROBE // agent.replay.num_tasks)
    stored = agent.replay.sample_transitions(
        np.arange(len(contexts)), per_task, adaptation=False, generator=np.random.default_rng(0)
    ).to(agent.device)
    after = [float(each.model.loss(stored, contexts).mean()) for each in fitted]
    return float(agent.model.loss(stored, contexts).mean()), float(np.mean(after))


@torch.no_grad()
def _disagreement(agent: Agent, fitted: list[FineTuneResult]) -> float:
    """How far the refined models' mean predictions lie apart on stored observations."""
    if len(fitted) < 2:
        return 0.0
    (stored,) = draw_stored(agent, _PROBE, _PROBE, np.random.default_rng(0))
    predictions = []
    for each in fitted:
        rew, obs_next = each.model.mean(stored.obs, stored.act, each.context)
        parts = [rew.unsqueeze(-1)] if obs_next is None else [rew.unsqueeze(-1), obs_next]
        predictions.append(torch.cat(parts, -1) / agent.model.target_std)
    return float(torch.stack(predictions).std(0).mean())
