"""adapt: Algorithm 2, stage by stage, for any agent in any new task.

identify → diagnose → refresh the actor → refine the model → relabel and train → gate. What learns
is left out where undoing what changed suffices, goes on from the compensated policy where motors
are too weak for it, and begins with a known task's policy where that is better in new rewards than
the one under their context. ``AdaptConfig`` switches stages off; the preset ``…-paper`` keeps what
the paper has.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mier_adapt._checks import Count, Seed, checked
from mier_adapt._products import quick_products
from mier_adapt._storage.randomness import forked_global_generators
from mier_adapt.adaptation.identification import (
    Identified,
    identify,
    novelty,
)
from mier_adapt.adaptation.known_terms import as_wanted, in_known_terms, refine_behind, within_reach
from mier_adapt.adaptation.learner import draw_stored
from mier_adapt.adaptation.progress import Version
from mier_adapt.adaptation.readiness import (
    require_adaptable,
    require_fitting_task,
    require_label,
    require_refreshed,
)
from mier_adapt.adaptation.report import AdaptationReport
from mier_adapt.adaptation.session import AdaptationSession, session_after
from mier_adapt.adaptation.stages import (
    PolicyCandidate,
    SourcesOf,
    as_far,
    compensated,
    diagnoses,
    explain,
    first_candidate,
    initial_candidate,
    is_outside,
    known_candidate,
    refresh,
    relabelers,
    suffices,
    train_on_synthetic,
)
from mier_adapt.adapted_policy import AdaptedPolicy
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig, ContinueConfig
from mier_adapt.agents.metering import Meter
from mier_adapt.agents.new_task import NewTask
from mier_adapt.compensation import Compensation
from mier_adapt.diagnosis import Diagnosis
from mier_adapt.integration.actor_training import require_refreshable
from mier_adapt.integration.algorithms import trained_on
from mier_adapt.model_fitting import FittedModel
from mier_adapt.protocols import Gate
from mier_adapt.relabeler import ends_by
from mier_adapt.transitions import OneTask, Transitions

_PROBE = 1024
"""Transitions on which the refined models are compared."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Adaptation:
    """What an adaptation hands back."""

    actor: PolicyCandidate
    """What acts in the new task, ``act(obs (B, O), explore=False)``: the policy under its context,
    behind the compensation where there is one."""
    context: torch.Tensor
    """What the policy acts under, as the model knows it, ``(C,)``: the new task's context, or that
    of a known task, behind a compensation or where rewards are far outside."""
    algorithm: Any
    """A copy of the agent's with what was learned, which trains on as the agent's would. Its policy
    takes what the agent's does: where there is a compensation, put
    :class:`~mier_adapt.wrappers.CompensatedAction` around the environment."""
    diagnosis: Diagnosis | None
    """What changed; None where that was not asked."""
    report: AdaptationReport
    """What it cost, what it achieved, and why this policy and no other."""
    transitions: Transitions
    """The real ones that identified the task, ``(B, ...)``, logged ones first; on the CPU. Another
    adaptation takes them as ``logged``; :meth:`.Transitions.save` and :func:`.to_minari` write
    them."""

    def predict(self, obs: ArrayLike) -> NDArray[Any]:
        """What to command: :meth:`.AdaptedPolicy.predict`."""
        return self.policy.predict(obs)

    @functools.cached_property
    def policy(self) -> AdaptedPolicy:
        """What was handed back, by itself: for a control loop, or another process."""
        return self.actor.deployed(self.algorithm, self.report.to_dict())

    def save(self, path: Path) -> None:
        """Write :attr:`policy`, with which an algorithm built like this one can also train on.

        :meth:`.AdaptedPolicy.load` reads it; :func:`.load_algorithm_state` takes its
        ``algorithm_state``.

        Raises:
            TypeError: If the network is none of Tianshou's stock actors.
            OSError: If the disk refuses; an older file stays whole.
        """
        self.policy.save(path)

    @property
    def compensation(self) -> Compensation | None:
        """What undoes the change in front of the policy, where that is what was handed back."""
        return self.actor.compensation


@checked
@torch.inference_mode(False)
@quick_products()
def adapt(
    agent: Agent,
    task: NewTask,
    config: AdaptConfig,
    *,
    seed: Seed,
    budget: Count = 0,
    rounds: ContinueConfig | None = None,
    evaluation_episodes: Count = 4,
    checkpoint: Path | None = None,
    logged: OneTask | None = None,
    sources: Callable[[Sequence[FittedModel]], SourcesOf] | None = None,
    on_stage: Callable[[str, float], None] = lambda stage, progress: None,
) -> Adaptation:
    """Adapt to a task that the agent has not seen.

    Gathers real transitions, identifies the task's context, and looks for the simplest hypothesis
    of what changed. A known task behind changed actuators or sensors gets the known task's policy
    behind what undoes the change. Where that does not suffice, it trains the actor alone against
    the critics; fits copies of the model to the new task while they rehearse the earlier ones;
    predicts what earlier tasks' stored experience would have been in this task, and goes on with
    the algorithm's own updates on a mixture of both. The gate decides by real episodes what is
    handed back; where that returns less than the episodes that identified the task, it also plays
    the policy under the initial context. The agent itself is not changed.

    Where only rewards vary and no context explains the new ones well, all this may begin with the
    policy of the known task that should return most: whose is gone on from, the gate decides.

    For a policy that knows no context there is no new context to learn under: the actor-only stage
    falls away (``refresh_updates`` has to be 0), and the policy to beat is the one that came,
    ``unchanged``.

    All that can be refused is refused before the first real step.

    Args:
        agent: What is adapted: a :class:`.Run`, or an :class:`.Agent` of your own parts.
        task: The new task, with its environments.
        config: How; for a run, ``run.adapt_config``.
        seed: Fixes the adaptation, together with torch's number of threads.
        budget: Further real transitions, at most, in which it goes on adapting: an episode with the
            newest policy, the model fitted anew, and so on, as an :class:`.AdaptationSession` does.
            0 to end with the gate.
        rounds: How it does so; :class:`.ContinueConfig` by default.
        evaluation_episodes: Deterministic episodes after each stage; they only measure. On a real
            robot 0: then nothing is spent but ``adaptation_steps`` and the gate's episodes.
        checkpoint: File that keeps the real transitions, which are what an adaptation cannot
            compute again. If it is there, the same call goes on from them and ends with the same
            policy, bit for bit on the same machine's CPU. Delete it after the adaptation.
        logged: Transitions of the *changed* task that are there already, ``(B, ...)``, actions in
            [-1, 1]. All are used in place of gathered ones, and only what is missing to
            ``config.adaptation_steps`` is gathered. Where nothing is, no evaluation is asked for
            and the gate plays nothing (:class:`.AlwaysGate`), the environment is not touched.
        sources: Makes sources of synthetic transitions of the fitted models, in place of
            :func:`.relabelers`. What they make is in the robot's own terms.
        on_stage: Told the stage and its progress from 0 to 1.

    Raises:
        TypeError: If a part of the agent lacks what a stage needs.
        ValueError: If parts or logged transitions do not fit the task, the agent has no experience,
            dynamics vary and the task has no rule for the end of an episode, a stage is asked for
            that has nothing to do, or the checkpoint is of another adaptation.
        CheckpointError: If the checkpoint is damaged.
        FloatingPointError: If a loss, an action, a prediction or a parameter stops being finite;
            names it, the step and the task. No policy is given back then.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, Algorithm 2. Ours: several rounds of
        identification, the actor-only stage, rehearsal, several models, few updates with a low
        step size of the actor, the fixed temperature, and the gate.
    """
    _require_ready(agent, task, config, logged, relabels=sources is None, budget=budget)
    require_label("adapt", task, checkpoint)
    seed = int(seed)
    generator = np.random.default_rng(seed)
    meter = Meter()
    metered = task.metered(meter)
    returns: dict[str, tuple[float, ...]] = {}
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        on_stage(name, 0.0)
        meter.purpose, started = name, time.monotonic()
        try:
            yield
        except FloatingPointError as error:
            raise FloatingPointError(f"Adapting to {task.label}: {error}") from error
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started

    def evaluate(name: str, actor: Any) -> None:
        if not evaluation_episodes:
            return
        meter.purpose, starts = "evaluate", np.random.default_rng(seed + 1)  # common to all stages
        returns[name] = metered.returns(actor, episodes=evaluation_episodes, generator=starts)

    contest = _Contest(config.gate, metered, generator)
    candidates: list[PolicyCandidate] = []

    def add(candidate: PolicyCandidate) -> None:
        candidates.append(candidate)
        evaluate(candidate.name, candidate)

    with forked_global_generators(seed):
        with stage("identify"):
            found = identify(
                agent,
                task,
                config,
                seed=seed,
                generator=generator,
                checkpoint=checkpoint,
                logged=logged,
            )
            contexts = agent.earlier_contexts(config.adaptation_steps, generator)
            excess = novelty(agent, found.real, found.context, contexts)
        if agent.conditioned:
            evaluate("initial context", agent.initial_actor(1))
        start, preferred = first_candidate(agent, found.context), ""
        add(start)
        promising: list[PolicyCandidate] = [start]
        newest: PolicyCandidate | None = None
        diagnosis, undone, enough, told = None, None, False, ""
        if diagnoses(agent, config):
            with stage("diagnose"):
                alike = not (agent.conditioned or found.logged or found.excited)
                diagnosis = explain(agent, config, found, contexts, generator, same_policy=alike)
            if (undone := compensated(agent, start, diagnosis)) is not None:
                add(undone)
                promising.append(undone)
            enough = suffices(diagnosis, found)
            told = diagnosis.sentences[-1] if enough else ""
        learns = config.learn_always or not enough

        if learns and config.refresh_updates:
            with stage("refresh"):
                newest = refresh(agent, config, start, generator)
            add(newest)

        losses, fitted, trusted = {}, [], False
        if learns:
            base = start
            if diagnosis is not None and diagnosis.explained and not enough and sources is None:
                # All is known but what to do with what the motors can no longer do. Sources of
                # one's own are in the robot's terms.
                base = undone or start
            met = dataclasses.replace(found, real=in_known_terms(found.real, base.compensation))
            with stage("refine"):
                fitted = refine_behind(
                    agent, config, base, diagnosis, met.real, contexts, generator
                )
            losses = _losses(agent, fitted, contexts)
            trusted, told = _trust(fitted, found, task, config)
            if is_outside(agent, config, excess):
                known = known_candidate(agent, found, contexts, fitted)
                add(known)
                with stage("gate"):
                    start, preferred = contest.choose((start, known))
                base, promising = start, [start]
        updates = config.relabel_rounds * config.updates_per_round
        if trusted:
            with stage("relabel"):
                wanted = as_wanted(met.real, base.compensation, generator)
                make = sources or (lambda models: relabelers(task, models, generator))
                newest = train_on_synthetic(
                    agent,
                    as_far(config, diagnosis),
                    base,
                    dataclasses.replace(met, real=wanted),
                    make(within_reach(fitted, base.compensation)),
                    generator,
                    on_update=lambda made: on_stage("relabel", made / updates),
                )
            add(newest)
        if newest is not None:
            promising.append(newest)

        with stage("gate"):
            kept, reason = contest.choose(promising)
            if kept is start and preferred:
                reason = preferred
            if agent.conditioned and _disappoints(contest.returns.get(kept.name), found):
                chosen, why = contest.choose((kept, initial_candidate(agent)))
                if chosen is not kept:
                    kept, reason = chosen, why

        log: list[dict[str, Any]] = []
        if budget:
            with stage("continue"):
                session = session_after(
                    agent,
                    # What learning is worth beside what suffices has been compared by now.
                    dataclasses.replace(config, learn_always=False),
                    found,
                    kept,
                    diagnosis,
                    seed=seed,
                    rounds=rounds or ContinueConfig(),
                    termination_fn=task.termination_fn,
                    checkpoint=None if checkpoint is None else rounds_of(checkpoint),
                )
                # Episodes that an earlier process played
                played = sum(each["steps"] for each in session.log)
                meter.add(steps=played, resets=len(session.log))
                _play(session, metered, budget, seed, lambda share: on_stage("continue", share))
            log, better = session.log, session.kept
            if better is not None and better is not kept:
                kept, diagnosis = better, session.diagnosis
                reason = f"it was best in {len(log)} further episodes"
                evaluate(kept.name, kept)

    report = AdaptationReport(
        task=task.label,
        parameters=task.parameters,
        environment=None if task.environment is None else dict(task.environment),
        seed=seed,
        threads=torch.get_num_threads(),
        decision=kept.name,
        reason=reason if contest.returns or not told else told,
        logged_transitions=found.logged,
        real_transitions=found.spent.steps,
        gate_transitions=meter.steps("gate"),
        evaluation_transitions=meter.steps("evaluate"),
        resets={
            "identify": found.spent.resets,
            **{purpose: spent.resets for purpose, spent in meter.spent.items()},
        },
        returns=returns,
        gate_returns=contest.returns,
        novelty=excess,
        diagnosis=None if diagnosis is None else diagnosis.to_dict(),
        **losses,
        weight_steps=tuple(each.weight_steps for each in fitted),
        continued=tuple(log),
        continued_transitions=meter.steps("continue"),
        synthetic_transitions=candidates[-1].synthetic_transitions,
        updates=candidates[-1].updates,
        seconds=seconds,
    )
    context = found.context
    if diagnosis is not None and kept.compensation is not None:
        context = diagnosis.chosen.context
    elif agent.conditioned:
        context = kept.actor.contexts
    return Adaptation(
        actor=kept,
        context=context,
        algorithm=trained_on(kept.algorithm, agent.algorithm),
        diagnosis=diagnosis,
        report=report,
        transitions=found.real.to("cpu"),
    )


def rounds_of(checkpoint: Path) -> Path:
    """Where the episodes after the gate are kept."""
    return checkpoint.with_name(f"{checkpoint.name}.rounds")


def _play(
    session: AdaptationSession,
    task: NewTask,
    budget: int,
    seed: int,
    on_progress: Callable[[float], None],
) -> None:
    """Whole episodes, and what can be made of them, while the budget lasts."""
    before = session.transitions - sum(each["steps"] for each in session.log)
    if session.log and not session.up_to_date:  # it was killed before it made anything of the last
        session.improve()
    while (spent := session.transitions - before) + task.episode_steps <= budget:
        number = len(session.log)
        acted = session.acting
        with forked_global_generators(seed + number):
            rollout = task.run(
                acted.candidate if isinstance(acted, Version) else acted,
                steps=task.episode_steps,
                generator=np.random.default_rng([seed, number]),
                until_end=True,
            )
        real = rollout.transitions.flatten()
        session.add_episode(real, rollout.truncated.reshape(-1), acted=acted)
        session.improve()
        on_progress(spent / budget)


def _require_ready(
    agent: Agent,
    task: NewTask,
    config: AdaptConfig,
    logged: Transitions | None,
    *,
    relabels: bool,
    budget: int,
) -> None:
    """Check everything that a stage will need, at no cost to the robot."""
    model = agent.model
    predicts = relabels and config.relabel_rounds > 0 and model.varies != "reward"
    predicts = predicts or (budget > 0 and model.varies != "reward")
    if 0 < budget < task.episode_steps:
        raise ValueError(
            f"adapt expected a budget of at least an episode, {task.episode_steps} transitions, or "
            f"0, got {budget}."
        )
    dims = (model.obs_dim, model.act_dim)
    require_fitting_task("adapt", task, agent.algorithm, dims, predicts=predicts)
    require_refreshed("adapt", config, conditioned=agent.conditioned)
    if config.refresh_updates:
        require_refreshable("adapt", agent.algorithm)
    ends = task.termination_fn if predicts else None
    require_adaptable("adapt", agent, config, logged, ends)


class _Contest:
    """Candidates' real episodes, from starts that they share, and which one the gate chooses.

    What a candidate has played before is not played again: the gate sees it in turn.

    Args:
        gate: Decides.
        task: Where they play.
        generator: Draws the first start, when one is needed.
    """

    def __init__(self, gate: Gate, task: NewTask, generator: np.random.Generator) -> None:
        self._gate, self._task, self._generator = gate, task, generator
        self._common: int | None = None
        self._starts: dict[str, np.random.Generator] = {}
        self.returns: dict[str, tuple[float, ...]] = {}

    def choose(self, candidates: Sequence[PolicyCandidate]) -> tuple[PolicyCandidate, str]:
        """As :meth:`.Gate.choose`."""
        if self._common is None:
            self._common = int(self._generator.integers(2**31))
        for each in candidates:
            self._starts.setdefault(each.name, np.random.default_rng(self._common))
        seen = dict.fromkeys((each.name for each in candidates), 0)

        def play(candidate: PolicyCandidate, episodes: int) -> tuple[float, ...]:
            name, first = candidate.name, seen[candidate.name]
            seen[name] += episodes
            before = self.returns.get(name, ())
            if (missing := seen[name] - len(before)) > 0:
                starts = self._starts[name]
                played = self._task.returns(candidate, episodes=missing, generator=starts)
                self.returns[name] = (*before, *played)
            return self.returns[name][first : seen[name]]

        kept, reason = self._gate.choose(candidates, play)
        return cast(PolicyCandidate, kept), reason


def _disappoints(played: Sequence[float] | None, found: Identified) -> bool:
    """Whether episodes returned less than those did that identified the task, exploring."""
    before = found.initial_returns
    return bool(played and before and np.mean(played) < np.mean(before))


def _trust(
    fitted: list[FittedModel], found: Identified, task: NewTask, config: AdaptConfig
) -> tuple[bool, str]:
    """Whether the models may relabel, by what they predict on held-out data, and what tells so."""
    if not config.relabel_rounds:
        return False, "relabeling is switched off"
    if fitted[0].model.varies != "reward" and task.termination_fn is not None:
        real = found.real
        ended = real.terminated.cpu().numpy()
        told = ends_by("adapt", task.termination_fn, real.obs, real.act, real.obs_next)
        missed = int((ended & ~told).sum())
        if 2 * missed > ended.sum():
            return False, (
                f"{missed} of {ended.sum()} real episodes ended where the rule for the end of "
                "episodes does not say so (give a right termination_fn)"
            )
    loss = _mean_losses(fitted, "validation")[2]
    threshold = config.validation_threshold
    if threshold is None:
        return True, ""
    if loss < threshold:
        return True, f"validation loss {loss:.2f} is below the threshold {threshold:g}"
    return False, f"validation loss {loss:.2f} is not below the threshold {threshold:g}"


def _losses(agent: Agent, fitted: list[FittedModel], contexts: torch.Tensor) -> dict[str, Any]:
    """What reports say of the refined models."""
    return {
        "train_loss": _mean_losses(fitted, "train"),
        "validation_loss": _mean_losses(fitted, "validation"),
        "earlier_tasks_loss": _earlier_loss(agent, fitted, contexts),
        "disagreement": _disagreement(agent, fitted),
    }


def _mean_losses(fitted: list[FittedModel], part: str) -> tuple[float, float, float]:
    initial, context, final = (
        float(np.mean([getattr(each, f"{part}_loss_{when}") for each in fitted]))
        for when in ("initial", "context", "final")
    )
    return initial, context, final


@torch.no_grad()
def _earlier_loss(
    agent: Agent, fitted: list[FittedModel], contexts: torch.Tensor
) -> tuple[float, float]:
    """Loss on earlier tasks' transitions under their contexts, before and after refinement."""
    per_task = max(1, _PROBE // agent.replay.num_tasks)
    stored = agent.replay.sample_transitions(
        np.arange(len(contexts)), per_task, adaptation=False, generator=np.random.default_rng(0)
    ).to(agent.device)
    after = [float(each.model.loss(stored, contexts).mean()) for each in fitted]
    return float(agent.model.loss(stored, contexts).mean()), float(np.mean(after))


@torch.no_grad()
def _disagreement(agent: Agent, fitted: list[FittedModel]) -> float:
    """How far the refined models' mean predictions lie apart on stored observations."""
    if len(fitted) < 2:
        return 0.0
    (stored,) = draw_stored(agent, _PROBE, _PROBE, np.random.default_rng(0))
    predictions = []
    for each in fitted:
        rew, obs_next = each.model.mean(stored.obs, stored.act, each.context)
        parts = [rew.unsqueeze(-1)] if obs_next is None else [rew.unsqueeze(-1), obs_next]
        predictions.append(torch.cat(parts, -1))
    changes = torch.cat((stored.rew.unsqueeze(-1), stored.obs_next - stored.obs), -1)
    spread = changes.std(0)[: predictions[0].shape[-1]]
    scale = getattr(agent.model, "target_std", torch.where(spread > 0, spread, 1.0))
    return float((torch.stack(predictions) / scale).std(0).mean())
