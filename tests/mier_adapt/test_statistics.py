import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mier_adapt.statistics import bootstrap_interval, interquartile_mean, summarize

RETURNS = arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.integers(2, 4)),
    elements=st.floats(-1e3, 1e3, allow_subnormal=False),
)


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean(np.array([1000.0, 1.0, 2.0, 4.0, -9.0, 3.0, 6.0, 0.0])) == 2.5
    assert interquartile_mean(np.array([[7.0, 1.0], [2.0, 99.0]])) == 4.5


@given(RETURNS)
def test_statistics_do_not_ask_for_an_order_and_lie_within_their_intervals_reach(returns):
    mean = interquartile_mean(returns)
    shuffled = np.random.default_rng(0).permutation(returns.reshape(-1))
    assert mean == pytest.approx(interquartile_mean(shuffled), abs=1e-9)
    assert returns.min() - 1e-9 <= mean <= returns.max() + 1e-9
    for statistic in (np.mean, interquartile_mean):
        low, high = bootstrap_interval(returns, statistic, resamples=200)
        assert returns.min() - 1e-9 <= low <= high <= returns.max() + 1e-9


@given(RETURNS, st.floats(-100, 100), st.floats(0.1, 10))
def test_an_interval_moves_with_the_returns(returns, shift, scale):
    interval = np.array(bootstrap_interval(returns, resamples=100))
    moved = bootstrap_interval(scale * returns + shift, resamples=100)
    np.testing.assert_allclose(moved, scale * interval + shift, rtol=1e-6, atol=1e-6)


def test_tasks_are_strata():
    """Seeds that agree leave no doubt, however far apart the tasks are."""
    returns = np.repeat([[0.0], [500.0], [1000.0]], 3, axis=1)
    assert bootstrap_interval(returns) == (500.0, 500.0)
    assert summarize(returns)["iqm_interval"] == (500.0, 500.0)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    tasks = np.array([[0.0], [100.0], [200.0]])
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(
            tasks + generator.normal(size=(3, 20)), confidence=0.8, resamples=300
        )
        hits += low <= 100 <= high
    assert 0.7 <= hits / 200 <= 0.88


def test_one_seed_gives_no_interval():
    summary = summarize(np.array([[1.0], [2.0]]))
    assert summary["mean"] == summary["iqm"] == 1.5
    assert summary["mean_interval"] is summary["iqm_interval"] is None


@pytest.mark.parametrize("returns", [np.ones(3), np.ones((0, 2)), np.array([[1.0, np.nan]])])
def test_what_is_no_table_of_returns_is_refused(returns):
    with pytest.raises(ValueError, match=r"bootstrap_interval expected .*returns"):
        bootstrap_interval(returns)
