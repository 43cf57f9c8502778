"""Identification: gather a new task's real transitions, keep them safe, and find its context."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import Module

from mier_adapt._checks import Seed, checked, require_unit
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt._storage.files import FOREIGN_ERRORS
from mier_adapt._storage.randomness import global_generator_state, set_global_generator_state
from mier_adapt.adaptation.excitation import Excited
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig
from mier_adapt.agents.metering import Meter, Spent
from mier_adapt.agents.new_task import NewTask
from mier_adapt.agents.rollouts import Rollout
from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.gates import AlwaysGate
from mier_adapt.protocols import Actor
from mier_adapt.transitions import OneTask, Transitions

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Identified:
    """The real transitions of a new task, and the context that they identify."""

    real: Transitions
    """Shape ``(B, ...)``, logged ones first, then in the order in which they were gathered."""
    truncated: NDArray[np.bool_]
    """Where a time limit cut an episode, ``(B,)``."""
    context: torch.Tensor
    """Shape ``(C,)``."""
    spent: Spent
    """What the environment did for it, in earlier processes too; rounds of several episodes side
    by side are run to their end."""
    logged: int = 0
    """How many of the transitions were there before."""
    initial_steps: int = 0
    """How many of them were gathered under the initial context, first of all, where none were
    there before."""
    excited: bool = False
    """Whether noise moved a robot that had come to rest; otherwise the policy alone acted."""

    @property
    def initial_returns(self) -> list[float]:
        """Of the whole episodes that were gathered, exploring, under the initial context."""
        first = slice(self.initial_steps)
        ends = self.real.terminated[first].cpu().numpy() | self.truncated[first]
        rewards = self.real.rew[first].double().cpu().numpy()
        episodes = np.split(rewards, np.flatnonzero(ends) + 1)[:-1]  # the last one has no end
        return [float(each.sum()) for each in episodes]


@checked
def identify(
    agent: Agent,
    task: NewTask,
    config: AdaptConfig,
    *,
    seed: Seed,
    generator: np.random.Generator,
    checkpoint: Path | None = None,
    logged: OneTask | None = None,
) -> Identified:
    """Gather in rounds, each under the context that the rounds before it identified.

    Args:
        agent: Acts, and has the model.
        task: The new task.
        config: How much is gathered, in how many rounds, and how many context steps follow.
        seed: The adaptation's, which a checkpoint has to share.
        generator: Draws the starts.
        checkpoint: File that keeps the transitions after every round, and where an error or an
            interrupt ends one, since a robot's time is what an adaptation cannot compute again. If
            it is there, only what is missing is gathered, and all generators go on from where they
            were.
        logged: Transitions of the new task that are there already, ``(B, ...)``, actions in
            [-1, 1]. All are used, and count as if the first rounds had gathered them.

    Raises:
        ValueError: If the checkpoint is of another adaptation, or logged transitions do not fit.
        CheckpointError: If it is damaged.
        FloatingPointError: If an action, an observation or the context is not finite.
    """
    parts: list[Transitions] = []
    cuts: list[NDArray[np.bool_]] = []
    before: list[Transitions] = []
    if logged is not None:
        require_fitting_log("identify", logged, (agent.model.obs_dim, agent.model.act_dim))
        before = [as_gathered(logged)]
    num_logged = sum(map(len, before))
    excited = False
    meter = Meter(spent={"": Spent()})
    metered, identity = (
        task.metered(meter),
        identity_of(agent, [task.label, *task.parameters], config, seed, *before),
    )
    if checkpoint is not None:
        with contextlib.suppress(FileNotFoundError):  # not asked before: it may go in between
            parts, cuts, excited = _load(checkpoint, identity, generator, meter.spent[""])

    def keep(rollout: Rollout, count: int) -> None:
        parts.append(rollout.transitions.flatten()[:count])
        cuts.append(rollout.truncated.reshape(-1)[:count])

    adapter = adapter_for(agent, config)
    context = agent.model.initial_context.detach()
    total = 0
    for share in np.array_split(np.arange(config.adaptation_steps), config.collection_rounds):
        total += len(share)
        missing = total - num_logged - sum(map(len, parts))
        if missing > 0:
            keep_some = functools.partial(keep, count=missing)
            actor = moving(agent, agent.actor(context), config, generator)
            try:
                keep_some(
                    metered.run(
                        actor,
                        steps=missing,
                        generator=generator,
                        on_interrupt=keep_some,
                    )
                )
            finally:
                excited |= isinstance(actor, Excited) and actor.moved
                if checkpoint is not None and parts:
                    _save(checkpoint, identity, generator, parts, cuts, excited, meter.spent[""])
        so_far = Transitions.cat([*before, *parts])[: max(total, num_logged)].to(agent.device)
        context = adapter.adapt(so_far)
        if not bool(context.isfinite().all()):
            raise FloatingPointError(
                f"The context that {len(so_far)} real transitions of {task.label} identify is "
                "not finite. The model diverged; go back to an earlier checkpoint of it."
            )
    truncated = np.concatenate([np.zeros(num_logged, np.bool_), *cuts])
    first = -(-config.adaptation_steps // config.collection_rounds)
    return Identified(
        so_far, truncated, context, meter.spent[""], num_logged, 0 if num_logged else first, excited
    )


def moving(
    agent: Agent, actor: Actor, config: AdaptConfig, generator: np.random.Generator
) -> Actor:
    """An actor that gathers, with what moves a robot at rest, where that is asked for."""
    if not config.excitation:
        return actor
    known = agent.replay.recent_transitions(max(1, _KNOWN // agent.replay.num_tasks))
    return Excited(actor, known, std=config.excitation, generator=generator)


_KNOWN = 4_000
"""Stored transitions, of all tasks together, that say how known tasks move."""


@torch.no_grad()
def novelty(
    agent: Agent, real: Transitions, context: torch.Tensor, earlier_contexts: torch.Tensor
) -> float | None:
    """How much worse the agent's model explains a new task than those that it knows.

    Under the context that was found, which names a task among those that the model can describe:
    where it lies among theirs says nothing of a task that it cannot.

    Args:
        agent: The agent.
        real: The new task's transitions, ``(B, ...)``.
        context: Its context, ``(C,)``.
        earlier_contexts: The T earlier tasks' contexts, ``(T, C)``.

    Returns:
        The model's loss, less the mean of the earlier tasks' under their contexts, in standard
        deviations of the latter; None where these are fewer than three.
    """
    tasks = np.arange(agent.replay.num_tasks)
    if len(tasks) < 3:
        return None
    stored = agent.replay.sample_transitions(
        tasks, len(real), adaptation=True, generator=np.random.default_rng(0)
    ).to(agent.device)
    losses = agent.model.loss(stored, earlier_contexts)
    spread = float(losses.std())
    excess = float(agent.model.loss(real, context) - losses.mean())
    return excess / spread if spread > 0 else 0.0


def require_fitting_log(owner: str, logged: Transitions, dims: tuple[int, ...]) -> None:
    """Check that logged transitions ``(B, ...)`` are of observations and actions of these sizes.

    Raises:
        ValueError: If they are not, or actions are outside [-1, 1].
    """
    found = (logged.obs.shape[-1], logged.act.shape[-1])
    if found != dims:
        raise ValueError(
            f"{owner} expected logged with {dims} dimensions of observations and actions, got "
            f"{found}. They are transitions of the new task, with its own observations."
        )
    require_unit(owner, "actions of logged", logged.act)


def as_gathered(logged: Transitions) -> Transitions:
    """Logged transitions in the type and place of gathered ones."""
    return logged.detach().to("cpu").to(torch.float32)


def adapter_for(agent: Agent, config: AdaptConfig) -> GradientContextAdapter:
    """The agent's adapter, with the context steps that a new task gets."""
    return agent.adapter.with_steps(config.context_steps, later_lr=config.later_context_lr)


def identity_of(
    agent: Agent,
    task: Sequence[Any],
    config: AdaptConfig,
    seed: int,
    logged: Transitions | None = None,
) -> dict[str, Any]:
    """What has to be the same for an adaptation to be the same."""
    modules = [each for each in (agent.algorithm.policy, agent.model) if isinstance(each, Module)]
    weights = [
        sum(float(each.detach().double().sum()) for each in module.parameters())
        for module in modules
    ]
    # The gate decides after all that is kept, and one's own may look different in every process.
    without_gate = dataclasses.replace(config, gate=AlwaysGate())
    return {
        "task": list(task),
        "seed": seed,
        "config": repr(without_gate),
        "weights": weights,
        "threads": torch.get_num_threads(),
        "logged": None if logged is None else _digest(logged),
    }


def _digest(transitions: Transitions) -> str:
    digest = hashlib.sha256()
    for each in dataclasses.fields(transitions):
        digest.update(getattr(transitions, each.name).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(
    checkpoint: Path,
    adaptation: dict[str, Any],
    generator: np.random.Generator,
    parts: list[Transitions],
    cuts: list[NDArray[np.bool_]],
    excited: bool,
    spent: Spent,
) -> None:
    real = Transitions.cat(parts)
    tree = {
        "adaptation": adaptation,
        "real": {each.name: getattr(real, each.name) for each in dataclasses.fields(real)},
        "truncated": torch.from_numpy(np.concatenate(cuts)),
        "excited": excited,
        "spent": [spent.steps, spent.resets],
        "generator": generator.bit_generator.state,
        "global_generators": global_generator_state(),
    }
    try:
        save_tree(checkpoint, tree)
    except OSError as error:
        _logger.warning(
            "The real transitions were not written to %s: %s. The adaptation goes on in memory and "
            "loses nothing while this process lives.",
            checkpoint,
            error,
        )


def _load(
    checkpoint: Path, adaptation: dict[str, Any], generator: np.random.Generator, spent: Spent
) -> tuple[list[Transitions], list[NDArray[np.bool_]], bool]:
    """What :func:`_save` kept; the generators and the count go on from where they were."""
    tree = load_tree(checkpoint)
    try:
        found = dict(tree["adaptation"])
        real, truncated = Transitions(**tree["real"]), tree["truncated"].numpy()
        excited = bool(tree["excited"])
        same = found == adaptation
        if same:
            spent.steps, spent.resets = map(int, tree["spent"])
            generator.bit_generator.state = tree["generator"]
            set_global_generator_state(tree["global_generators"])
    except (RuntimeError, *FOREIGN_ERRORS) as error:
        raise CheckpointError(
            f"{checkpoint} is not the checkpoint of an adaptation: {error}"
        ) from error
    if not same:
        differing = [name for name in adaptation if found.get(name) != adaptation[name]]
        raise ValueError(
            f"{checkpoint} is of another adaptation: {', '.join(differing)} differ (another task, "
            "seed, log, options or agent; or another number of torch's threads, on which last "
            "bits depend: --threads, torch.set_num_threads). Delete it, or take another checkpoint."
        )
    return [real], [truncated], excited
