"""Adaptations side by side: what each stage achieved over tasks and seeds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mier_adapt._checks import checked
from mier_adapt.adaptation.report import AdaptationReport
from mier_adapt.agents.configs import AdaptConfig
from mier_adapt.statistics import bootstrap_interval, summarize


def with_all_stages(config: AdaptConfig) -> AdaptConfig:
    """The same, adapting through every stage.

    Stages that the configuration leaves out get their default length, those that learn run also
    where undoing a change suffices, and relabeling no longer waits for a validation loss, so that
    every adaptation has the same arms.
    """
    default = AdaptConfig()
    return dataclasses.replace(
        config,
        refresh_updates=config.refresh_updates or default.refresh_updates,
        relabel_rounds=config.relabel_rounds or default.relabel_rounds,
        learn_always=True,
        validation_threshold=None,
    )


@checked
def compare(reports: Sequence[AdaptationReport]) -> dict[str, Any]:
    """The arms of several adaptations, as plain values for JSON.

    An arm is a stage that ran in all of them, or ``kept``: whatever each handed back. All arms of
    an adaptation were evaluated from the same starts, so gains are paired.

    Args:
        reports: One for each task and seed, in any order.

    Returns:
        ``tasks``; ``seeds``; ``baseline``, the arm without a change of weights; and ``arms`` by
        name, each with mean and interquartile mean of its returns and their 95% intervals over
        seeds, ``gain`` and ``gain_interval`` over the baseline, ``better``, the number of tasks
        with a gain, and ``returns`` ``(T, S)``, means over episodes. Intervals are ``None`` for a
        single seed.

    Raises:
        ValueError: If there are none, not every task has a report for every seed, or they have no
            stage in common.
    """
    # Labels are rounded: those of two tasks may be the same.
    by_place = {((each.task, each.parameters), each.seed): each for each in reports}
    tasks = list(dict.fromkeys((each.task, each.parameters) for each in reports))
    seeds = sorted({report.seed for report in reports})
    if not reports or not len(by_place) == len(reports) == len(tasks) * len(seeds):
        raise ValueError(
            "compare expected one of reports for each task and seed, got "
            f"{[(report.task, report.seed) for report in reports]}."
        )
    stages = [
        stage for stage in reports[0].returns if all(stage in report.returns for report in reports)
    ]
    if not stages:
        raise ValueError("compare expected reports with a stage in common, got none.")

    def returns_TS(arm: str) -> np.ndarray:
        grid = [[by_place[task, seed] for seed in seeds] for task in tasks]
        return np.array(
            [
                [np.mean(each.returns[each.decision if arm == "kept" else arm]) for each in row]
                for row in grid
            ]
        )

    baseline = "adapted context" if "adapted context" in stages else stages[0]
    arms = {}
    for arm in (*stages, "kept"):
        gains = returns_TS(arm) - returns_TS(baseline)
        arms[arm] = {
            **summarize(returns_TS(arm)),
            "gain": float(gains.mean()),
            "gain_interval": bootstrap_interval(gains),
            "better": int((gains.mean(1) > 0).sum()),
            "returns": returns_TS(arm).tolist(),
        }
    labels = [label for label, _ in tasks]
    return {"tasks": labels, "seeds": seeds, "baseline": baseline, "arms": arms}
