"""What returns over tasks and seeds amount to: means, interquartile means, intervals."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["bootstrap_interval", "interquartile_mean", "summarize"]


def interquartile_mean(returns: NDArray[np.floating], axis: int | None = None) -> Any:
    """Mean of the middle half: a quarter is left out at either end, rounded down.

    Source:
        Agarwal et al. (2021), arXiv:2108.13264: robust as a median, as precise as a mean.
    """
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
        ValueError: If the array is empty, not of two axes or not finite.

    Source:
        Agarwal et al. (2021), arXiv:2108.13264.
    """
    if returns_TS.ndim != 2 or not returns_TS.size or not np.isfinite(returns_TS).all():
        raise ValueError(
            "bootstrap_interval expected finite returns of shape (tasks, seeds), got shape "
            f"{returns_TS.shape}."
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
    """Mean and interquartile mean over tasks and seeds, each with its 95% interval."""
    return {
        "mean": float(returns_TS.mean()),
        "mean_interval": bootstrap_interval(returns_TS),
        "iqm": float(interquartile_mean(returns_TS)),
        "iqm_interval": bootstrap_interval(returns_TS, interquartile_mean),
    }
