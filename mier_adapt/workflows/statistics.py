"""What returns over tasks and seeds amount to: means, interquartile means, intervals."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mier_adapt._checks import require_array, require_int, require_number, shown

__all__ = ["bootstrap_interval", "interquartile_mean", "summarize"]

_MOST_TASKS, _MOST_DRAWS = 10_000, 3 * 10**7
"""Tasks, and returns times resamples, beyond which an interval would take minutes or gigabytes."""


def interquartile_mean(returns: NDArray[np.floating], axis: int | None = None) -> Any:
    """Mean of the middle half: a quarter is left out at either end, rounded down.

    Raises:
        ValueError: If there are no returns, one is not finite, or there is no such axis.

    Source:
        Agarwal et al. (2021), arXiv:2108.13264: robust as a median, as precise as a mean.
    """
    returns = _finite("interquartile_mean", "returns", returns)
    if axis is not None:
        name = f"axis of returns of shape {returns.shape}"
        require_int("interquartile_mean", name, axis, least=-returns.ndim, most=returns.ndim - 1)
    return stats.trim_mean(returns, 0.25, axis=axis)


def bootstrap_interval(
    returns_TS: NDArray[np.floating],
    statistic: Callable[..., Any] = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> tuple[float, float] | None:
    """Percentile interval of a statistic over tasks and seeds, by the stratified bootstrap.

    Seeds are drawn anew within each task; the tasks stay. So it says how much other seeds would
    have changed the figure, not other tasks.

    Args:
        returns_TS: A number for each of T tasks and S seeds.
        statistic: Of an array along its ``axis``: a mean, :func:`interquartile_mean`.
        confidence: Share of the resamples within the interval.
        resamples: How many are drawn; always the same ones.

    Returns:
        Lower and upper end; ``None`` for a single seed, which says nothing about others.

    Raises:
        ValueError: If the array is empty, not of two axes, not finite or too large, or an option
            is out of range.
        TypeError: If the statistic cannot be called.

    Source:
        Agarwal et al. (2021), arXiv:2108.13264.
    """
    returns_TS = _table("bootstrap_interval", returns_TS)
    if not callable(statistic):
        raise TypeError(f"bootstrap_interval expected statistic to be callable, got {statistic!r}.")
    require_number("bootstrap_interval", "confidence", confidence, above=0, most=1)
    require_int("bootstrap_interval", "resamples", resamples, least=2)
    if len(returns_TS) > _MOST_TASKS or returns_TS.size * resamples > _MOST_DRAWS:
        raise ValueError(
            f"bootstrap_interval expected returns_TS of at most {_MOST_TASKS} tasks, and at most "
            f"{_MOST_DRAWS:.0e} numbers times resamples, got shape {returns_TS.shape} and "
            f"{resamples}."
        )
    if returns_TS.shape[1] < 2:
        return None
    outcome = stats.bootstrap(
        tuple(returns_TS),
        lambda *samples, axis: statistic(np.concatenate(samples, axis), axis=axis),
        method="percentile",
        vectorized=True,
        confidence_level=confidence,
        n_resamples=resamples,
        rng=np.random.default_rng(0),
    )
    low, high = outcome.confidence_interval
    return float(low), float(high)


def summarize(returns_TS: NDArray[np.floating]) -> dict[str, Any]:
    """Mean and interquartile mean over tasks and seeds, each with its 95% interval.

    Raises:
        ValueError: As :func:`bootstrap_interval`.
    """
    returns_TS = _table("summarize", returns_TS)
    return {
        "mean": float(returns_TS.mean()),
        "mean_interval": bootstrap_interval(returns_TS),
        "iqm": float(interquartile_mean(returns_TS)),
        "iqm_interval": bootstrap_interval(returns_TS, interquartile_mean),
    }


def _finite(owner: str, name: str, returns: Any) -> NDArray[np.float64]:
    array = require_array(owner, name, returns, np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{owner} expected {name} to be finite numbers, got {shown(returns)}.")
    return array


def _table(owner: str, returns_TS: Any) -> NDArray[np.float64]:
    table = _finite(owner, "returns_TS", returns_TS)
    if table.ndim != 2:
        raise ValueError(
            f"{owner} expected returns_TS of shape (tasks, seeds), got shape {table.shape}."
        )
    return table
