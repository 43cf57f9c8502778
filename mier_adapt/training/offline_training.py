"""Meta-train a model on replay buffers alone: no environment, no policy."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch

from mier_adapt._checks import Device, Seed, Size, checked
from mier_adapt._products import quick_products
from mier_adapt.agents.configs import ModelConfig
from mier_adapt.agents.run import build_adapter
from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.context_model import ContextModel
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt.protocols import Varies
from mier_adapt.training.meta_step import Place, meta_step
from mier_adapt.transitions import Transitions

_ANNEALED_SHARE = 0.5
"""Last share of the steps, over which the step size falls linearly to zero."""


@checked
@torch.inference_mode(False)
@quick_products()
def meta_train_offline(
    earlier: Sequence[Transitions],
    *,
    steps: Size,
    seed: Seed,
    config: ModelConfig | None = None,
    varies: Varies = "reward_and_dynamics",
    device: Device = "cpu",
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> GradientContextAdapter:
    """Meta-train a :class:`.ContextModel` on logged transitions of several tasks.

    Both sets of a meta-step are drawn from a task's own log. A new task is identified well from
    transitions that were gathered as those logs were, and less well from others.

    With a single task, or a context of 0 dimensions, there is nothing to identify: the model then
    learns from its tasks' transitions as an ordinary one does.

    Args:
        earlier: ``(B, ...)`` of each task.
        steps: Meta-steps, of a size that falls linearly to zero over the last half of them.
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
    config = config or ModelConfig()
    replay = ContextReplayBuffer.of(
        earlier, context_dim=config.context_dim, generator=np.random.default_rng(seed)
    )
    adapter = build_adapter(
        config,
        replay.obs_dim,
        replay.act_dim,
        varies=varies,
        device=device,
        generator=torch.Generator().manual_seed(seed),
    )
    if not config.context_dim or len(earlier) == 1:
        adapter = adapter.with_steps(0)
    model = cast(ContextModel, adapter.model)
    if config.normalize:
        model.fit_normalization(replay.stored().to(device))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    num_tasks = min(config.tasks_per_batch, len(earlier))
    for step in range(1, steps + 1):
        left = (steps + 1 - step) / (_ANNEALED_SHARE * steps)
        optimizer.param_groups[0]["lr"] = config.lr * min(1.0, left)
        place = Place(
            step=f"step {step}",
            tasks=[f"earlier[{number}]" for number in range(len(earlier))],
            remedy="Lower config.lr or config.inner_lr.",
        )
        tasks = replay.generator.choice(len(earlier), num_tasks, replace=False)
        meta = meta_step(adapter, optimizer, replay, tasks, config, place)
        on_step(step, float(meta.evaluation_loss.mean()))
    optimizer.zero_grad()
    return adapter
