"""Tianshou's policies as plain networks: the deterministic action, without Tianshou around it."""

import copy
from typing import Any

import torch
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.modelfree.redq import REDQPolicy
from tianshou.algorithm.modelfree.sac import SACPolicy
from tianshou.utils.net.common import MLP, Net
from tianshou.utils.net.continuous import ContinuousActorDeterministic, ContinuousActorProbabilistic
from torch import nn

from mier_adapt.integration.actors import act


def deterministic_network(policy: Any) -> nn.Module:
    """A copy of what a policy does when it does not explore: ``(B, O) -> (B, A)`` in [-1, 1].

    Returns:
        A ``nn.Sequential`` of the actor's own layers for Tianshou's stock actors; otherwise a
        module that asks the policy.
    """
    layers = stock_layers(policy)
    if layers is None:
        return _Asked(copy.deepcopy(policy)).eval()
    return copy.deepcopy(nn.Sequential(*layers)).eval().requires_grad_(False)


def stock_layers(policy: Any) -> list[nn.Module] | None:
    """The stock actor's layers in their order; None where it is none, or does something else."""
    actor = policy.actor
    squashed = type(policy) in (SACPolicy, REDQPolicy) and policy.deterministic_eval
    if squashed and type(actor) is ContinuousActorProbabilistic and actor._unbounded:
        head = actor.mu
    elif type(policy) is ContinuousDeterministicPolicy and (
        type(actor) is ContinuousActorDeterministic and actor.max_action == 1
    ):
        head = actor.last
    else:
        return None
    trunk = actor.preprocess
    plain = type(trunk) is Net and not trunk.use_dueling and not trunk.softmax
    if not plain or trunk.num_atoms != 1 or type(trunk.model) is not MLP:
        return None
    idle = (nn.Dropout, nn.Identity)  # where nothing is learned
    return [each for each in (*trunk.model.model, *head.model) if type(each) not in idle] + [
        nn.Tanh()
    ]


class _Asked(nn.Module):
    """A policy that is asked through Tianshou."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(act(self.policy, obs.cpu().numpy(), explore=False))
