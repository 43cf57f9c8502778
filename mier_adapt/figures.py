"""Figures of runs and adaptations, drawn from the plain values that their files hold."""

import itertools
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from mier_adapt._checks import checked, shown
from mier_adapt._storage.files import replacing
from mier_adapt.statistics import bootstrap_interval

__all__ = ["plot_adaptation", "plot_comparison", "plot_diagnosis", "plot_episodes"]

# Okabe and Ito's colours and two of Tol's, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
_COLOURS = (
    *(_BLUE, _ORANGE, _GREEN, "#CC79A7", "#56B4E9", "#E69F00"),
    *("#000000", "#882255", "#999933"),
)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*", "p")
_TURNS = (("-", ""), (":", "//"), ("-.", ".."))
"""How lines and bars look when colours have been through once, twice and three times."""
_PAD = 0.12
"""Inches between what is drawn and a figure's edges."""
_MOST_LABELS = 80
"""Tasks without a single number beyond which their labels could not be read."""


def plot_learning_curve(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw returns before and after adaptation over a run's updates, and losses of its model."""
    shown = {"return": ("return of an episode", f"{_tasks_of(rows)}, mean")}
    if any("loss_adapted" in row for row in rows):
        shown["loss"] = ("model loss", "Model on fresh transitions, mean")
    figure = Figure(figsize=(4.5 * len(shown), 3.6), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (what, (ylabel, title)) in zip(panels, shown.items(), strict=True):
        drawn = [row for row in rows if f"{what}_adapted" in row]
        for key, label, colour in (
            ("initial", "initial context", _GREY),
            ("adapted", "adapted context", _BLUE),
        ):
            axes.plot(
                [row["updates"] for row in drawn],
                [row[f"{what}_{key}"] for row in drawn],
                color=colour,
                marker=".",
                label=label,
            )
        axes.set(xlabel="updates", ylabel=ylabel, title=title)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    _save(figure, path)


def _tasks_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """Which tasks evaluations are of; rows of runs before 0.2 do not say that it is the first."""
    names = {"meta_train": "Meta-training tasks", "meta_test": "Meta-test tasks"}
    found = {row.get("split", "meta_train") for row in rows if "returns_adapted" in row}
    return " and ".join(names[split] for split in names if split in found)


def plot_learning_curves(
    curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    path: Path,
    *,
    over: Literal["steps", "time"] = "steps",
) -> None:
    """Draw returns after adaptation to the tasks of evaluations, as training goes on.

    A line is the mean over tasks and seeds. Its band reaches from the lowest to the highest task
    where there is one seed, and is the 95% interval of the mean where there are more. What was
    measured before the first environment step alone is a dashed line.

    Args:
        curves: For each label the rows of ``metrics.jsonl`` of runs that differ in their seed
            alone. Where they were not evaluated alike, what they have in common is drawn.
        path: File to write; its ending gives the format.
        over: The axis: environment steps, or the wall-clock time that training took up to there,
            without checkpoints, in minutes, of which seeds enter by their mean.

    Raises:
        ValueError: If there are no curves, too many, or one without an evaluation.

    Source:
        Figure 2 of Mendonca et al. (2020), arXiv:2006.07178.
    """
    _require_few("plot_learning_curves", "curves", curves)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for (label, seeds), colour, marker in zip(curves.items(), _COLOURS, _MARKERS, strict=False):
        evaluated = [
            {row["env_steps"]: row for row in rows if "returns_adapted" in row} for rows in seeds
        ]
        steps = sorted(set.intersection(*(set(each) for each in evaluated)))
        if not steps:
            raise ValueError(f"The runs of {label!r} have no evaluation in common yet.")
        tables = [
            np.array([each[step]["returns_adapted"] for each in evaluated]).T for step in steps
        ]
        if steps == [0]:  # as of random actions, which nothing trains
            mean = float(np.mean(tables))
            axes.axhline(mean, color=colour, linestyle="--", label=f"{label}, mean")
            continue
        positions: list[float] = steps
        if over == "time":
            positions = [
                float(np.mean([each[step]["seconds"] for each in evaluated])) / 60 for step in steps
            ]
        bands = [bootstrap_interval(table) or (table.min(), table.max()) for table in tables]
        low, high = np.array(bands).T
        band = "all tasks" if len(seeds) == 1 else f"95% interval, {len(seeds)} seeds"
        axes.fill_between(positions, low, high, color=colour, alpha=0.18, linewidth=0, label=band)
        axes.plot(
            positions,
            [table.mean() for table in tables],
            color=colour,
            marker=marker,
            markersize=4,
            label=f"{label}, mean",
        )
    axes.axhline(0, color="black", linewidth=0.6)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set(
        xlabel="environment steps" if over == "steps" else "minutes of training",
        ylabel="return of an episode",
        title=f"{_tasks_of(row for seeds in curves.values() for rows in seeds for row in rows)}, "
        "after adaptation",
    )
    axes.set_xlim(left=0)
    _finish(axes)
    _save(figure, path)


def plot_task_returns(
    evaluations: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, family: str
) -> None:
    """Draw the return of each task under the initial and the adapted context.

    Tasks stand at their parameter where that is one number, and in a row with their labels
    otherwise. Bars are 95% intervals over seeds, where there is more than one; dashed lines are
    means over the tasks of a split.

    Args:
        evaluations: For each label the contents of ``evaluation.json`` of runs that differ in
            their seed alone.
        path: File to write; its ending gives the format.
        family: For the title.

    Raises:
        ValueError: If there are no evaluations, too many, or of different tasks.

    Source:
        Figure 5 of Mendonca et al. (2020), arXiv:2006.07178.
    """
    _require_few("plot_task_returns", "evaluations", evaluations)
    try:
        pooled = {label: _pool(label, records) for label, records in evaluations.items()}
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            "plot_task_returns expected evaluations as `mier-adapt evaluate` writes them, got "
            f"{shown(evaluations)}."
        ) from error
    tasks, *others = ([row[:3] for row in rows] for rows in pooled.values())
    if any(other != tasks for other in others):
        raise ValueError("Evaluations of different tasks do not fit into one figure.")
    splits, labels, parameters = (list(column) for column in zip(*tasks, strict=True))
    numeric = all(len(values) == 1 for values in parameters)
    if not numeric and len(tasks) > _MOST_LABELS:
        raise ValueError(
            f"{len(tasks)} tasks of several parameters do not fit into one figure of at most "
            f"{_MOST_LABELS}. Evaluate one split: mier-adapt evaluate --split test."
        )
    positions = np.array([values[0] for values in parameters] if numeric else range(len(tasks)))
    width = 7.2 if numeric else max(6.4, 1.5 + 0.3 * len(tasks))
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    axes = figure.subplots()
    for (label, rows), colour, marker in zip(pooled.items(), _COLOURS, _MARKERS, strict=False):
        for column, context, face in ((3, "initial", "white"), (4, "adapted", colour)):
            edge = colour if face == colour or len(pooled) > 1 else _GREY
            _draw_intervals(
                axes,
                positions,
                [row[column] for row in rows],
                fmt=marker,
                color=edge,
                markerfacecolor=face,
                label=f"{context} context" + (f", {label}" if len(pooled) > 1 else ""),
            )
        for split in dict.fromkeys(splits):
            at = [number for number, each in enumerate(splits) if each == split]
            mean = float(np.mean([rows[number][4] for number in at]))
            margin = 0.02 * np.ptp(positions) if numeric else 0.4
            low, high = positions[at].min() - margin, positions[at].max() + margin
            axes.hlines(mean, low, high, color=colour, linestyle="--", linewidth=1.2)
            axes.annotate(
                f"{mean:.0f}".replace("-", "−"),
                (high, mean),
                textcoords="offset points",
                xytext=(3, 0),
                va="center",
                fontsize="small",
                color=colour,
            )
    # "negated joints 1,2,3", "negated joints 1,2,4": what they share goes under the axis.
    columns = zip(*(label.split(" ")[:-1] for label in labels), strict=False)
    words = [same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, columns)]
    if numeric:
        train = positions[[each == "train" for each in splits]]
        if len(train):
            axes.axvspan(
                train.min(), train.max(), color=_GREY, alpha=0.12, lw=0, label="range of training"
            )
        axes.set_xlabel(" ".join(words) or "task")
    else:
        names = [label[len(" ".join(words)) :].strip() for label in labels]
        axes.set_xticks(positions, names, rotation=90)
        axes.set_xlabel(" ".join(words) or "task")
        for number in np.flatnonzero(np.array(splits[1:]) != np.array(splits[:-1])):
            axes.axvline(number + 0.5, color="black", linewidth=0.8, linestyle=":")
        for split in dict.fromkeys(splits):
            at = [number for number, each in enumerate(splits) if each == split]
            axes.annotate(
                f"meta-{split}",
                (float(np.mean(at)), 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, -4),
                textcoords="offset points",
                ha="center",
                va="top",
                color="#444444",
            )
        axes.margins(x=0.03, y=0.12)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(ylabel="return of an episode", title=f"{family}: returns by task, means dashed")
    _finish(axes, below=True)
    _save(figure, path)


def _pool(label: str, records: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Split, label, parameters, and returns ``(S,)`` under both contexts of each task."""
    tables = [
        [(split, row) for split, rows in record["splits"].items() for row in rows]
        for record in records
    ]
    pooled = []
    for same in zip(*tables, strict=False):
        (split, first), rows = same[0], [row for _, row in same]
        if any((other, row["task"]) != (split, first["task"]) for other, row in same):
            break
        returns = (
            np.concatenate([row[f"return_{context}"] for row in rows])
            for context in ("initial", "adapted")
        )
        pooled.append((split, first["task"], first["parameters"], *returns))
    if {len(table) for table in tables} != {len(pooled)}:
        raise ValueError(f"The evaluations of {label!r} are of different tasks.")
    return pooled


def _draw_intervals(
    axes: Axes,
    positions: NDArray[np.floating] | NDArray[np.int_],
    returns: Sequence[NDArray[np.floating]],
    **style: Any,
) -> None:
    means = np.array([each.mean() for each in returns])
    ends = np.array(
        [
            bootstrap_interval(each[None], resamples=500) or (each.mean(), each.mean())
            for each in returns
        ]
    )
    axes.errorbar(
        positions,
        means,
        np.abs(ends.T - means),
        markersize=5,
        elinewidth=1.2,
        linestyle="none",
        **style,
    )


def _require_few(owner: str, name: str, drawn: Any, most: int = len(_COLOURS)) -> None:
    if not 1 <= len(drawn) <= most:
        raise ValueError(f"{owner} expected {name} of 1 to {most} to draw, got {len(drawn)}.")


def _finish(axes: Axes, *, below: bool = False) -> None:
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if below:
        axes.legend(
            frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=3, fontsize="small"
        )
    elif axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")


@checked
def plot_adaptation(report: Mapping[str, Any], path: Path) -> None:
    """Draw what an adaptation achieved: returns after each stage, and losses of the model.

    Every evaluation episode is a dot, a stage's mean a line; the policy that was handed back is
    in colour.

    Args:
        report: The adaptation's, as ``report.to_dict()`` gives it and its file holds it.
        path: File to write; its ending gives the format.

    Raises:
        ValueError: If the report is none.
    """
    try:
        told = f"{report['task']}: kept {report['decision']}; {report['reason']}"
        after, decision, novelty = (report[key] for key in ("returns", "decision", "novelty"))
        title = "Evaluation, on common starts" if after else "Gate, on common starts"
        after = after or report["gate_returns"]
        curves = [report[f"{key}_loss"] for key in ("train", "validation", "earlier_tasks")]
        diagnosis = report["diagnosis"]
    except LookupError as error:
        raise ValueError(
            f"plot_adaptation expected report as AdaptationReport.to_dict() gives it, without "
            f"{error}."
        ) from error
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    returns, losses = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(told, fontsize="medium")
    for position, (stage, values) in enumerate(after.items()):
        colour = _BLUE if stage == decision else _GREY
        returns.plot([position] * len(values), values, "o", color=colour, alpha=0.6)
        returns.hlines(np.mean(values), position - 0.3, position + 0.3, color=colour, linewidth=2)
        returns.annotate(
            f"{np.mean(values):.0f}".replace("-", "−"),
            (position + 0.32, np.mean(values)),
            va="bottom",
            color=colour,
        )
    returns.axhline(0, color="black", linewidth=0.6)
    names = [stage.replace(" ", "\n") for stage in after]
    returns.set_xticks(range(len(names)), names)
    returns.set_xlim(-0.5, len(after) - 0.2)
    returns.set(ylabel="return of an episode", title=title)
    if curves[0] is None:  # nothing had to be learned
        _draw_hypotheses(losses, diagnosis)
    else:
        for label, positions, values, colour in (
            ("new task", (0, 1, 2), curves[0], _BLUE),
            ("new task, held out", (0, 1, 2), curves[1], _ORANGE),
            ("earlier tasks", (0, 2), curves[2], _GREY),
        ):
            losses.plot(positions, values, marker="o", color=colour, label=label)
        losses.set_xticks(range(3), ["before", "context", "weights"])
        losses.set(ylabel="model loss", title="Model")
        if novelty is not None:
            if isinstance(novelty, Mapping):  # as release 0.1 wrote it
                novelty = novelty["loss_excess"]
            losses.set_xlabel(f"novelty: {novelty:.1f} (known tasks: 0 ± 1)", fontsize="small")
    for axes in (returns, losses):
        _finish(axes)
    _save(figure, path)


@checked
def plot_episodes(
    log: Sequence[Mapping[str, Any]], path: Path, *, title: str = "Episodes of the robot"
) -> None:
    """Draw what every real episode of an adaptation that goes on returned.

    Args:
        log: :attr:`.AdaptationSession.log`, or a report's ``continued``.
        path: File to write; its ending gives the format.
        title: Above the figure.

    Raises:
        ValueError: If there is no episode, or the log is none.
    """
    try:
        steps = [each["transitions"] + each["steps"] for each in log]
        played = [(each["policy"], float(each["return"])) for each in log]
        moments = [
            (at, each["said"]) for at, each in zip(steps, log, strict=True) if "said" in each
        ]
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"plot_episodes expected log as an AdaptationSession keeps it, got {shown(log)}."
        ) from error
    if not steps:
        raise ValueError("plot_episodes expected log with at least one episode, got none.")
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, [value for _, value in played], color=_GREY, linewidth=0.8, zorder=1)
    policies = list(dict.fromkeys(policy for policy, _ in played))
    for policy, colour, marker in zip(
        policies, itertools.cycle(_COLOURS), itertools.cycle(_MARKERS), strict=False
    ):
        points = [
            (at, value) for at, (one, value) in zip(steps, played, strict=True) if one == policy
        ]
        axes.plot(*zip(*points, strict=True), marker, color=colour, label=policy, zorder=2)
    notes: list[str] = []
    for at, said in moments:
        told = "; ".join(each for each in said.split("; ") if _tells(each))
        if told:
            notes.append(textwrap.fill(f"{len(notes) + 1}: {told}.", 110))
            axes.axvline(at, color="black", linewidth=0.6, linestyle=":")
            axes.annotate(
                str(len(notes)), (at, 1.01), xycoords=("data", "axes fraction"), ha="center"
            )
    axes.axhline(0, color="black", linewidth=0.6)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set(xlabel="real transitions", ylabel="return of an episode")
    axes.set_title(title, pad=18)
    axes.set_xlim(left=0)
    _finish(axes)
    if notes:
        figure.supxlabel("\n".join(notes), x=0.02, ha="left", fontsize="small")
    _save(figure, path)


def _tells(said: str) -> bool:
    """Whether it says something about the robot, not about the work."""
    work = ("is to play", "gathered", "learned from", "nothing is left", "went back", "no episode")
    return not any(each in said for each in work)


@checked
def plot_diagnosis(diagnosis: Mapping[str, Any], path: Path) -> None:
    """Draw what changed: what each motor does with what it is told, and every hypothesis's loss.

    Args:
        diagnosis: As :meth:`.Diagnosis.to_dict` gives it, and reports hold it.
        path: File to write; its ending gives the format.

    Raises:
        ValueError: If the diagnosis is none.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    motors, losses = figure.subplots(1, 2, width_ratios=(2, 3))
    try:
        figure.suptitle("; ".join(diagnosis["sentences"]), fontsize="medium", wrap=True)
        _draw_motors(motors, diagnosis)
        _draw_hypotheses(losses, diagnosis)
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"plot_diagnosis expected diagnosis as Diagnosis.to_dict() gives it, without {error}."
        ) from error
    for axes in (motors, losses):
        _finish(axes)
    _save(figure, path)


def _draw_motors(axes: Axes, diagnosis: Mapping[str, Any]) -> None:
    """Gains of all motors with 95% intervals, each beside the command that it follows.

    Hollow ones are what the diagnosis supposes, and the transitions do not tell.
    """
    undone = diagnosis["compensation"]
    gains = diagnosis["gains"]
    matrix = np.eye(len(gains)) if undone is None else np.array(undone["act_matrix"])
    for number, (row, gain) in enumerate(zip(matrix, gains, strict=True)):
        command = int(np.abs(row).argmax())
        value, error = (1.0, 0.0) if gain is None else gain
        own = row[command]
        changed = command != number or abs(own - 1) >= 0.1
        colour = _ORANGE if changed else _BLUE
        reach = 1.96 * abs(own) * error
        fill = "none" if gain is None else "full"
        axes.errorbar(
            own * value, number, xerr=reach, fmt="o", color=colour, capsize=3, fillstyle=fill
        )
        if command != number:
            axes.annotate(f" command {command + 1}", (own * value, number), va="bottom")
    for known in (-1, 0, 1):
        axes.axvline(known, color="black", linewidth=0.6, linestyle=":", zorder=0)
    axes.set_yticks(range(len(gains)), [f"motor {number + 1}" for number in range(len(gains))])
    axes.invert_yaxis()
    label = "gain (hollow: not told)" if None in gains else "gain"
    axes.set(xlabel=label, title="What each motor does")


def _draw_hypotheses(axes: Axes, diagnosis: Mapping[str, Any]) -> None:
    """Held-out losses of all hypotheses, the chosen one in colour, beside the known tasks'."""
    tried = diagnosis["explanations"]
    for position, each in enumerate(tried):
        chosen = each["name"] == diagnosis["chosen"]
        colour = _BLUE if chosen else _GREY
        axes.plot(each["loss"], position, "o", color=colour)
    if diagnosis["known_loss"] is not None:
        axes.axvline(diagnosis["known_loss"], color=_GREEN, label="known tasks")
    axes.set_yticks(range(len(tried)), [each["name"] for each in tried], fontsize="x-small")
    axes.invert_yaxis()
    axes.set(xlabel="held-out loss", title="Hypotheses")


@checked
def plot_comparison(compared: Mapping[str, Any], path: Path) -> None:
    """Draw the return of each task after each stage, and the stages' means.

    Bars are 95% intervals over seeds, where there is more than one; dashed lines are means over
    tasks and seeds.

    Args:
        compared: What :func:`.compare` gave.
        path: File to write; its ending gives the format.

    Raises:
        ValueError: If it is something else, or there are too many tasks or stages to be told apart.
    """
    try:
        tasks, arms = compared["tasks"], dict(compared["arms"])
        kept = arms.pop("kept")
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"plot_comparison expected compared as compare() gives it, without {error}."
        ) from error
    _require_few("plot_comparison", "compared", tasks, _MOST_LABELS)
    _require_few("plot_comparison", "compared", arms)
    figure = Figure(figsize=(max(6.4, 2 + 0.6 * len(tasks)), 4.2), layout="constrained")
    axes = figure.subplots()
    colours = (_GREY, _BLUE, _ORANGE, _GREEN, *_COLOURS[3:])
    spread = np.linspace(-0.2, 0.2, len(arms)) if len(arms) > 1 else np.zeros(1)
    for (arm, summary), colour, marker, offset in zip(
        arms.items(), colours, _MARKERS, spread, strict=False
    ):
        returns = [np.array(row) for row in summary["returns"]]
        places = np.arange(len(tasks)) + offset
        label = f"{arm}: {summary['mean']:.0f}".replace("-", "−")
        _draw_intervals(axes, places, returns, fmt=marker, color=colour, label=label)
        axes.axhline(summary["mean"], color=colour, linestyle="--", linewidth=1.2)
    labels = [task.split(" ") for task in tasks]
    words = list(itertools.takewhile(lambda same: len(set(same)) == 1, zip(*labels, strict=False)))
    shared = words if len(tasks) > 1 else []
    axes.set_xticks(
        range(len(tasks)), [" ".join(label[len(shared) :]) for label in labels], rotation=90
    )
    axes.set_xlabel(" ".join(word[0] for word in shared) or "task")
    axes.set_ylabel("return of an episode")
    axes.set_title(
        f"{len(tasks)} task(s), {len(compared['seeds'])} seed(s); mean handed back: "
        f"{kept['mean']:.0f}".replace("-", "−")
    )
    _finish(axes, below=True)
    _save(figure, path)


def _far_apart(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether lines end so far from each other that a linear axis would show one alone."""
    lines: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        lines[row["label"]].append(row["x"])
    drawn = [xs for xs in lines.values() if xs != [0]]
    ends = [max(xs) for xs in drawn]
    return min(map(min, drawn), default=0) > 0 and max(ends) >= 10 * min(ends)


def plot_panels(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    bars: bool = False,
    labels: Iterable[str] = (),
) -> None:
    """Draw interquartile means with their intervals, in a panel for each part of the rows.

    Args:
        rows: As the functions in ``sweeps.paper`` give them: ``panel``, ``xlabel``, ``label``, and
            of each point ``x``, a number or a name, ``iqm``, and ``low`` and ``high``, None for a
            single seed. 27 labels look different.
        path: File to write; its ending gives the format.
        bars: Draw bars beside each other, and not lines. Of the latter, one whose only point is at
            0, before anything was learned, is dashed and goes through. Where some end at ten times
            the ``x`` of others, the axis is logarithmic, or the others were a smear at its start.
        labels: Of all figures that belong together, so that each looks the same in every one.
    """
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    labels = list(dict.fromkeys((*labels, *(row["label"] for row in rows))))
    looks = itertools.product(_TURNS, zip(_COLOURS, _MARKERS, strict=True))
    style = dict(zip(labels, itertools.cycle(looks), strict=False))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * lines + 0.6), layout="constrained")
    every = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    for axes, panel in itertools.zip_longest(every, panels):
        if panel is None:
            axes.set_visible(False)
            continue
        here = [row for row in rows if row["panel"] == panel]
        drawn = [label for label in labels if any(row["label"] == label for row in here)]
        names = list(dict.fromkeys(row["x"] for row in here if isinstance(row["x"], str)))
        for number, label in enumerate(drawn):
            mine = [row for row in here if row["label"] == label]
            places = [names.index(row["x"]) if names else row["x"] for row in mine]
            means = np.array([row["iqm"] for row in mine])
            low, high = (
                np.array([row["iqm"] if row[end] is None else row[end] for row in mine])
                for end in ("low", "high")
            )
            (line, hatch), (colour, marker) = style[label]
            look: dict[str, Any] = {"color": colour, "label": label}
            if bars:
                axes.bar(number, means, hatch=hatch, edgecolor="white", **look)
                axes.errorbar(number, means, [means - low, high - means], color="black", capsize=3)
            elif places == [0] and not names:
                axes.axhline(means[0], linestyle="--", **look)
            else:
                axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
                axes.plot(places, means, marker=marker, markersize=4, linestyle=line, **look)
        if bars:
            axes.set_xticks([])
        elif names:
            axes.set_xticks(range(len(names)), names)
        else:
            if _far_apart(here):
                axes.set_xscale("log")
            axes.xaxis.set_major_formatter(EngFormatter())
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set(xlabel=here[0]["xlabel"], ylabel="return of an episode", title=panel)
        _finish(axes)
        if (legend := axes.get_legend()) is not None:
            legend.remove()
    handles = {
        label: handle
        for axes in every
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=_PAD, h_pad=_PAD)
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=150)
