"""Figures of runs and adaptations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mier_adapt._checks import require_array, require_type, require_types

__all__ = ["plot_adaptation", "plot_learning_curve"]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


def plot_learning_curve(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw returns before and after adaptation, and model losses, over a run's updates."""
    require_types("plot_learning_curve", rows=(rows, Sequence), path=(path, Path))
    for row in rows:
        require_type("plot_learning_curve", "rows", row, Mapping)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    returns, losses = figure.subplots(1, 2)
    evaluated = [row for row in rows if "return_adapted" in row]
    updates = [row["updates"] for row in evaluated]
    for key, label, colour in (
        ("initial", "initial context", _GREY),
        ("adapted", "adapted context", _BLUE),
    ):
        returns.plot(
            updates,
            [row[f"return_{key}"] for row in evaluated],
            color=colour,
            marker=".",
            label=label,
        )
        losses.plot(
            updates,
            [row[f"loss_{key}"] for row in evaluated],
            color=colour,
            marker=".",
            label=label,
        )
    returns.set(
        xlabel="SAC updates", ylabel="return of an episode", title="Meta-training tasks, mean"
    )
    losses.set(xlabel="SAC updates", ylabel="model loss", title="Model on fresh transitions, mean")
    for axes in (returns, losses):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    _save(figure, path)


def plot_adaptation(stages: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """Draw the returns of evaluation episodes after each stage of an adaptation."""
    require_types(
        "plot_adaptation", stages=(stages, Mapping), title=(title, str), path=(path, Path)
    )
    for stage, values in stages.items():
        if require_array("plot_adaptation", f"stages[{stage!r}]", values, float).ndim != 1:
            raise ValueError(
                f"plot_adaptation expected stages of several returns each, got {values!r} for "
                f"{stage!r}."
            )
    figure = Figure(figsize=(1.6 + 1.5 * len(stages), 3.6), layout="constrained")
    axes = figure.subplots()
    colours = (_GREY, _BLUE, _ORANGE, _GREEN)
    for position, (returns, colour) in enumerate(zip(stages.values(), colours, strict=False)):
        axes.bar(position, np.mean(returns), width=0.6, color=colour, alpha=0.85)
        axes.plot([position] * len(returns), returns, "k_", markersize=9, alpha=0.5)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks(range(len(stages)), list(stages))
    axes.set(ylabel="return of an episode", title=title)
    axes.grid(axis="y", alpha=0.3)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format="png")
    partial.replace(path)
