"""Score test: does a model err on new transitions as it errs on as many of the known task?

Other masses, friction or gravity move a single step by less than the model's own error, which a
comparison of losses has to forgive. But they move every step the same way, or by the same share.
The gradient of the loss by what came, averaged over a stretch of transitions, shows that; and how
far it strays where nothing changed, stretches of the known task show.
"""

import dataclasses

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


def score_test(
    model: TaskModel,
    context: Float[Tensor, " C"],
    known: Transitions,
    new: Transitions,
    *,
    of_new: TaskModel | None = None,
) -> float | None:
    """Probability that a stretch of the known task errs on the mean as far as the new one.

    Rao's score test of a residual that is constant and in proportion to an observation's change,
    its distribution taken from the known task: Hotelling's statistic of each stretch against all
    others, to which a gamma distribution is fitted.

    Args:
        model: Of the known task; its loss can be differentiated by transitions.
        context: The known task's.
        known: Its transitions, ``(B, ...)``, in order, by the policy that gathered the new ones.
        new: The new ones, ``(N, ...)``, in order, of which the latest are taken, a twentieth as
            many as the known ones.
        of_new: Model of the new ones, which supposes a change; by default the known task's.

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
    varies = tail > 0
    if not varies.any():
        return None

    def mean(each: Tensor) -> Tensor:
        unit = ((each - middle) / tail)[:, varies].clamp(-_CLIPPED, _CLIPPED).double()
        return unit.reshape(-1, length, unit.shape[-1]).mean(1)

    stretches, own = mean(scores), mean(_scores(of_new or model, new, context))
    usual = torch.stack(
        [
            _distance(one, torch.cat((stretches[:number], stretches[number + 1 :])))
            for number, one in enumerate(stretches)
        ]
    )
    average, variance = usual.mean(), usual.var()
    if not variance > 0:  # NaN, where stretches are all the same
        return None
    shape = average.square() / variance
    return float(torch.special.gammaincc(shape, _distance(own[0], stretches) * average / variance))


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


def _distance(one: Float[Tensor, " Y"], others: Float[Tensor, "S Y"]) -> Float[Tensor, ""]:
    """Hotelling's, a dimension's share of it."""
    away = (one - others.mean(0)) / others.std(0).clamp_min(1e-9)
    same = torch.eye(len(away)).to(others)
    correlation = torch.lerp(torch.corrcoef(others.mT).reshape(same.shape), same, _SHRINKAGE)
    solved: Tensor = torch.linalg.solve(correlation, away)
    return away.dot(solved) / len(away)
