"""The stages of an adaptation, each by itself: they take candidates and give candidates.

:func:`.identify` comes before them; :func:`.adapt` is all of them in turn.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._checks import checked, require_tensor
from mier_adapt._score_test import FEWEST
from mier_adapt.adaptation.identification import Identified, adapter_for
from mier_adapt.adaptation.learner import LastWeights, Learner, draw_stored
from mier_adapt.adapted_policy import AdaptedPolicy
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig
from mier_adapt.agents.new_task import NewTask
from mier_adapt.compensation import Compensation
from mier_adapt.diagnosis import Diagnosis, Fitter, diagnose
from mier_adapt.integration import algorithm_state
from mier_adapt.integration.actor_training import refresh_actor, require_refreshable
from mier_adapt.integration.actors import PolicyActor, require_finite_parameters
from mier_adapt.integration.algorithms import restart_optimizers
from mier_adapt.integration.deterministic import deterministic_network
from mier_adapt.model_fitting import FittedModel, Rehearsal, fit_model
from mier_adapt.protocols import SyntheticSource, TaskModel, TerminationFn
from mier_adapt.relabeler import ExperienceRelabeler
from mier_adapt.transitions import Transitions

SourcesOf = Callable[[Callable[[torch.Tensor], torch.Tensor]], Sequence[SyntheticSource]]
"""Sources of synthetic transitions, given the policy in training: ``obs (B, O) -> act (B, A)``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PolicyCandidate:
    """An algorithm's policy under the new task's context; a :class:`.Candidate`."""

    name: str
    """The stage that made it."""
    algorithm: Any
    """A copy of the agent's, for itself."""
    actor: PolicyActor
    """Its policy, under what of the context it is given."""
    compensation: Compensation | None = None
    """What stands between policy and robot."""
    synthetic_transitions: int = 0
    """How many sources have made for it."""
    updates: int = 0
    """How often the algorithm was updated on them."""

    def act(self, obs: NDArray[np.floating], *, explore: bool) -> NDArray[np.floating]:
        """As :meth:`.Actor.act`."""
        if self.compensation is None:
            return self.actor.act(obs, explore=explore)
        known = self.compensation.observation(obs)
        return self.compensation.action(self.actor.act(known, explore=explore))

    def deployed(self, algorithm: Any, about: Mapping[str, Any]) -> AdaptedPolicy:
        """It alone, with the state of an algorithm that goes on with it."""
        space: Any = self.actor.policy.action_space
        return AdaptedPolicy(
            network=deterministic_network(self.actor.policy),
            context=self.actor.contexts,
            low=space.low,
            high=space.high,
            compensation=self.compensation,
            about=about,
            algorithm_state=algorithm_state(algorithm),
        )

    def evolved(self, name: str, algorithm: Any) -> "PolicyCandidate":
        """What a stage made of it."""
        return PolicyCandidate(
            name=name,
            algorithm=algorithm,
            actor=PolicyActor(algorithm.policy, self.actor.contexts),
            compensation=self.compensation,
        )


@checked
def first_candidate(agent: Agent, context: torch.Tensor) -> PolicyCandidate:
    """The agent's own policy in a new task: under its context, or as it came where it knows none.

    Args:
        agent: The agent; its algorithm is copied.
        context: The new task's, ``(C,)``.

    Raises:
        ValueError: If the context has another shape, or is not finite.
    """
    require_tensor("first_candidate", "context", context, (agent.model.context_dim,))
    algorithm = copy.deepcopy(agent.algorithm)
    return PolicyCandidate(
        name="adapted context" if agent.conditioned else "unchanged",
        algorithm=algorithm,
        actor=PolicyActor(algorithm.policy, agent.actor(context).contexts),
    )


def initial_candidate(agent: Agent) -> PolicyCandidate:
    """The agent's own policy as it meets any task, under the initial context."""
    start = first_candidate(agent, agent.model.initial_context.detach())
    return dataclasses.replace(start, name="initial context")


def is_outside(agent: Agent, config: AdaptConfig, excess: float | None) -> bool:
    """Whether a known task's policy is to be tried: rewards alone vary, and are far from known.

    Args:
        agent: The agent.
        config: Says whether to.
        excess: How far from known, by :func:`.novelty`.
    """
    tries = config.try_known_task and agent.conditioned and agent.model.varies == "reward"
    return tries and excess is not None and excess > _OUTSIDE


@torch.no_grad()
def known_candidate(
    agent: Agent, found: Identified, contexts: torch.Tensor, fitted: Sequence[FittedModel]
) -> PolicyCandidate:
    """The policy of the earlier task that should return most in one whose rewards alone are new.

    The steps that explain far rewards best may lead to contexts that no policy was trained under.
    A known task's newest experience is what its policy would meet in the new one, too, but for
    rewards; and these the fitted models predict.

    Args:
        agent: The agent; its algorithm is copied.
        found: The new task's transitions.
        contexts: Of the earlier tasks, ``(T, C)``.
        fitted: Models of the new task.
    """
    tasks = len(contexts)
    known = agent.replay.recent_transitions(max(len(found.real), _KNOWN // tasks))
    known = known.flatten().to(agent.device)
    rewards = [each.model.mean(known.obs, known.act, each.context)[0] for each in fitted]
    best = int(torch.stack(rewards).mean(0).reshape(tasks, -1).mean(1).argmax())
    return dataclasses.replace(first_candidate(agent, contexts[best]), name="known task")


_OUTSIDE = 3.0
"""Novelty from which on a task is outside."""


def diagnoses(agent: Agent, config: AdaptConfig) -> bool:
    """Whether a diagnosis is asked for, and there is something that a model can tell."""
    return config.diagnose and agent.model.varies != "reward"


def suffices(diagnosis: Diagnosis, found: Identified) -> bool:
    """Whether nothing is left to be learned once the change is undone, or where there is none."""
    if not diagnosis.explained or not diagnosis.changed:
        return diagnosis.explained
    undone = diagnosis.compensation
    return undone is not None and undone.shortfall(found.real.act.cpu().numpy()) <= _REACHED


def is_beyond(agent: Agent, diagnosis: Diagnosis, start: PolicyCandidate) -> bool:
    """Whether a policy goes on in dynamics that the agent's model does not know.

    Those of a robot that changed, unless a new context explains it as well as what was found, or
    the policy acts behind what undoes the change: synthetic transitions would be those of a model
    that was fitted to the few real ones, from which the policy learns more.
    """
    most = diagnosis.chosen.loss + _MARGIN
    contexts = (each for each in diagnosis.explanations if each.known_task is None)
    known = any(each.model is agent.model and each.loss <= most for each in contexts)
    return diagnosis.changed and start.compensation is None and not known


_MARGIN = 0.5
"""Loss by which an explanation may be worse than the best one, or than what was chosen."""


def nearest_candidate(
    agent: Agent, diagnosis: Diagnosis, start: PolicyCandidate
) -> PolicyCandidate | None:
    """The policy of the known task that one in other dynamics is nearest to; None without one.

    The steps that explain other dynamics best may lead to contexts that no policy was trained
    under.
    """
    nearest = agent.conditioned and diagnosis.chosen.known_task is not None
    if not (nearest and is_beyond(agent, diagnosis, start)):
        return None
    known = first_candidate(agent, diagnosis.chosen.context)
    return dataclasses.replace(known, name="known task")


_REACHED = 0.1
"""Shortfall of the commands up to which undoing a change suffices."""


def as_far(config: AdaptConfig, diagnosis: Diagnosis | None) -> AdaptConfig:
    """The configuration with step sizes that suit how far the policy has to go."""
    if diagnosis is not None and diagnosis.explained:
        return config
    scale = config.unexplained_scale
    return dataclasses.replace(
        config, actor_lr=scale * config.actor_lr, critic_lr=scale * config.critic_lr
    )


@checked
def explain(
    agent: Agent,
    config: AdaptConfig,
    found: Identified,
    contexts: torch.Tensor,
    generator: np.random.Generator,
    *,
    same_policy: bool = False,
) -> Diagnosis:
    """Find the simplest hypothesis of what changed, by :func:`.diagnose`.

    Beside changes of actuators and sensors it tries a new context, where the model has one, and new
    weights, where it can be fitted and ``config.weight_steps`` are not 0.

    Args:
        agent: Has model and experience: what it stored last is what known tasks look like.
        config: Says how contexts and weights are fitted.
        found: The new task's transitions.
        contexts: Of the earlier tasks, ``(T, C)``.
        generator: Draws splits and batches.
        same_policy: Whether the policy that stored experience last gathered the transitions.

    Raises:
        ValueError: If there are fewer than 10 transitions, or the contexts have another shape or
            are not finite.
        TypeError: If the model's loss cannot be differentiated by the transitions.
    """
    model, num_tasks = agent.model, agent.replay.num_tasks
    require_tensor("explain", "contexts", contexts, (num_tasks, model.context_dim))
    size = len(found.real)
    enough = max(_KNOWN_ALIKE, FEWEST * size) if same_policy else _KNOWN
    known = agent.replay.recent_transitions(max(size, enough // num_tasks))
    names = agent.task_names
    if not model.context_dim:  # all earlier tasks are one to the model
        known = Transitions.stack([known.flatten()])
        contexts, names = contexts[:1], ()
    draws = torch.Generator().manual_seed(int(generator.integers(2**31)))
    adapter = adapter_for(agent, config)

    def new_weights(train: Transitions) -> tuple[TaskModel, torch.Tensor]:
        fitted = fit_model(
            adapter,
            train,
            weight_steps=min(_FEW_STEPS, config.weight_steps),
            weight_lr=config.weight_lr,
            context_lr=config.context_lr,
            batch_size=config.model_batch_size,
            validate_every=config.validate_every,
            generator=draws,
        )
        return fitted.model, fitted.context

    others: dict[str, Fitter] = {}
    if model.context_dim:
        others["a new context"] = lambda train: (model, adapter.adapt(train))
    if config.weight_steps:
        others["new weights"] = new_weights
    return diagnose(
        model,
        found.real,
        contexts=contexts,
        known=known.to(agent.device),
        others=others,
        names=names,
        margin=_MARGIN,
        same_policy=same_policy,
        generator=draws,
    )


_KNOWN = 4_000
"""Stored transitions, of all tasks together, that say what known tasks are like."""
_KNOWN_ALIKE = 20_000
"""As many at least, where the mean error of stretches of them is compared, too."""
_FEW_STEPS = 200
"""Weight steps that tell whether new weights are worth learning."""


@checked
def compensated(
    agent: Agent, start: PolicyCandidate, diagnosis: Diagnosis
) -> PolicyCandidate | None:
    """The policy of the known task behind what undoes the change; None where nothing does.

    Args:
        agent: Says which context the known task has.
        start: What is copied.
        diagnosis: What changed.
    """
    if diagnosis.compensation is None or not diagnosis.changed:
        return None
    algorithm = copy.deepcopy(start.algorithm)
    context = agent.actor(diagnosis.chosen.context).contexts
    return PolicyCandidate(
        name="compensated",
        algorithm=algorithm,
        actor=PolicyActor(algorithm.policy, context),
        compensation=diagnosis.compensation,
    )


@checked
def refresh(
    agent: Agent,
    config: AdaptConfig,
    start: PolicyCandidate,
    generator: np.random.Generator,
) -> PolicyCandidate:
    """Let the actor learn from the critics under the new task's context.

    Args:
        agent: Its experience gives the observations.
        config: ``refresh_updates`` updates of ``batch_size`` observations, and their step size.
        start: What is copied.
        generator: Draws the observations.

    Raises:
        TypeError: If the algorithm's loss of the actor is not known.
        FloatingPointError: If a parameter stops being finite.
    """
    require_refreshable("refresh", start.algorithm)
    algorithm = copy.deepcopy(start.algorithm)
    restart_optimizers(algorithm, actor_lr=config.actor_lr, critic_lr=config.critic_lr)
    count = config.refresh_updates * config.batch_size
    context = start.actor.contexts
    refresh_actor(
        algorithm,
        (
            torch.cat((each.obs, context.expand(len(each), -1)), -1)
            for each in draw_stored(agent, count, config.batch_size, generator)
        ),
    )
    require_finite_parameters(algorithm, "The refreshed algorithm")
    return start.evolved("actor only", algorithm)


@checked
def refine(
    agent: Agent,
    config: AdaptConfig,
    real: Transitions,
    contexts: torch.Tensor,
    generator: np.random.Generator,
) -> list[FittedModel]:
    """Fit copies of the model, each to its own split of the new task's transitions.

    Args:
        agent: Has model and experience.
        config: How many copies, and how they are fitted.
        real: The new task's transitions, ``(B, ...)``.
        contexts: Of the earlier tasks, ``(T, C)``, for rehearsal.
        generator: Draws splits and batches.

    Raises:
        ValueError: If there are fewer than two transitions, or the contexts have another shape or
            are not finite.
        FloatingPointError: If a loss stops being finite.
    """
    shape = (agent.replay.num_tasks, agent.model.context_dim)
    require_tensor("refine", "contexts", contexts, shape)
    rehearsal: Rehearsal | None = None
    if config.rehearsal_batch_size:
        rehearsal = _rehearsal(agent, contexts, config.rehearsal_batch_size, generator)
    return [
        fit_model(
            adapter_for(agent, config),
            real,
            weight_steps=config.weight_steps,
            weight_lr=config.weight_lr,
            context_lr=config.context_lr,
            batch_size=config.model_batch_size,
            rehearsal=rehearsal,
            validate_every=config.validate_every,
            generator=torch.Generator().manual_seed(int(generator.integers(2**31))),
        )
        for _ in range(config.num_models)
    ]


def _rehearsal(
    agent: Agent, contexts: torch.Tensor, batch_size: int, generator: np.random.Generator
) -> Rehearsal:
    """Draws earlier tasks' transitions, as many of each, with their contexts."""
    num_tasks = min(agent.replay.num_tasks, batch_size)
    per_task = batch_size // num_tasks

    def draw() -> tuple[Transitions, torch.Tensor]:
        tasks = generator.choice(agent.replay.num_tasks, num_tasks, replace=False)
        earlier = agent.replay.sample_transitions(
            tasks, per_task, adaptation=False, generator=generator
        )
        return earlier.flatten().to(agent.device), contexts[tasks].repeat_interleave(per_task, 0)

    return draw


@checked
def relabelers(
    task: NewTask, fitted: Sequence[FittedModel], generator: np.random.Generator
) -> SourcesOf:
    """Sources that relabel by models of the new task, for :func:`train_on_synthetic`.

    Args:
        task: Says when episodes end, where dynamics vary.
        fitted: The models; every stored transition meets one of them.
        generator: Draws the predictions.

    Raises:
        ValueError: If there is no model, or dynamics vary and the task has no rule for the end of
            an episode.
    """
    if not fitted:
        raise ValueError("relabelers expected at least one fitted model, got none.")
    return sources_of_models(fitted, task.termination_fn, generator)


def sources_of_models(
    fitted: Sequence[FittedModel], ends: TerminationFn | None, generator: np.random.Generator
) -> SourcesOf:
    """As :func:`relabelers`, by the rule alone for when episodes end."""

    def sources_of(policy: Callable[[torch.Tensor], torch.Tensor]) -> list[ExperienceRelabeler]:
        return [
            ExperienceRelabeler(
                each.model,
                each.context,
                policy=policy if each.model.varies != "reward" else None,
                termination_fn=ends if each.model.varies != "reward" else None,
                generator=torch.Generator(each.context.device).manual_seed(
                    int(generator.integers(2**31))
                ),
            )
            for each in fitted
        ]

    return sources_of


@checked
def train_on_synthetic(
    agent: Agent,
    config: AdaptConfig,
    start: PolicyCandidate,
    found: Identified,
    sources_of: SourcesOf,
    generator: np.random.Generator,
    *,
    on_update: Callable[[int], None] = lambda made: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> PolicyCandidate:
    """Go on with the algorithm's own updates on synthetic experience, mixed with the real one.

    Targets look one step ahead, since synthetic transitions have no successors. The policy is the
    average of the last updates' (Izmailov et al. 2018, arXiv:1803.05407).

    Args:
        agent: Whose experience synthetic transitions are made of.
        config: How much is made, how many updates follow, and their step sizes.
        start: What is copied.
        found: The real transitions; behind a compensation as the known robot would have shown them,
            which sources then predict as well.
        sources_of: Gives the sources, which share the stored transitions evenly.
        generator: Draws experience and batches.
        on_update: Told how many updates have been made, after each.
        should_stop: Asked before each update; True leaves out the rest. What was made until then
            is averaged if the last updates had begun, and is the last update's policy if not.

    Raises:
        FloatingPointError: If a loss, a prediction or a parameter stops being finite.
    """
    learner = Learner(
        agent,
        start.algorithm,
        start.actor.contexts,
        actor_lr=config.actor_lr,
        critic_lr=config.critic_lr,
        real_size=len(found.real),
        synthetic_size=config.relabel_rounds * config.relabel_size,
        real_fraction=config.real_fraction,
        generator=generator,
    )
    algorithm = learner.algorithm
    sources = sources_of(learner.policy)
    learner.add_real(found.real, found.truncated)
    updates = config.relabel_rounds * config.updates_per_round
    averaged = LastWeights(algorithm.policy, updates=updates, share=config.averaged_share)
    synthetic = 0

    def updated() -> None:
        averaged.take()
        on_update(averaged.made)

    for _ in range(config.relabel_rounds):
        synthetic += learner.relabel(sources, config.relabel_size)
        taken = learner.update(
            config.updates_per_round, config.batch_size, after=updated, should_stop=should_stop
        )
        if taken < config.updates_per_round:
            break
    averaged.load_into(algorithm.policy)
    require_finite_parameters(algorithm, "The relabeled policy")
    return dataclasses.replace(
        start.evolved("relabeled", algorithm),
        synthetic_transitions=synthetic,
        updates=averaged.made,
    )
