"""The paper's figures of results: interquartile means over tasks and seeds, with intervals."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import mier_adapt_envs
from mier_adapt._storage.files import replace_text
from mier_adapt.agents.run_file import OURS
from mier_adapt.figures import plot_panels
from mier_adapt.statistics import bootstrap_interval, interquartile_mean
from mier_adapt.sweeps.jobs import ORACLE, SWEEP_FILE, read_jobs
from mier_adapt.sweeps.methods import DIFFICULTY
from mier_adapt.sweeps.results import (
    CURVES_FILE,
    EVALUATED,
    RETURNS_FILE,
    CurvePoint,
    Outcome,
    Results,
    read_results,
    results_of,
    write_results,
)

FOLDER = "figures"
"""Where they go, in the sweep's directory."""
_COLUMNS = ("panel", "label", "xlabel", "x", "iqm", "low", "high", "tasks", "seeds")
_SEEDS = ("seed", "adaptation_seed")
_SPLITS = {"meta_test": "tasks not trained on"}
"""What curves are of, where they are not of training's tasks."""

_Row = dict[str, Any]
_Point = TypeVar("_Point", CurvePoint, Outcome)


def write_figures(out: Path) -> list[str]:
    """Write every figure that a directory has something for, as PNG and CSV; what there is to say.

    A sweep's also gets the tables that they are drawn from, with which they can be drawn elsewhere.
    Figures of an earlier call that there is nothing for any more are removed.

    Args:
        out: A sweep's directory, whose figures leave out what is not done yet; or one with tables.

    Raises:
        FileNotFoundError: If it holds neither.
        CheckpointError: If a file is damaged.
    """
    told = []
    if (out / SWEEP_FILE).is_file():
        jobs = read_jobs(out)
        results = results_of(jobs, out)
        write_results(results, out)
        if unfinished := [job for job in jobs if not job.done(out)]:
            told.append(f"Not done yet: {len(unfinished)} of {len(jobs)} jobs, which are left out.")
    elif (out / CURVES_FILE).is_file():
        results = read_results(out)
    else:
        raise FileNotFoundError(
            f"{out} holds neither {SWEEP_FILE}, which `mier-adapt sweep GRID.toml --out DIR` "
            f"makes, nor {CURVES_FILE} and {RETURNS_FILE} of a sweep."
        )
    (out / FOLDER).mkdir(exist_ok=True)
    rows_by_figure = {name: rows_of(results) for name, (rows_of, *_) in FIGURES.items()}
    labels = [row["label"] for rows in rows_by_figure.values() for row in rows]
    for name, (rows_of, about, missing) in FIGURES.items():
        rows, path = rows_by_figure[name], out / FOLDER / name
        if not rows:
            told.append(f"No {name}, {about}: {missing}.")
            for suffix in (".csv", ".png"):  # what an earlier call drew of what is gone
                path.with_suffix(suffix).unlink(missing_ok=True)
            continue
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_text(path.with_suffix(".csv"), text.getvalue())
        picture = path.with_suffix(".png")
        plot_panels(rows, picture, bars=rows_of is ood_returns, labels=labels)
        told.append(f"{picture}: {about}")
    return told


def learning_curves(results: Results) -> list[_Row]:
    """Returns in evaluations over environment steps; of runs under way, up to there."""
    rows = []
    runs = _grouped(results.curves, "preset", "split", "method")
    for (preset, split, method), points in runs.items():
        seeds = _grouped(points, "seed").values()
        shared = set.intersection(*({each.env_steps for each in seed} for seed in seeds))
        panel = f"{preset}, {_SPLITS[split]}" if split in _SPLITS else preset
        for step, here in sorted(_grouped(points, "env_steps").items()):
            if step[0] in shared:
                row = (panel, _name(method), "environment steps", *step, _table(here, "seed"))
                rows.append(_row(*row))
    return rows


def ood_returns(results: Results) -> list[_Row]:
    """Returns of the meta-test tasks after adaptation, of each method and each arm.

    And what could be reached on those that there is an oracle of.
    """
    rows = []
    kept = [each for each in results.outcomes if each.kept and each.split == "test"]
    for (preset, method, arm), here in _grouped(kept, "preset", "method", "arm").items():
        label = f"{OURS}, {arm}" if arm else _name(method)
        rows.append(_row(preset, label, "", label, _table(here, *_SEEDS)))
    return sorted(rows, key=lambda row: str(row["panel"]))


def by_difficulty(results: Results) -> list[_Row]:
    """Returns of tasks ever further outside training, and of a family's task sets side by side."""
    rows = []
    evaluated = [
        each
        for each in results.outcomes
        if not each.arm and each.stage == EVALUATED and each.method != ORACLE
    ]
    harder = [each for each in evaluated if each.split == DIFFICULTY]
    for (preset, method, _), here in _grouped(harder, "preset", "method", "task").items():
        if (x := here[0].parameter) is not None:
            xlabel = here[0].label.split(" ")[0]
            rows.append(_row(preset, _name(method), xlabel, x, _table(here, *_SEEDS)))
    tested = [each for each in evaluated if each.split == "test"]
    for (family, method), same in _grouped(tested, "family", "method").items():
        by_set = _grouped(same, "task_set")
        if len({each.task_set for each in tested if each.family == family}) > 1:
            rows += [
                _row(family, _name(method), "task set", name, _table(by_set[name,], *_SEEDS))
                for name in mier_adapt_envs.task_sets(family)
                if (name,) in by_set
            ]
    return rows


def over_adaptation(results: Results) -> list[_Row]:
    """Returns of the meta-test tasks over updates on the new task, and over real transitions.

    What is handed back is a point of its own where that is not one stage of the line's in all
    tasks, as where a change was undone, or a known task's policy is better.
    """
    rows = []
    adapted = [each for each in results.outcomes if each.arm]
    for (preset, arm), here in _grouped(adapted, "preset", "arm").items():
        every = {name: each for (name,), each in _grouped(here, "stage").items()}
        most = max(map(len, every.values()))  # not all tasks have every stage, or as many episodes
        stages = {name: each for name, each in every.items() if len(each) == most}
        shown = {
            stage: stages[stage]
            for stage in ("adapted context", "actor only", "relabeled")
            if stage in stages
        }
        kept = [each for each in here if each.kept]
        if {each.stage for each in kept} not in [{stage} for stage in shown]:
            shown["handed back"] = kept
        for stage, points in shown.items():
            label = arm if stage in stages else f"{arm}, {stage}"
            counts = [each.updates for each in points if each.updates is not None]
            if len(counts) == len(points):  # what went on with a budget has not counted them
                x, table = float(np.mean(counts)), _table(points, *_SEEDS)
                rows.append(_row(preset, label, "updates at test time", x, table))
        episodes = [name for name in stages if name.startswith("episode ")]
        for stage in ("initial context", "adapted context", *episodes) if episodes else ():
            x = float(np.mean([each.transitions for each in stages[stage]]))
            panel, table = f"{preset}, with a budget", _table(stages[stage], *_SEEDS)
            rows.append(_row(panel, arm, "real transitions", x, table))
    return sorted(rows, key=lambda row: str(row["panel"]))


FIGURES: dict[str, tuple[Callable[[Results], list[_Row]], str, str]] = {
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


def _name(method: str) -> str:
    """What figures call a method that no arm went on with."""
    names = {OURS: f"{OURS}, context alone", ORACLE: f"{ORACLE}, on some of the tasks"}
    return names.get(method, method)


def _grouped(points: Iterable[_Point], *names: str) -> dict[tuple[Any, ...], list[_Point]]:
    """Points that are alike in these fields, by them, in their order."""
    found: dict[tuple[Any, ...], list[_Point]] = defaultdict(list)
    for each in points:
        found[tuple(getattr(each, name) for name in names)].append(each)
    return found


def _table(points: Iterable[_Point], *seeds: str) -> NDArray[np.float64]:
    """Returns ``(T, S)`` of the tasks that all seeds have; these fields make a seed."""
    by_seed = [
        {each.task: each.episode_return for each in same}
        for same in _grouped(points, *seeds).values()
    ]
    tasks = [task for task in by_seed[0] if all(task in each for each in by_seed)]
    return np.array([[each[task] for each in by_seed] for task in tasks])


def _row(
    panel: str, label: str, xlabel: str, x: float | str, returns_TS: NDArray[np.floating]
) -> _Row:
    low, high = bootstrap_interval(returns_TS, interquartile_mean) or (None, None)
    tasks, seeds = returns_TS.shape
    iqm = float(interquartile_mean(returns_TS))
    values = (panel, label, xlabel, x, iqm, low, high, tasks, seeds)
    return dict(zip(_COLUMNS, values, strict=True))
