"""Imitation: a stock Tianshou algorithm that starts from a policy of any other make."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from mier_adapt._checks import (
    Count,
    NonNegative,
    PositiveShare,
    Seed,
    Share,
    Size,
    checked,
    require_actions,
)
from mier_adapt._products import quick_products
from mier_adapt._storage.randomness import forked_global_generators
from mier_adapt._typing import Float, Tensor
from mier_adapt.integration import ContextReplayBuffer, PolicyActor, update
from mier_adapt.integration.actor_training import imitate_actor
from mier_adapt.integration.actors import require_finite_parameters
from mier_adapt.integration.algorithms import (
    one_step_targets,
    require_actor_critic,
    restart_optimizers,
)
from mier_adapt.transitions import OneTask


@checked
@torch.inference_mode(False)
@quick_products()
def imitate(
    algorithm: Any,
    policy: Callable[[Float[Tensor, "B O"]], Float[Tensor, "B A"]],
    earlier: OneTask,
    *,
    seed: Seed,
    actor_updates: Count = 2_000,
    critic_updates: Count = 5_000,
    batch_size: Size = 256,
    lr: PositiveShare = 1e-3,
    noise: Share = 0.2,
    temperature: NonNegative = 0.1,
    on_update: Callable[[float], None] = lambda progress: None,
) -> float:
    """Make an algorithm act as a policy does, and its critics know what that is worth.

    First the actor learns the policy's actions on the logged observations; then the critics learn
    from the logged transitions, by the algorithm's own updates with targets of one step, while the
    actor stays.

    Args:
        algorithm: A new Tianshou SAC, TD3 or REDQ, ``context_dim`` 0; changed in place.
        policy: Maps observations ``(B, O)`` to actions ``(B, A)`` in [-1, 1].
        earlier: What the policy experienced, ``(B, ...)``.
        seed: Fixes the samples.
        actor_updates: Updates of the actor.
        critic_updates: Updates of the critics after it.
        batch_size: Transitions of an update.
        lr: Adam's step size in both.
        noise: Standard deviation of a stochastic actor around the policy's actions.
        temperature: Of SAC and REDQ, fixed from here on, in units of reward per nat.
        on_update: Told the progress from 0 to 1.

    Returns:
        Root mean squared difference of the actor's deterministic actions from the policy's.

    Raises:
        ValueError: If the policy's answer has another shape or range, or a shape does not fit.
        FloatingPointError: If a loss stops being finite.
    """
    require_actor_critic("imitate", algorithm)
    earlier = earlier.detach().to(torch.float32)
    generator = np.random.default_rng(seed)
    replay = ContextReplayBuffer.of([earlier], generator=generator)
    device = next(algorithm.policy.parameters()).device

    def shown() -> Iterator[tuple[Tensor, Tensor]]:
        for done in range(actor_updates):
            picks = torch.from_numpy(generator.integers(len(earlier), size=batch_size))
            obs = earlier.obs[picks].to(device)
            chosen = _asked(policy, obs, earlier.act.shape[-1])
            yield obs, (chosen + noise * torch.randn_like(chosen)).clamp(-1, 1)
            on_update((done + 1) / (actor_updates + critic_updates))

    with forked_global_generators(seed):
        restart_optimizers(algorithm, actor_lr=lr, critic_lr=lr, temperature=temperature)
        imitate_actor(algorithm, shown())
        restart_optimizers(algorithm, actor_lr=0.0, critic_lr=lr)
        with one_step_targets(algorithm):
            for done in range(critic_updates):
                losses = update(algorithm, replay, batch_size)
                if not all(math.isfinite(loss) for loss in losses.values()):
                    raise FloatingPointError(
                        f"imitate: the losses are {losses} at update {done} of the critics. Lower "
                        "lr or temperature."
                    )
                on_update((actor_updates + done + 1) / (actor_updates + critic_updates))
    require_finite_parameters(algorithm, "The imitating algorithm")
    probe = earlier.obs[:: max(1, len(earlier) // 1_000)]
    actor = PolicyActor(algorithm.policy, torch.zeros(0))
    learned = torch.from_numpy(actor.act(probe.numpy(), explore=False))
    difference = learned - _asked(policy, probe.to(device), earlier.act.shape[-1]).cpu()
    return float(difference.square().mean().sqrt())


@torch.no_grad()
def _asked(policy: Callable[[Tensor], Tensor], obs: Tensor, act_dim: int) -> Tensor:
    """The policy's actions, if they are what they should be."""
    actions = policy(obs.clone())  # which may write into what it is given
    require_actions("imitate", actions, (len(obs), act_dim))
    return actions.to(obs)
