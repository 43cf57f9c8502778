"""Score test: does a model err on new transitions as it errs on as many of the known task?

Other masses, friction or gravity move a single step by less than the model's own error, which a
comparison of losses has to forgive. But they move every step the same way, or by a share of how
far it went, or of where or how fast it was. The gradient of the loss by what came, averaged over a
stretch of transitions, shows that; and how far it strays where nothing changed, stretches of the
known task show.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch

from mier_adapt._typing import Float, Tensor
from mier_adapt.protocols import TaskModel
from mier_adapt.transitions import Transitions

FEWEST, _MOST = 20, 100
"""Stretches of the known task, its latest, that say how far the mean of one strays."""
_LENGTH = 50
"""Transitions of a stretch, where there are too few known ones for one as long as the new ones."""
_IN_ORDER = 0.5
"""Share of the known ones that follow on the one before: rows of robots side by side do not."""
_CLIPPED, _CLIPPED_LATE = (0.7, 1.0), (0.99, 2.0)
"""Quantile at so many times which gradients are clipped: contacts and falls have gradients of
hundreds. Most steps a model predicts well, and these show what is small; others show what acts in
contacts alone, as friction does, and how much of it a change explains."""
_SHRINKAGE = 0.3
"""Of correlations towards none: there are about as many stretches as dimensions."""
_BLOCKS = 5
"""In which known stretches are compared, each block with all others: a policy that was learning
while it gathered them strays from one to the next, as the one that gathered the new ones may."""


@dataclass(frozen=True, eq=False)
class _Usual:
    """How far the mean gradients of one kind stray in the known task."""

    middle: Float[Tensor, " Y"]
    """Median gradient."""
    tail: Float[Tensor, " Y"]
    """The unit of each dimension, at which it is clipped."""
    stretches: Float[Tensor, "S V"]
    """Mean gradients of stretches, in these units, where any strays."""
    distances: Float[Tensor, " S"]
    """How far each of these is from those of other blocks."""

    def distance(self, scores: Float[Tensor, "N Y"]) -> Float[Tensor, ""]:
        """Of a new stretch from all of these."""
        (mean,) = _means(scores, self.middle, self.tail, len(scores))
        return _distances(mean.unsqueeze(0), self.stretches)[0]

    def p_value(self, distance: Float[Tensor, ""]) -> float:
        """Probability that a stretch of the known task is as far away."""
        average, variance = self.distances.mean(), self.distances.var()
        shape = average.square() / variance
        return float(torch.special.gammaincc(shape, distance * average / variance))


@dataclass(frozen=True, eq=False)
class ScoreTest:
    """What came of it; see :func:`score_test`."""

    context: Float[Tensor, " C"]
    """The known task's."""
    centre: Float[Tensor, " O"]
    """Mean of its observations."""
    new: Transitions
    """The latest of the new ones."""
    usual: tuple[_Usual, ...]
    """The known task's mean gradients, of each kind, and of the first two at once, clipped late."""
    distances: tuple[Float[Tensor, ""], ...]
    """How far the new ones are from these, as the known task's model predicts them."""

    @property
    def p_value(self) -> float:
        """Probability that a stretch of the known task is as far away as the new one in any."""
        found = [each.p_value(far) for each, far in zip(self.usual, self.distances, strict=True)]
        none = len(found) * math.log1p(-min(*found, 1 - 1e-12))
        return -math.expm1(none)  # Sidak's: as if they were independent

    def left(self, model: TaskModel) -> float:
        """Share of what is unusual in the last distance that is left where this model predicts."""
        scores, usual = _scores(model, self.new, self.context, self.centre), self.usual[-1]
        average = usual.distances.mean()
        return float((usual.distance(scores[-1]) - average) / (self.distances[-1] - average))


def score_test(
    model: TaskModel, context: Float[Tensor, " C"], known: Transitions, new: Transitions
) -> ScoreTest | None:
    """Ask whether a stretch of the known task errs on the mean as far as the new one.

    Rao's score tests of three residuals, one that is constant, one in proportion to an
    observation's change and one to the observation itself, in most steps; and of the first two at
    once in all of them. Their distributions are taken from the known task: Hotelling's statistic of
    each stretch against those of other blocks, to which a gamma distribution is fitted.

    Args:
        model: Of the known task; its loss can be differentiated by transitions.
        context: The known task's.
        known: Its transitions, ``(B, ...)``, in order, by the policy that gathered the new ones.
        new: The new ones, ``(N, ...)``, in order, of which the latest are taken, a twentieth as
            many as the known ones.

    Returns:
        None where the known ones are too few, in no order, predicted without any error, or again
        and again the same.

    Source:
        Rao (1948), Large sample tests of statistical hypotheses concerning several parameters.
    """
    length = min(len(new), max(_LENGTH, len(known) // FEWEST))
    new, count = new[-length:], min(len(known) // length, _MOST)
    if count < FEWEST or known.follows.float().mean() < _IN_ORDER:
        return None
    known = known[-count * length :]
    centre = known.obs.mean(0)
    scores = _scores(model, known, context, centre)
    clipped = [_CLIPPED] * (len(scores) - 1) + [_CLIPPED_LATE]
    every = [_usual(each, length, at) for each, at in zip(scores, clipped, strict=True)]
    usual = tuple(each for each in every if each is not None)
    if len(usual) < len(every):
        return None
    scores = _scores(model, new, context, centre)
    distances = tuple(each.distance(one) for each, one in zip(usual, scores, strict=True))
    return ScoreTest(context, centre, new, usual, distances)


def _usual(
    scores: Float[Tensor, "B Y"], length: int, clipped: tuple[float, float]
) -> _Usual | None:
    """What stretches of the known task show; None where nothing strays."""
    middle = scores.median(0).values
    quantile, times = clipped
    tail = times * (scores - middle).abs().kthvalue(round(quantile * len(scores)), 0).values
    if not (tail > 0).any():
        return None
    stretches = _means(scores, middle, tail, length)
    blocks = torch.arange(len(stretches), device=scores.device) * _BLOCKS // len(stretches)
    distances = torch.cat(
        [
            _distances(stretches[blocks == block], stretches[blocks != block])
            for block in range(_BLOCKS)
        ]
    )
    if not distances.var() > 0:  # NaN, where stretches are all the same
        return None
    return _Usual(middle, tail, stretches, distances)


def _scores(
    model: TaskModel,
    transitions: Transitions,
    context: Float[Tensor, " C"],
    centre: Float[Tensor, " O"],
) -> list[Float[Tensor, "B Y"]]:
    """How each loss grows with what came; a share of what changed; of what was; the first two."""
    came = [each.clone().requires_grad_() for each in (transitions.rew, transitions.obs_next)]
    moved = dataclasses.replace(transitions, rew=came[0], obs_next=came[1])
    total = model.loss(moved, context) * len(transitions)
    rew, obs_next = torch.autograd.grad(total, came, allow_unused=True)
    constant = rew.unsqueeze(-1)
    if obs_next is None:
        return [constant, constant]
    constant = torch.cat((constant, obs_next), -1)
    moved_by = obs_next * (transitions.obs_next - transitions.obs)
    was_at = obs_next * (transitions.obs - centre)
    return [constant, moved_by, was_at, torch.cat((constant, moved_by), -1)]


def _means(
    scores: Float[Tensor, "B Y"],
    middle: Float[Tensor, " Y"],
    tail: Float[Tensor, " Y"],
    length: int,
) -> Float[Tensor, "S V"]:
    """Of stretches, in units of the tail, in the dimensions that have one."""
    unit = ((scores - middle) / tail)[:, tail > 0].clamp(-1, 1).double()
    return unit.reshape(-1, length, unit.shape[-1]).mean(1)


def _distances(some: Float[Tensor, "N Y"], others: Float[Tensor, "S Y"]) -> Float[Tensor, " N"]:
    """Hotelling's, a dimension's share of it."""
    away = (some - others.mean(0)) / others.std(0).clamp_min(1e-9)
    same = torch.eye(away.shape[-1]).to(others)
    correlation = torch.lerp(torch.corrcoef(others.mT).reshape(same.shape), same, _SHRINKAGE)
    solved: Tensor = torch.linalg.solve(correlation, away.mT)
    return (away * solved.mT).mean(-1)
