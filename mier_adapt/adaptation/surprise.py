"""Surprise: whether fresh transitions are what a model of the task expects, or of another task."""

from typing import Self

import numpy as np
import torch

from mier_adapt.adaptation.known_terms import in_known_terms
from mier_adapt.compensation import Compensation
from mier_adapt.protocols import TaskModel
from mier_adapt.transitions import Transitions

SURPRISING = 3.0
"""Loss above the highest so far, in nats, from which on transitions are of another task: what a
diagnosis takes for explained stays below it."""
_MOST_LEFT = 0.25
"""Share of a surprise that what explains it may leave."""
_CHUNK = 20
"""Transitions in a row that are surprising together, or not."""


class Expectation:
    """A model of the task as it is, and what its loss is there, at the most.

    Args:
        model: The model.
        context: Under which it predicts the task, ``(C,)``.
        highest: Loss of a few transitions in a row that is still usual.
        compensation: Behind which the task is what the model speaks of.
    """

    def __init__(
        self,
        model: TaskModel,
        context: torch.Tensor,
        highest: float,
        compensation: Compensation | None = None,
    ) -> None:
        self._model, self._context, self._compensation = model, context, compensation
        self.highest = highest

    @classmethod
    def of(
        cls,
        model: TaskModel,
        context: torch.Tensor,
        real: Transitions,
        compensation: Compensation | None = None,
    ) -> Self:
        """By the transitions that it was fitted to."""
        made = cls(model, context, 0.0, compensation)
        made.highest = float(np.quantile(made._losses(real), 0.95))
        return made

    def surprise(self, fresh: Transitions, share: float = 0.5) -> float:
        """By how much, in nats, more than that share of an episode is above what is usual."""
        return float(np.quantile(self._losses(fresh), share)) - self.highest

    @torch.no_grad()
    def is_explained_by(self, loss: float, fresh: Transitions) -> bool:
        """Whether a model of another task, with this mean loss there, takes most of the surprise.

        In states where a robot had not been yet no model is as good as usual: what is left is
        compared with what there was, and not with what is usual alone.
        """
        surprise = float(self._model.loss(self._known(fresh), self._context)) - self.highest
        return loss - self.highest <= _MOST_LEFT * surprise

    def _known(self, real: Transitions) -> Transitions:
        return in_known_terms(real, self._compensation)

    @torch.no_grad()
    def _losses(self, real: Transitions) -> list[float]:
        known = self._known(real)
        starts = range(0, max(1, len(known) - _CHUNK + 1), _CHUNK)
        chunks = (known[at : at + _CHUNK] for at in starts)
        return [float(self._model.loss(chunk, self._context)) for chunk in chunks]
