import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt.baselines.density_ratio import effective_sample_size, log_ratio


def test_weights_are_the_ratio_of_two_gaussians():
    """log N(z; mu, 1) / N(z; 0, 1) = mu z - mu^2 / 2, from more samples of one than the other."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([1.0, -0.5])
    new = mean + torch.randn(40_000, 2, generator=generator)
    known = torch.randn(20_000, 2, generator=generator)
    slope, offset = log_ratio(new, known, likelihood_weight=1.0)
    torch.testing.assert_close(slope, mean, atol=0.03, rtol=0)
    assert float(offset) == pytest.approx(-1.25 / 2, abs=0.03)
    ratio = (known @ slope + offset).exp()
    torch.testing.assert_close(ratio, (known @ mean - 0.625).exp(), atol=0.02, rtol=0.15)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)
    # ESS of such weights is (E beta)^2 / E beta^2 = exp(-mu^2).
    assert effective_sample_size(ratio) == pytest.approx(math.exp(-1.25), rel=0.15)


def test_the_regression_is_the_lowest_point_of_its_objective():
    new, known = torch.randn(30, 3) + 0.5, torch.randn(20, 3)
    for likelihood_weight in (0.05, 2.0):
        slope, offset = log_ratio(new, known, likelihood_weight=likelihood_weight)
        offset = offset - math.log(20 / 30)
        errors = torch.cat(
            (torch.sigmoid(new @ slope + offset) - 1, torch.sigmoid(known @ slope + offset))
        )
        assert float(errors.sum()) == pytest.approx(0, abs=1e-4)
        gradient = slope + likelihood_weight * errors @ torch.cat((new, known))
        torch.testing.assert_close(gradient, torch.zeros(3), atol=1e-4, rtol=0)


def test_effective_sample_sizes_by_hand():
    for weights, expected in (
        ([3.0, 3.0, 3.0], 1.0),
        ([5.0, 0.0, 0.0, 0.0], 0.25),
        ([1.0, 2.0], 0.9),
        ([0.0, 0.0], 0.0),
    ):
        assert effective_sample_size(torch.tensor(weights)) == pytest.approx(expected)


@given(st.lists(st.floats(0.1, 3), min_size=1, max_size=9), st.floats(0.1, 10))
def test_effective_sample_sizes_have_bounds_and_no_unit(weights, factor):
    weight = torch.tensor(weights, dtype=torch.float64)
    found = effective_sample_size(weight)
    assert 1 / len(weight) - 1e-9 <= found <= 1 + 1e-9
    assert effective_sample_size(factor * weight) == pytest.approx(found)
