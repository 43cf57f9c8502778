"""ProMP: MAML's initial weights by proximal steps, which send credit back through the inner step.

In the order of Rothfuss et al. (2019), arXiv:1810.06784, section 5 and Algorithm 1; the policy, its
baseline and the episodes are those of :mod:`.maml`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mier_adapt._checks import (
    NonNegative,
    Positive,
    PositiveShare,
    Size,
)
from mier_adapt._typing import Float, Tensor
from mier_adapt.baselines.maml import Experience, InnerStepConfig, InnerStepTrainer, Weights
from mier_adapt.baselines.policy_gradients import clipped_objective
from mier_adapt.baselines.runs import BaselineFile, BaselineMethod, descend

_TOO_FAR = 1.5
"""Times the target, or its part, at which the weight of the divergence changes (released code)."""


@dataclass(frozen=True, kw_only=True)
class PrompConfig(InnerStepConfig):
    """A meta-training run of ProMP."""

    lr: Positive = 1e-3
    """Adam's step size (released code)."""
    outer_steps: Size = 5
    """Of Adam on the same episodes (released code)."""
    clip: PositiveShare = 0.3
    """Within which an adapted policy's likelihood ratios count (released code)."""
    inner_kl_weight: NonNegative = 5e-4
    """Of the initial policy's divergence from the one that acted, at first (released code)."""
    target_inner_kl: Positive = 0.01
    """Of that divergence in nats, which its weight steers to by factors of two (released code,
    where it does so only if asked)."""


class PrompTrainer(InnerStepTrainer[PrompConfig]):
    """A run of ProMP in the making.

    Source:
        Rothfuss et al. (2019), arXiv:1810.06784, Algorithm 1, equations 12 to 15.
    """

    def prepare(self) -> None:
        """Adam, and the divergence's first weight."""
        config = self.config
        parameters = self.networks.parameters()
        self.optimizers["policy"] = torch.optim.Adam(parameters, lr=config.lr, fused=True)
        self.inner_kl_weight = config.inner_kl_weight

    def outer_step(self, before: Experience, after: Experience) -> tuple[Tensor, Tensor]:
        """Take Adam's steps on the same episodes; the gain is the surrogate's."""
        config = self.config
        objective = self.outer_objective(before, after)
        surrogates = []
        for _ in range(config.outer_steps):
            surrogate, inner_kl, _ = objective(create_graph=True)
            surrogates.append(surrogate.detach())
            descend(self.optimizers["policy"], surrogate + self.inner_kl_weight * inner_kl)
        surrogate, inner_kl, kl = (each.detach() for each in objective(create_graph=False))
        if float(inner_kl) > _TOO_FAR * config.target_inner_kl:
            self.inner_kl_weight *= 2
        elif float(inner_kl) < config.target_inner_kl / _TOO_FAR:
            self.inner_kl_weight /= 2
        return kl, surrogates[0] - surrogate

    def outer_objective(
        self, before: Experience, after: Experience
    ) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        """Loss, divergence of the initial policy and of adapted ones, from those that acted.

        All are functions of the initial weights as they stand when it is called.
        """
        networks, tasks = self.networks, len(before.obs)
        with torch.no_grad():
            acted = networks.actions(networks.weights(tasks), before.obs)
            then = acted.log_prob(before.unbounded)

        def inner_loss(weights: Weights) -> Float[Tensor, " T"]:
            """By ratios, whose second derivatives are of low variance (equation 12)."""
            log_prob = networks.actions(weights, before.obs).log_prob(before.unbounded)
            loss: Tensor = -((log_prob - then).exp() * before.advantage).mean(-1)
            return loss

        moved = self.moved(before, after, inner_loss)

        def objective(*, create_graph: bool) -> tuple[Tensor, Tensor, Tensor]:
            log_ratio, kl = moved(create_graph=create_graph)
            surrogate = -clipped_objective(log_ratio, after.advantage, self.config.clip)
            now = networks.actions(networks.weights(tasks), before.obs)
            return surrogate, acted.divergence(now).mean(), kl

        return objective

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state, with the weight of the divergence that it had."""
        super().load_state(state)
        self.inner_kl_weight = state["inner_kl_weight"]

    def _counts(self) -> dict[str, Any]:
        return {**super()._counts(), "inner_kl_weight": self.inner_kl_weight}


# The method ---------------------------------------------------------------------------------


class _PrompFile(BaselineFile):
    """What ``run.json`` says of a run of ProMP."""

    method = "promp"
    config_class = PrompConfig


class Promp(BaselineMethod):
    """ProMP with one configuration, a :class:`.Method`.

    Args:
        config: A :class:`PrompConfig`, what is trained.
        device: Where networks live and learn.

    Source:
        Rothfuss et al. (2019), arXiv:1810.06784, Algorithm 1.
    """

    run_file = _PrompFile
    trainer = PrompTrainer
