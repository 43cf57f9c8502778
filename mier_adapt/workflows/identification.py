"""Identification: gather a new task's real transitions, keep them safe, and find its context."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._checks import require_seed, require_types
from mier_adapt.transitions import Transitions
from mier_adapt.workflows.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.evaluation import collect_for_tasks
from mier_adapt.workflows.randomness import global_generator_state, set_global_generator_state
from mier_adapt.workflows.runs import Run
from mier_adapt_envs import Task

__all__ = ["Identified", "identify"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Identified:
    """The real transitions of a new task, and the context that they identify."""

    real: Transitions
    """Shape ``(B, ...)``, in the order in which they were gathered."""
    truncated: NDArray[np.bool_]
    """Where a time limit cut an episode, ``(B,)``."""
    context: torch.Tensor
    """Shape ``(C,)``."""


def identify(
    run: Run,
    envs: TaskEnvs,
    task: Task,
    *,
    seed: int,
    generator: np.random.Generator,
    checkpoint: Path | None = None,
) -> Identified:
    """Gather in rounds, each under the context that the rounds before it identified.

    Args:
        run: The agent; ``run.config.adapt`` says how much is gathered, in how many rounds.
        envs: The family's environments.
        task: The new task.
        seed: The adaptation's, which a checkpoint has to share.
        generator: Draws the starts.
        checkpoint: File that keeps the transitions after every round, since a robot's time is
            what an adaptation cannot compute again. If it is there, its rounds are not run again
            and all generators go on from where they were.

    Raises:
        ValueError: If the checkpoint is of another adaptation.
        CheckpointError: If it is damaged.
        FloatingPointError: If an action, an observation or the context is not finite.
    """
    require_types(
        "identify",
        run=(run, Run),
        envs=(envs, TaskEnvs),
        task=(task, Task),
        generator=(generator, np.random.Generator),
        checkpoint=(checkpoint, (Path, type(None))),
    )
    require_seed("identify", seed)
    config = run.config.adapt
    parts: list[Transitions] = []
    cuts: list[NDArray[np.bool_]] = []
    if checkpoint is not None and checkpoint.exists():
        real, truncated = _load(checkpoint, run, task, seed, generator)
        parts.append(real)
        cuts.append(truncated)
    context = run.model.initial_context.detach()
    total = 0
    for share in np.array_split(np.arange(config.adaptation_steps), config.collection_rounds):
        if sum(map(len, parts)) == total:
            (rollout,) = collect_for_tasks(
                run,
                envs,
                [task],
                context[None].cpu().numpy(),
                steps=len(share),
                generator=generator,
            )
            parts.append(rollout.transitions.flatten()[: len(share)])
            cuts.append(rollout.truncated.reshape(-1)[: len(share)])
            if checkpoint is not None:
                _save(checkpoint, run, task, seed, generator, parts, cuts)
        total += len(share)
        so_far = Transitions.cat(parts)[:total].to(run.device)
        context = run.adapter.adapt(so_far, steps=config.context_steps)
        if not bool(context.isfinite().all()):
            raise FloatingPointError(
                f"Adapting to task {task}: the context that {total} real transitions identify is "
                "not finite. The run's model diverged; go back to an earlier checkpoint of it."
            )
    return Identified(so_far, np.concatenate(cuts), context)


def _identity(run: Run, task: Task, seed: int) -> dict[str, Any]:
    """What has to be the same for an adaptation to be the same."""
    weights = sum(float(each.detach().double().sum()) for each in run.algorithm.policy.parameters())
    return {"task": task.to_dict(), "seed": seed, "config": run.config.to_dict(), "policy": weights}


def _save(
    checkpoint: Path,
    run: Run,
    task: Task,
    seed: int,
    generator: np.random.Generator,
    parts: list[Transitions],
    cuts: list[NDArray[np.bool_]],
) -> None:
    real = Transitions.cat(parts)
    tree = {
        "adaptation": _identity(run, task, seed),
        "real": {each.name: getattr(real, each.name) for each in dataclasses.fields(real)},
        "truncated": torch.from_numpy(np.concatenate(cuts)),
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
    checkpoint: Path, run: Run, task: Task, seed: int, generator: np.random.Generator
) -> tuple[Transitions, NDArray[np.bool_]]:
    """Transitions of :func:`_save`; the generators go on from where they were."""
    tree = load_tree(checkpoint)
    try:
        found = tree["adaptation"]
        real, truncated = Transitions(**tree["real"]), tree["truncated"].numpy()
        same = found == _identity(run, task, seed)
        if same:
            generator.bit_generator.state = tree["generator"]
            set_global_generator_state(tree["global_generators"])
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint} is not the checkpoint of an adaptation: {error}"
        ) from error
    if not same:
        raise ValueError(
            f"{checkpoint} is of an adaptation to another task, with another seed, or of another "
            "run. Delete it, or choose another checkpoint."
        )
    return real, truncated
