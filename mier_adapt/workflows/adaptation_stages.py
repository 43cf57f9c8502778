"""The stages of an adaptation, each by itself: refresh the actor, refine the model, relabel, gate.

:mod:`~mier_adapt.workflows.identification` comes before them;
:func:`~mier_adapt.workflows.fine_tuning.adapt_agent` is all of them in turn.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from mier_adapt._checks import (
    require_array,
    require_int,
    require_number,
    require_tensor,
    require_types,
    shown,
)
from mier_adapt.context_adapter import FineTuneResult, Rehearsal
from mier_adapt.integration import (
    MixedReplayBuffer,
    refresh_actor,
    relabeling_policy,
    restart_optimizers,
    update,
)
from mier_adapt.integration.collection import require_finite_parameters
from mier_adapt.relabeler import ExperienceRelabeler
from mier_adapt.transitions import Transitions
from mier_adapt.workflows.agents import Agent
from mier_adapt.workflows.identification import Identified
from mier_adapt.workflows.new_tasks import NewTask
from mier_adapt.workflows.presets import AdaptConfig

__all__ = [
    "draw_stored",
    "earlier_contexts",
    "passes_gate",
    "refine",
    "refresh",
    "train_on_relabeled",
]


def earlier_contexts(
    agent: Agent, config: AdaptConfig, generator: np.random.Generator
) -> torch.Tensor:
    """The meta-training tasks' contexts, ``(T, C)``, from what is stored of each.

    Args:
        agent: Has model and experience.
        config: ``adaptation_steps`` transitions of each task are drawn.
        generator: Draws them.

    Raises:
        ValueError: If a task has no experience.
    """
    _require_parts("earlier_contexts", agent, config, generator)
    stored = agent.replay.sample_transitions(
        np.arange(agent.replay.num_tasks),
        config.adaptation_steps,
        adaptation=True,
        generator=generator,
    )
    return agent.adapter.adapt(stored.to(agent.device), steps=agent.adapter.steps)


def refresh(
    agent: Agent, config: AdaptConfig, context: torch.Tensor, generator: np.random.Generator
) -> Any:
    """A copy of the algorithm whose actor has learned from the critics under this context.

    Args:
        agent: What is copied, and whose experience gives the observations.
        config: ``refresh_updates`` updates of ``batch_size`` observations, and their step size.
        context: The new task's, ``(C,)``.
        generator: Draws the observations.

    Raises:
        ValueError: If the context has another shape, or is not finite.
        FloatingPointError: If a parameter stops being finite.
    """
    _require_parts("refresh", agent, config, generator)
    require_tensor("refresh", "context", context, (agent.model.context_dim,))
    algorithm = copy.deepcopy(agent.algorithm)
    restart_optimizers(algorithm, actor_lr=config.actor_lr, critic_lr=config.critic_lr)
    count = config.refresh_updates * config.batch_size
    batches = draw_stored(agent, count, config.batch_size, generator)
    refresh_actor(
        algorithm,
        (torch.cat((each.obs, context.expand(len(each), -1)), -1) for each in batches),
    )
    require_finite_parameters(algorithm, "The refreshed SAC")
    return algorithm


def refine(
    agent: Agent,
    task: NewTask,
    config: AdaptConfig,
    real: Transitions,
    contexts: torch.Tensor,
    generator: np.random.Generator,
) -> list[FineTuneResult]:
    """Copies of the model, each fitted to its own split of the new task's transitions.

    Args:
        agent: Has model and experience.
        task: The new task.
        config: How many copies, and how they are fitted.
        real: Its transitions, ``(B, ...)``.
        contexts: Of the meta-training tasks, ``(T, C)``, for rehearsal.
        generator: Draws splits and batches.

    Raises:
        ValueError: If there are fewer than two transitions, or the contexts have another shape or
            are not finite.
        FloatingPointError: If a loss stops being finite; names the task.
    """
    _require_parts("refine", agent, config, generator)
    require_types("refine", task=(task, NewTask), real=(real, Transitions))
    shape = (agent.replay.num_tasks, agent.model.context_dim)
    require_tensor("refine", "contexts", contexts, shape)
    rehearsal: Rehearsal | None = None
    if config.rehearsal_batch_size:
        rehearsal = _rehearsal(agent, contexts, config.rehearsal_batch_size, generator)
    try:
        return [
            agent.adapter.fine_tune(
                real,
                context_steps=config.context_steps,
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
    except FloatingPointError as error:
        raise FloatingPointError(f"Adapting to {task.label}: {error}") from error


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


def train_on_relabeled(
    agent: Agent,
    task: NewTask,
    config: AdaptConfig,
    fitted: Sequence[FineTuneResult],
    found: Identified,
    generator: np.random.Generator,
    *,
    on_update: Callable[[int], None] = lambda made: None,
) -> Any:
    """A copy of the algorithm that went on on relabeled experience, mixed with the real one.

    Its policy is the average of the last updates' (Izmailov et al. 2018, arXiv:1803.05407).

    Args:
        agent: What is copied, and whose experience is relabeled.
        task: The new task.
        config: How much is relabeled, how many updates follow, and their step sizes.
        fitted: Models of the new task; every stored transition meets one of them.
        found: The real transitions, and the context that the policy is given.
        generator: Draws experience and batches.
        on_update: Told how many updates have been made, after each.

    Raises:
        ValueError: If there is no model, or dynamics vary and the task has no rule for the end of
            an episode.
        FloatingPointError: If a loss, a prediction or a parameter stops being finite; names the
            task.
    """
    _require_parts("train_on_relabeled", agent, config, generator)
    require_types(
        "train_on_relabeled",
        task=(task, NewTask),
        fitted=(fitted, Sequence),
        found=(found, Identified),
        on_update=(on_update, Callable),
    )
    if not fitted:
        raise ValueError("train_on_relabeled expected at least one fitted model, got none.")
    for each in fitted:
        require_types("train_on_relabeled", fitted=(each, FineTuneResult))
    algorithm = copy.deepcopy(agent.algorithm)
    restart_optimizers(algorithm, actor_lr=config.actor_lr, critic_lr=config.critic_lr)
    known = agent.policy_context(found.context)
    varies_dynamics = agent.model.varies != "reward"
    relabelers = [
        ExperienceRelabeler(
            each.model,
            each.context,
            # The policy keeps its own context: refined weights give the model's another meaning.
            policy=relabeling_policy(algorithm.policy, known) if varies_dynamics else None,
            termination_fn=task.termination_fn if varies_dynamics else None,
            generator=torch.Generator(agent.device).manual_seed(int(generator.integers(2**31))),
        )
        for each in fitted
    ]
    buffer = MixedReplayBuffer(
        len(found.real),
        config.relabel_rounds * config.relabel_size,
        obs_dim=agent.model.obs_dim,
        act_dim=agent.model.act_dim,
        context=known,
        real_fraction=config.real_fraction,
        generator=generator,
    )
    buffer.extend_real(found.real, truncated=found.truncated)
    averaged = AveragedModel(algorithm.policy)
    updates = config.relabel_rounds * config.updates_per_round
    for done in range(config.relabel_rounds):
        # Every stored transition meets one of the models, drawn evenly.
        shares = np.array_split(np.arange(config.relabel_size), len(relabelers))
        for relabeler, share in zip(relabelers, shares, strict=True):
            for chunk in relabeler.stream(
                draw_stored(agent, len(share), relabeler.chunk_size, generator)
            ):
                buffer.extend_synthetic(chunk)
        for count in range(config.updates_per_round):
            losses = update(algorithm, buffer, config.batch_size)
            if not all(math.isfinite(loss) for loss in losses.values()):
                raise FloatingPointError(
                    f"Adapting to {task.label}: the losses are {losses} at update {count} of "
                    f"relabeling {done}. The agent is unchanged; lower critic_lr."
                )
            made = done * config.updates_per_round + count + 1
            if made > updates * (1 - config.averaged_share):
                averaged.update_parameters(algorithm.policy)
            on_update(made)
    if config.averaged_share:
        algorithm.policy.load_state_dict(averaged.module.state_dict())
    require_finite_parameters(algorithm, f"Adapting to {task.label}: the policy")
    return algorithm


def passes_gate(
    safe: Sequence[float], candidate: Sequence[float], margin: float
) -> tuple[bool, str]:
    """Whether real episodes speak for the candidate by more than they vary, and what they say.

    Args:
        safe: Returns of the policy that is there.
        candidate: Returns of the one that may replace it.
        margin: By what share of the former's size it has to be better.

    Raises:
        ValueError: If one of them has no returns, or the margin is negative.
    """
    require_number("passes_gate", "margin", margin, least=0)
    means = []
    for name, returns in (("safe", safe), ("candidate", candidate)):
        values = require_array("passes_gate", name, returns, np.float64)
        if values.ndim != 1 or not len(values):
            raise ValueError(
                f"passes_gate expected one or more returns in {name}, got {shown(returns)}."
            )
        means.append(float(values.mean()))
    before, after = means
    told = f"{after:.0f} in {len(candidate)} real episode(s), against {before:.0f} before"
    if after > before + margin * abs(before):
        return True, f"it returned {told}"
    return False, f"the candidate returned {told}, and has to be {margin:.0%} better"


def draw_stored(
    agent: Agent, count: int, chunk_size: int, generator: np.random.Generator
) -> Iterator[Transitions]:
    """Stored transitions, drawn evenly over the meta-training tasks.

    Args:
        agent: Whose experience.
        count: How many.
        chunk_size: How many at a time, at most.
        generator: Draws them.

    Returns:
        Chunks, ``(chunk_size, ...)``, on the agent's device, each drawn when it is asked for.
    """
    require_types("draw_stored", agent=(agent, Agent), generator=(generator, np.random.Generator))
    require_int("draw_stored", "count", count, least=0)
    require_int("draw_stored", "chunk_size", chunk_size, least=1)
    tasks = np.arange(agent.replay.num_tasks)

    def draw(size: int) -> Transitions:
        per_task = -(-size // len(tasks))
        drawn = agent.replay.sample_transitions(
            tasks, per_task, adaptation=False, generator=generator
        ).flatten()
        order = torch.from_numpy(generator.permutation(len(drawn))[:size])
        return drawn[order].to(agent.device)

    return (draw(min(chunk_size, count - done)) for done in range(0, count, chunk_size))


def _require_parts(
    function: str, agent: Agent, config: AdaptConfig, generator: np.random.Generator
) -> None:
    require_types(
        function,
        agent=(agent, Agent),
        config=(config, AdaptConfig),
        generator=(generator, np.random.Generator),
    )
