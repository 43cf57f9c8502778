"""The paper's figures of a sweep: interquartile means over tasks and seeds, with intervals."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mier_adapt_envs
from mier_adapt._storage.files import replace_text
from mier_adapt.agents.run import OURS
from mier_adapt.figures import plot_panels
from mier_adapt.statistics import bootstrap_interval, interquartile_mean
from mier_adapt.sweeps.jobs import Adapting, Job, Training
from mier_adapt.sweeps.methods import DIFFICULTY

FOLDER = "figures"
"""Where they go, in the sweep's directory."""
_COLUMNS = ("panel", "label", "xlabel", "x", "iqm", "low", "high", "tasks", "seeds")
_CONTEXT = f"{OURS}, context alone"

_Row = dict[str, Any]


def write_figures(jobs: Sequence[Job], out: Path) -> list[str]:
    """Write every figure that a sweep has something for, as PNG and CSV; what there is to say.

    Args:
        jobs: The sweep's; what is not done yet is left out.
        out: Its directory.
    """
    (out / FOLDER).mkdir(exist_ok=True)
    told = []
    if unfinished := [job for job in jobs if not job.done(out)]:
        told.append(f"Not done yet: {len(unfinished)} of {len(jobs)} jobs, which are left out.")
    for name, (rows_of, about, missing) in FIGURES.items():
        rows = rows_of(jobs, out)
        if not rows:
            told.append(f"No {name}, {about}: {missing}.")
            continue
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path = out / FOLDER / name
        replace_text(path.with_suffix(".csv"), text.getvalue())
        plot_panels(rows, path.with_suffix(".png"), bars=rows_of is ood_returns)
        told.append(f"{path.with_suffix('.png')}: {about}")
    return told


def learning_curves(jobs: Iterable[Job], out: Path) -> list[_Row]:
    """Returns in evaluations over environment steps; of runs under way, up to there."""
    rows: list[_Row] = []
    for (preset, method), runs in _trainings(jobs).items():
        evaluated = [
            {row["env_steps"]: row["returns_adapted"] for row in found if "returns_adapted" in row}
            for found in (run.metrics(out) for run in runs)
        ]
        evaluated = [each for each in evaluated if each]
        for step in sorted(set.intersection(*map(set, evaluated)) if evaluated else ()):
            table = np.array([each[step] for each in evaluated]).T
            rows.append(_row(preset, method, "environment steps", step, table))
    return rows


def ood_returns(jobs: Iterable[Job], out: Path) -> list[_Row]:
    """Returns of the meta-test tasks after adaptation, of each method and each arm."""
    jobs = list(jobs)
    rows = []
    for (preset, method), runs in _trainings(jobs, out).items():
        if found := _splits(runs, "test", out):
            label = _CONTEXT if method == OURS else method
            rows.append(_row(preset, label, "", label, _table(found)))
    for (preset, arm), adaptations in _adaptings(jobs, out).items():
        reports = [each.reports(out) for each in adaptations]
        table = _stages(reports)
        rows += [_row(preset, f"{OURS}, {arm}", "", f"{OURS}, {arm}", table)]
    return sorted(rows, key=lambda row: str(row["panel"]))


def by_difficulty(jobs: Iterable[Job], out: Path) -> list[_Row]:
    """Returns of tasks ever further outside training, and of a family's task sets side by side."""
    rows = []
    sets: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    for (preset, method), runs in _trainings(jobs, out).items():
        settings = runs[0].settings
        if found := _splits(runs, "test", out):
            sets[settings["family"], method][settings["task_set"]] = _table(found)
        found = _splits(runs, DIFFICULTY, out)
        for same in zip(*found, strict=True):
            x = same[0]["parameters"][0]
            xlabel = same[0]["task"].split(" ")[0]
            rows.append(_row(preset, method, xlabel, x, _table([[each] for each in same])))
    for (family, method), by_set in sets.items():
        known = set().union(*(names for (each, _), names in sets.items() if each == family))
        if len(known) > 1:
            rows += [
                _row(family, method, "task set", name, by_set[name])
                for name in mier_adapt_envs.task_sets(family)
                if name in by_set
            ]
    return rows


def over_adaptation(jobs: Iterable[Job], out: Path) -> list[_Row]:
    """Returns of the meta-test tasks over updates on the new task, and over real transitions."""
    rows = []
    for (preset, arm), adaptations in _adaptings(jobs, out).items():
        reports = [each.reports(out) for each in adaptations]
        every = [report for seed in reports for report in seed]
        refreshed = adaptations[0].settings["refresh_updates"]
        relabeled = refreshed + float(np.mean([report["updates"] for report in every]))
        for stage, x in (
            ("adapted context", 0),
            ("actor only", refreshed),
            ("relabeled", relabeled),
        ):
            if all(stage in report["returns"] for report in every):
                table = _stages(reports, stage)
                rows.append(_row(preset, arm, "updates at test time", x, table))
        panel, xlabel = f"{preset}, with a budget", "real transitions"
        spent = float(np.mean([report["real_transitions"] for report in every]))
        played = min(len(report["continued"]) for report in every)
        if not played:
            continue
        for stage, x in (("initial context", 0.0), ("adapted context", spent)):
            table = _stages(reports, stage)
            rows.append(_row(panel, arm, xlabel, x, table))
        for number in range(played):
            episodes = [[report["continued"][number] for report in seed] for seed in reports]
            x = float(np.mean([e["transitions"] + e["steps"] for seed in episodes for e in seed]))
            table = np.array([[each["return"] for each in seed] for seed in episodes]).T
            rows.append(_row(panel, arm, xlabel, x, table))
    return sorted(rows, key=lambda row: str(row["panel"]))


FIGURES: dict[str, tuple[Callable[[Sequence[Job], Path], list[_Row]], str, str]] = {
    "figure_2": (
        learning_curves,
        "returns over environment steps",
        "no run was evaluated yet",
    ),
    "figure_4": (ood_returns, "returns of meta-test tasks", "no run is done yet"),
    "figure_5": (
        by_difficulty,
        "returns by difficulty",
        "no run that is done has tasks of growing difficulty (halfcheetah-vel-hard and ant-dir-ood "
        "have them), and no family is there with several task sets",
    ),
    "figure_6": (
        over_adaptation,
        "returns over updates on the new task, and over real transitions",
        "no adaptation is done yet, which takes a table [adapt], and with a budget in it goes on "
        "over real transitions",
    ),
}
"""What gives each of the paper's figures its rows, what it shows, and what lacks where there are
none. Source: Mendonca et al. (2020), arXiv:2006.07178."""


def _trainings(
    jobs: Iterable[Job], out: Path | None = None
) -> dict[tuple[str, str], list[Training]]:
    """Runs that differ in their seed alone, by preset and method; with ``out``, those done."""
    found: dict[tuple[str, str], list[Training]] = defaultdict(list)
    for job in jobs:
        if isinstance(job, Training) and (out is None or job.done(out)):
            found[job.preset, job.method].append(job)
    return found


def _adaptings(jobs: Iterable[Job], out: Path) -> dict[tuple[str, str], list[Adapting]]:
    """Those done that differ in their seeds alone, by preset and arm."""
    found: dict[tuple[str, str], list[Adapting]] = defaultdict(list)
    for job in jobs:
        if isinstance(job, Adapting) and job.done(out):
            found[job.preset, job.arm].append(job)
    return found


def _splits(runs: Iterable[Training], split: str, out: Path) -> list[list[_Row]]:
    """The rows of a split, task by task, of each run that has it."""
    found = [run.evaluation(out)["splits"].get(split, []) for run in runs]
    return [rows for rows in found if rows]


def _table(found: Sequence[Sequence[_Row]]) -> NDArray[np.float64]:
    """Returns after adaptation, ``(T, S)``, over the seeds of training and of adaptation."""
    return np.array(
        [
            np.concatenate([row["return_adapted"] for row in same])
            for same in zip(*found, strict=True)
        ]
    )


def _stages(reports: Sequence[Sequence[_Row]], stage: str | None = None) -> NDArray[np.float64]:
    """Mean returns after a stage, ``(T, S)``, or by what was handed back."""
    return np.array(
        [
            [np.mean(report["returns"][stage or report["decision"]]) for report in seed]
            for seed in reports
        ]
    ).T


def _row(
    panel: str, label: str, xlabel: str, x: float | str, returns_TS: NDArray[np.floating]
) -> _Row:
    low, high = bootstrap_interval(returns_TS, interquartile_mean) or (None, None)
    tasks, seeds = returns_TS.shape
    iqm = float(interquartile_mean(returns_TS))
    values = (panel, label, xlabel, x, iqm, low, high, tasks, seeds)
    return dict(zip(_COLUMNS, values, strict=True))
