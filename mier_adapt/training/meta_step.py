"""meta_step: one step of a model down the meta-loss, for every way to meta-train."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt.agents.configs import ModelConfig
from mier_adapt.context_adapter import GradientContextAdapter, MetaLoss
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt.transitions import Transitions


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a training something happens, for messages."""

    step: str
    """As it follows "at"."""
    tasks: Sequence[Any]
    """Names of the tasks."""
    remedy: str
    """What to do about a divergence, as sentences."""

    def task(self, index: int) -> str:
        """One of the tasks."""
        return f"task {index} ({self.tasks[index]})"


def meta_step(
    adapter: GradientContextAdapter,
    optimizer: torch.optim.Optimizer,
    replay: ContextReplayBuffer,
    tasks: NDArray[np.int_],
    config: ModelConfig,
    place: Place,
) -> MetaLoss:
    """Draw some tasks' sets, and descend their meta-loss.

    Raises:
        FloatingPointError: As :func:`descend`.
    """
    return descend(adapter, optimizer, draw_sets(replay, tasks, config), tasks, config, place)


def draw_sets(
    replay: ContextReplayBuffer, tasks: NDArray[np.int_], config: ModelConfig
) -> tuple[Transitions, Transitions]:
    """What a meta-step learns from, ``(T, B, ...)`` each.

    Adaptation sets are drawn from what was gathered with the initial context, evaluation sets from
    everything.
    """
    adaptation = replay.sample_transitions(
        tasks, config.batch_size, adaptation=True, window=config.adaptation_window
    )
    return adaptation, replay.sample_transitions(tasks, config.batch_size, adaptation=False)


def descend(
    adapter: GradientContextAdapter,
    optimizer: torch.optim.Optimizer,
    sets: tuple[Transitions, Transitions],
    tasks: NDArray[np.int_],
    config: ModelConfig,
    place: Place,
) -> MetaLoss:
    """Descend the meta-loss of some tasks, by gradients rescaled to ``config.max_grad_norm``.

    Draws nothing, and touches nothing but model and optimizer.

    Raises:
        FloatingPointError: If loss, gradient or a context stops being finite; names it and where.
    """
    model = cast(torch.nn.Module, adapter.model)
    parameters = list(model.parameters())
    adaptation, evaluation = (each.to(parameters[0].device) for each in sets)
    meta = adapter.meta_loss(adaptation, evaluation, first_order=config.first_order)
    loss = float(meta.loss.detach())
    if not math.isfinite(loss):
        worst = int(torch.argmax(torch.nan_to_num(meta.evaluation_loss, nan=math.inf)))
        raise FloatingPointError(
            f"The model's meta-loss is {loss} at {place.step}, worst on "
            f"{place.task(int(tasks[worst]))}. {place.remedy}"
        )
    optimizer.zero_grad()
    meta.loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not math.isfinite(float(norm)):
        names = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        ]
        raise FloatingPointError(
            f"The meta-gradient of {', '.join(names) or 'the model'} is not finite at "
            f"{place.step}, on tasks {tasks.tolist()}. {place.remedy}"
        )
    require_finite_contexts(meta.contexts, tasks, place)
    torch.nn.utils.clip_grads_with_norm_(parameters, config.max_grad_norm, norm)
    optimizer.step()
    return meta


def require_finite_contexts(contexts: torch.Tensor, tasks: NDArray[np.int_], place: Place) -> None:
    """Check contexts, ``(T, C)``.

    Raises:
        FloatingPointError: If one is not finite; names its task.
    """
    finite = contexts.isfinite().all(dim=1)
    if not bool(finite.all()):
        task = int(tasks[int(finite.int().argmin())])
        raise FloatingPointError(
            f"The context of {place.task(task)} is not finite at {place.step}. {place.remedy}"
        )
