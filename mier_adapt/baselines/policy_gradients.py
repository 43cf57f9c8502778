"""What methods that follow a policy gradient share: densities, discounted sums, PPO's objective."""

import math
from typing import NamedTuple

import torch

from mier_adapt._typing import Bool, Float, Tensor


class Gaussian(NamedTuple):
    """Independent Gaussians of actions before tanh squashes them into [-1, 1]."""

    loc: Float[Tensor, "T B A"]
    log_std: Float[Tensor, "*some A"]
    """Of any shape that goes with it."""

    def log_prob(self, unbounded: Float[Tensor, "T B A"]) -> Float[Tensor, "T B"]:
        """Of actions before tanh; its Jacobian cancels in ratios, and has no gradient."""
        standard = (unbounded - self.loc) * (-self.log_std).exp()
        each = -0.5 * standard.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return each.sum(-1)

    def divergence(self, other: "Gaussian") -> Float[Tensor, "T B"]:
        """KL divergence of this one from the other, in nats."""
        moved = (self.loc - other.loc).square() + (2 * self.log_std).exp()
        each = other.log_std - self.log_std + 0.5 * moved * (-2 * other.log_std).exp() - 0.5
        return each.sum(-1)


def discounted(
    values: Float[Tensor, "*axes S"], ended: Bool[Tensor, "*axes S"], discount: float
) -> Float[Tensor, "*axes S"]:
    """Discounted sums of what follows within each episode."""
    sums = torch.empty_like(values)
    follows = torch.zeros_like(values[..., 0])
    for step in reversed(range(values.shape[-1])):
        follows = values[..., step] + discount * follows.masked_fill(ended[..., step], 0.0)
        sums[..., step] = follows
    return sums


def clipped_objective(
    log_ratio: Float[Tensor, "*axes"], advantage: Float[Tensor, "*axes"], clip_ratio: float
) -> Float[Tensor, ""]:
    """PPO's, which is to grow; there is no gain from a ratio beyond ``1 ± clip_ratio``.

    Source:
        Schulman et al. (2017), arXiv:1707.06347, equation 7.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    return torch.minimum(ratio * advantage, clipped * advantage).mean()
