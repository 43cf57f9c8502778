"""Training an algorithm's actor alone: against its critics, or by what it is shown."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from tianshou.algorithm.algorithm_base import OffPolicyAlgorithm
from tianshou.algorithm.modelfree.ddpg import DDPG
from tianshou.algorithm.modelfree.redq import REDQ
from tianshou.algorithm.modelfree.sac import SAC
from tianshou.algorithm.modelfree.td3 import TD3
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step

from mier_adapt._typing import Float, Tensor
from mier_adapt.integration.actors import require_finite_parameters


def require_refreshable(owner: str, algorithm: Any) -> None:
    """Check that :func:`refresh_actor` knows an algorithm's loss of the actor.

    Raises:
        TypeError: If it does not.
    """
    if not isinstance(algorithm, (SAC, REDQ, TD3, DDPG)):
        raise TypeError(
            f"{owner} expected a SAC, REDQ, TD3 or DDPG, whose actor can be trained alone, got "
            f"{type(algorithm).__name__}. Set refresh_updates=0 to leave that stage out."
        )


def refresh_actor(algorithm: Any, observations: Iterable[Float[Tensor, "B O"]]) -> float:
    """Train an actor alone, against critics that stay as they are.

    Under the context of a new task, critics that were trained on many tasks often judge actions
    better than the actor chooses them. This needs no transitions of the new task at all, so it is
    the control that relabeling has to beat.

    Args:
        algorithm: A SAC, REDQ, TD3 or DDPG; its actor and that optimizer are changed.
        observations: One batch for each update, the new task's context appended.

    Returns:
        The last update's loss.

    Raises:
        FloatingPointError: If a loss is not finite; names the update.

    Source:
        The algorithms' own losses of the actor: SAC (Haarnoja et al. 2018, arXiv:1812.05905,
        equation 7), REDQ (Chen et al. 2021, arXiv:2101.05982), TD3 (Fujimoto et al. 2018,
        arXiv:1802.09477). Training it alone is ours.
    """
    critics = [algorithm.critic, *([algorithm.critic2] if isinstance(algorithm, SAC) else [])]
    loss = math.nan
    for critic in critics:
        critic.requires_grad_(False)
    try:
        for number, obs in enumerate(observations):
            with policy_within_training_step(algorithm.policy):
                chosen = algorithm.policy(Batch(obs=obs, info=Batch()))
            values = [critic(obs, chosen.act) for critic in critics]
            if isinstance(algorithm, SAC):
                q = torch.minimum(*(each.flatten() for each in values))
            elif isinstance(algorithm, REDQ):
                q = values[0].mean(dim=0).flatten()
            else:
                q = values[0].flatten()
            actor_loss = -q.mean()
            if isinstance(algorithm, (SAC, REDQ)):
                actor_loss = (algorithm.alpha.value * chosen.log_prob.flatten() - q).mean()
            loss = float(actor_loss.detach())
            if not math.isfinite(loss):
                raise FloatingPointError(f"refresh_actor: the loss of update {number} is {loss}.")
            algorithm.policy_optim.step(actor_loss)
    finally:
        for critic in critics:
            critic.requires_grad_(True)
    return loss


def imitate_actor(
    algorithm: OffPolicyAlgorithm[Any],
    batches: Iterable[tuple[Float[Tensor, "B O"], Float[Tensor, "B A"]]],
) -> float:
    """Train an algorithm's actor alone, to act as it is shown.

    A stochastic actor (SAC, REDQ) learns the likelihood of the actions before their squashing, so
    noise in them becomes its own; a deterministic one (TD3) their mean.

    Args:
        algorithm: Its actor and that optimizer are changed.
        batches: Observations and actions in [-1, 1], one batch for each update.

    Returns:
        The last update's loss.

    Raises:
        FloatingPointError: If a loss is not finite; names the update.
    """
    actor_critic: Any = algorithm
    loss = math.nan
    for number, (obs, act) in enumerate(batches):
        try:
            try:
                chosen = algorithm.policy(Batch(obs=obs, info=Batch()))
            except ValueError:  # by which torch's distributions refuse a network's NaN
                require_finite_parameters(algorithm.policy, "The imitating actor")
                raise
            if "dist" in chosen.get_keys():
                before_squashing = torch.atanh(act.clamp(-1 + 1e-3, 1 - 1e-3))
                actor_loss = -chosen.dist.log_prob(before_squashing).mean()
            else:
                actor_loss = (chosen.act - act).square().mean()
        except RuntimeError as error:  # by which torch says that shapes do not fit
            raise ValueError(
                "imitate_actor expected observations and actions that the actor takes and gives, "
                f"got shapes {tuple(obs.shape)} and {tuple(act.shape)}."
            ) from error
        loss = float(actor_loss.detach())
        if not math.isfinite(loss):
            raise FloatingPointError(f"imitate_actor: the loss of update {number} is {loss}.")
        actor_critic.policy_optim.step(actor_loss)
    return loss
