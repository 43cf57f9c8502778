"""Familiarity: were known tasks ever where a new one is? Elsewhere a model guesses, and is sure."""

import torch

from mier_adapt._typing import Float, Tensor

_USUAL = 0.95
"""Quantile of the known transitions' own distances up to which new ones are familiar."""
_COMPARED = 20_000
"""Known transitions, the latest, that new ones are compared with."""


class Familiarity:
    """How much a model can be relied on in observations: 1 where known tasks have been.

    Farther from the nearest known one than the latest known ones are from those before, it falls
    with the distance, in standard deviations.

    Args:
        known: Observations of each known task, in order.
        latest: How many of them, of all tasks together, are compared with those before.
    """

    def __init__(self, known: Float[Tensor, "K N O"], latest: int) -> None:
        every = known.flatten(0, 1)
        std, self._mean = torch.std_mean(every, 0, correction=0)
        self._varies = std > 1e-5 * every.abs().mean(0)
        self._std = torch.where(self._varies, std, 1)
        known = self._scaled(known[:, -max(1, _COMPARED // len(known)) :])
        latest = min(-(-latest // len(known)), known.shape[1] // 2)
        before, some = (each.flatten(0, 1) for each in known.tensor_split((-latest,), 1))
        self._known = known.flatten(0, 1)
        self._usual = float(_nearest(some, before).quantile(_USUAL)) if latest else 0.0

    def __call__(self, obs: Float[Tensor, "B O"]) -> Float[Tensor, " B"]:
        """Of each observation."""
        if not self._usual:  # known ones are few, or again and again the same
            return obs.new_ones(len(obs))
        away = _nearest(self._scaled(obs), self._known)
        return torch.where(away > self._usual, self._usual / away, 1)

    def _scaled(self, obs: Float[Tensor, "*axes O"]) -> Float[Tensor, "*axes V"]:
        return ((obs - self._mean) / self._std)[..., self._varies]


def _nearest(rows: Float[Tensor, "B O"], others: Float[Tensor, "N O"]) -> Float[Tensor, " B"]:
    """Distance of each to the nearest of the others."""
    return torch.cat([torch.cdist(some, others).min(1).values for some in torch.split(rows, 500)])
