"""Meta-train a model on replay buffers alone: no environment, no policy."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from mier_adapt._checks import (
    require_device,
    require_int,
    require_seed,
    require_type,
    require_types,
)
from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.context_model import ContextModel
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt.transitions import Transitions
from mier_adapt.workflows.presets import ModelConfig

__all__ = ["meta_train_offline", "replay_of"]


def replay_of(
    earlier: Sequence[Transitions], *, context_dim: int, generator: np.random.Generator
) -> ContextReplayBuffer:
    """Several tasks' logged transitions as one replay, any of which may identify its task.

    Args:
        earlier: ``(B, ...)`` of each task, of the same dimensions.
        context_dim: Dimensions of the contexts that samples are seen under.
        generator: Draws the samples.

    Raises:
        ValueError: If there are no tasks, or shapes differ.
    """
    require_type("replay_of", "earlier", earlier, Sequence)
    for number, each in enumerate(earlier):
        require_type("replay_of", f"earlier[{number}]", each, Transitions)
        if each.obs.ndim != 2:
            raise ValueError(
                f"replay_of expected earlier[{number}] to be one task's transitions, (B, dim), got "
                f"obs {tuple(each.obs.shape)}."
            )
    if not earlier:
        raise ValueError("replay_of expected earlier to hold at least one task, got none.")
    replay = ContextReplayBuffer(
        len(earlier),
        max(len(each) for each in earlier),
        obs_dim=earlier[0].obs.shape[-1],
        act_dim=earlier[0].act.shape[-1],
        context_dim=context_dim,
        generator=generator,
    )
    for number, each in enumerate(earlier):
        replay.extend(number, each, initial_context=True)
    return replay


def meta_train_offline(
    earlier: Sequence[Transitions],
    *,
    steps: int,
    seed: int,
    config: ModelConfig | None = None,
    varies: Literal["reward", "reward_and_dynamics"] = "reward_and_dynamics",
    device: torch.device | str = "cpu",
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> GradientContextAdapter:
    """Meta-train a :class:`.ContextModel` on logged transitions of several tasks.

    Both sets of a meta-step are drawn from a task's own log. A new task is identified well from
    transitions that were gathered as those logs were, and less well from others.

    With a single task, or a context of 0 dimensions, there is nothing to identify: the model then
    learns from its tasks' transitions as an ordinary one does.

    Args:
        earlier: ``(B, ...)`` of each task.
        steps: Meta-steps.
        seed: Fixes weights and samples.
        config: Shape and step sizes; ``pretrain_steps`` plays no part.
        varies: As :class:`.ContextModel`'s.
        device: Where the model goes.
        on_step: Told after every step its number, from 1, and its loss.

    Returns:
        The adapter, with its ``model``.

    Raises:
        ValueError: If there are no tasks, or shapes differ.
        FloatingPointError: If the loss stops being finite; names the step.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, equation 4, without the outer loop of Algorithm 1.
    """
    config = ModelConfig() if config is None else config
    require_types("meta_train_offline", config=(config, ModelConfig), on_step=(on_step, Callable))
    require_int("meta_train_offline", "steps", steps, least=1)
    require_seed("meta_train_offline", seed)
    device = require_device("meta_train_offline", device)
    replay = replay_of(
        earlier, context_dim=config.context_dim, generator=np.random.default_rng(seed)
    )
    model = ContextModel(
        earlier[0].obs.shape[-1],
        earlier[0].act.shape[-1],
        config.context_dim,
        hidden_sizes=config.hidden_sizes,
        varies=varies,
        learn_initial_context=config.learn_initial_context,
        generator=torch.Generator().manual_seed(seed),
    ).to(device)
    if config.normalize:
        model.fit_normalization(Transitions.cat(list(earlier)).to(device))
    adapter = GradientContextAdapter(
        model,
        steps=config.inner_steps if config.context_dim and len(earlier) > 1 else 0,
        lr=config.inner_lr,
        max_grad_norm=config.max_inner_grad_norm,
    )
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.lr, fused=True)
    num_tasks = min(config.tasks_per_batch, len(earlier))
    for step in range(1, steps + 1):
        tasks = replay.generator.choice(len(earlier), num_tasks, replace=False)
        adaptation, evaluation = (
            replay.sample_transitions(tasks, config.batch_size, adaptation=True).to(device)
            for _ in range(2)
        )
        meta = adapter.meta_loss(adaptation, evaluation, first_order=config.first_order)
        loss = float(meta.evaluation_loss.mean())
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"meta_train_offline: the meta-loss is {loss} at step {step}. Lower config.lr or "
                "config.inner_lr."
            )
        optimizer.zero_grad()
        meta.loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        on_step(step, loss)
    optimizer.zero_grad()
    return adapter
