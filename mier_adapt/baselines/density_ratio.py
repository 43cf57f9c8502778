"""How much more probable a sample is in one of two sets than in the other."""

import math

import torch
import torch.nn.functional as F

from mier_adapt._typing import Float, Tensor

_MOST_ITERATIONS = 2000
"""Of the regression (released code of MQL)."""


def log_ratio(
    new: Float[Tensor, "M C"], known: Float[Tensor, "N C"], *, likelihood_weight: float
) -> tuple[Float[Tensor, " C"], Float[Tensor, ""]]:
    r"""Slope and offset of log p(z) / q(z), for samples of p, ``new``, and of q, ``known``.

    A logistic regression tells them apart. It minimises

    $$\tfrac12 \|w\|^2 + \lambda \Big( \sum_{z \sim p} \log(1 + e^{-f(z)}) +
    \sum_{z \sim q} \log(1 + e^{f(z)}) \Big), \quad f(z) = w^\top z + b,$$

    whose odds are those of the densities times M / N.

    Source:
        Fakoor et al. (2020), arXiv:1910.00125, section 2.3; the quadratic term is the released
        code's, and the factor N / M ours: it takes
        about as many of both.
    """
    new, known = new.double(), known.double()
    parameters = new.new_zeros(new.shape[-1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=_MOST_ITERATIONS,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimizer.zero_grad()
        slope, offset = parameters[:-1], parameters[-1]
        likelihood = F.softplus(-new @ slope - offset).sum()
        likelihood = likelihood + F.softplus(known @ slope + offset).sum()
        value = (0.5 * slope.square().sum() + likelihood_weight * likelihood) / len(new)
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = parameters.detach().float()
    return found[:-1], found[-1] + math.log(len(known) / len(new))


def effective_sample_size(weight: Float[Tensor, " N"]) -> float:
    r"""Share of N equal samples that weighted ones are worth; 0 where no weight is left.

    $$\widehat{ESS} = \frac{(\sum_k \beta_k)^2}{N \sum_k \beta_k^2}$$

    Source:
        Fakoor et al. (2020), arXiv:1910.00125, section 2.3.
    """
    squares = float(weight.square().sum())
    return float(weight.sum()) ** 2 / (len(weight) * squares) if squares else 0.0
