"""What returns over tasks and seeds amount to: means, interquartile means, intervals."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from mier_adapt._checks import PositiveShare, Range, checked, require_array, shown

__all__ = ["bootstrap_interval"]

_MOST_TASKS, _MOST_DRAWS = 10_000, 3 * 10**7
"""Tasks, and returns times resamples, beyond which an interval would take minutes or gigabytes."""


def interquartile_mean(returns: NDArray[np.floating], axis: int | None = None) -> Any:
    """Mean of the middle half: a quarter is left out at either end, rounded down.

    Source:
        Agarwal et al. (2021), arXiv:2108.13264: robust as a median, as precise as a mean.
    """
    from scipy import stats  # takes as long to load as all else here

    return stats.trim_mean(returns, 0.25, axis=axis)


@checked
def bootstrap_interval(
    returns_TS: NDArray[np.floating],
    statistic: Callable[..., Any] = np.mean,
    *,
    confidence: PositiveShare = 0.95,
    resamples: Annotated[int, Range(least=2, whole=True)] = 2_000,
) -> tuple[float, float] | None:
    """Percentile interval of a statistic over tasks and seeds, by the stratified bootstrap.

    Seeds are drawn anew within each task; the tasks stay. So it says how much other seeds would
    have changed the figure, not other tasks.

    Args:
        returns_TS: A number for each of T tasks and S seeds.
        statistic: Of an array along its ``axis``: a mean, a median.
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
    if len(returns_TS) > _MOST_TASKS or returns_TS.size * resamples > _MOST_DRAWS:
        raise ValueError(
            f"bootstrap_interval expected fewer returns_TS or resamples, got {returns_TS.shape}."
        )
    if returns_TS.shape[1] < 2:
        return None
    from scipy import stats

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


def _table(owner: str, returns_TS: Any) -> NDArray[np.float64]:
    table = require_array(owner, "returns_TS", returns_TS, np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(
            f"{owner} expected returns_TS to be finite numbers of shape (tasks, seeds), got "
            f"{shown(returns_TS)}."
        )
    return table
