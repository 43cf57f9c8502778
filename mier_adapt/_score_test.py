"""Score test: does a model err on new transitions as it errs on as many of the known task?

Other masses, friction or gravity move a single step by less than the model's own error, which a
comparison of losses has to forgive. But they move every step the same way, or by the same share.
The gradient of the loss by what came, averaged over a stretch of transitions, shows that; and how
far it strays where nothing changed, stretches of the known task show.
"""

import dataclasses
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
_TAIL, _CLIPPED = 0.99, 2.0
"""Gradients are clipped at so many times this quantile: falls have gradients of hundreds."""
_SHRINKAGE = 0.3
"""Of correlations towards none: there are about as many stretches as dimensions."""


@dataclass(frozen=True, eq=False)
class ScoreTest:
    """What came of it; see :func:`score_test`."""

    context: Float[Tensor, " C"]
    """The known task's."""
    new: Transitions
    """The latest of the new ones."""
    middle: Float[Tensor, " Y"]
    """Median gradient of the known task's."""
    tail: Float[Tensor, " Y"]
    """The unit of each dimension: how far its gradients stray."""
    stretches: Float[Tensor, "S V"]
    """Mean gradients of the known task's stretches, in these units, where any strays."""
    usual: Float[Tensor, " S"]
    """How far each of these is from all others."""
    distance: Float[Tensor, ""]
    """How far the new ones are from these, as the known task's model predicts them."""

    @property
    def p_value(self) -> float:
        """Probability that a stretch of the known task is as far away as the new one."""
        average, variance = self.usual.mean(), self.usual.var()
        shape = average.square() / variance
        return float(torch.special.gammaincc(shape, self.distance * average / variance))

    def left(self, model: TaskModel) -> float:
        """Share of what is unusual in the distance that is left where this model predicts."""
        scores = _scores(model, self.new, self.context)
        (mean,) = _means(scores, self.middle, self.tail, len(self.new))
        usual = self.usual.mean()
        return float((_distance(mean, self.stretches) - usual) / (self.distance - usual))


def score_test(
    model: TaskModel, context: Float[Tensor, " C"], known: Transitions, new: Transitions
) -> ScoreTest | None:
    """Ask whether a stretch of the known task errs on the mean as far as the new one.

    Rao's score test of a residual that is constant and in proportion to an observation's change,
    its distribution taken from the known task: Hotelling's statistic of each stretch against all
    others, to which a gamma distribution is fitted.

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
    scores = _scores(model, known[-count * length :], context)
    middle = scores.median(0).values
    tail = (scores - middle).abs().kthvalue(round(_TAIL * len(scores)), 0).values
    if not (tail > 0).any():
        return None
    stretches = _means(scores, middle, tail, length)
    usual = torch.stack(
        [
            _distance(one, torch.cat((stretches[:number], stretches[number + 1 :])))
            for number, one in enumerate(stretches)
        ]
    )
    if not usual.var() > 0:  # NaN, where stretches are all the same
        return None
    (mean,) = _means(_scores(model, new, context), middle, tail, length)
    return ScoreTest(context, new, middle, tail, stretches, usual, _distance(mean, stretches))


def _scores(
    model: TaskModel, transitions: Transitions, context: Float[Tensor, " C"]
) -> Float[Tensor, "B Y"]:
    """How each loss grows with reward and next observation, and with the observation's change."""
    came = [each.clone().requires_grad_() for each in (transitions.rew, transitions.obs_next)]
    moved = dataclasses.replace(transitions, rew=came[0], obs_next=came[1])
    total = model.loss(moved, context) * len(transitions)
    rew, obs_next = torch.autograd.grad(total, came, allow_unused=True)
    found = [rew.unsqueeze(-1)]
    if obs_next is not None:
        found += [obs_next, obs_next * (transitions.obs_next - transitions.obs)]
    return torch.cat(found, -1)


def _means(
    scores: Float[Tensor, "B Y"],
    middle: Float[Tensor, " Y"],
    tail: Float[Tensor, " Y"],
    length: int,
) -> Float[Tensor, "S V"]:
    """Of stretches, in units of the tail, in the dimensions that have one."""
    unit = ((scores - middle) / tail)[:, tail > 0].clamp(-_CLIPPED, _CLIPPED).double()
    return unit.reshape(-1, length, unit.shape[-1]).mean(1)


def _distance(one: Float[Tensor, " Y"], others: Float[Tensor, "S Y"]) -> Float[Tensor, ""]:
    """Hotelling's, a dimension's share of it."""
    away = (one - others.mean(0)) / others.std(0).clamp_min(1e-9)
    same = torch.eye(len(away)).to(others)
    correlation = torch.lerp(torch.corrcoef(others.mT).reshape(same.shape), same, _SHRINKAGE)
    solved: Tensor = torch.linalg.solve(correlation, away)
    return away.dot(solved) / len(away)
