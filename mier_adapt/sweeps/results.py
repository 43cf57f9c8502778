"""Results: what every run and adaptation of a sweep returned, as two tables that outlive it."""

import csv
import io
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mier_adapt._storage.files import CheckpointError, replace_text
from mier_adapt.sweeps.jobs import ORACLE, Adapting, Job, Oracle, Training

CURVES_FILE, RETURNS_FILE = "curves.csv", "returns.csv"
"""In a sweep's directory, or in one of tables alone."""


class CurvePoint(NamedTuple):
    """What a run returned on one task while it was trained."""

    preset: str
    method: str
    seed: int
    split: str
    """Whose task it is: meta_train or meta_test."""
    updates: int
    env_steps: int
    seconds: float
    """Wall-clock time of the run until then."""
    task: int
    """By number among those that are evaluated."""
    episode_return: float
    """After adaptation by the method's own means."""


class Outcome(NamedTuple):
    """What a trained run returned on one task, before, during or after an adaptation to it."""

    preset: str
    family: str
    task_set: str
    method: str
    arm: str
    """Of a sweep's [adapt]; empty where a run was evaluated by its method's own means."""
    seed: int
    adaptation_seed: int
    split: str
    """Whose task it is: train, test, or fig5, which lie ever further outside."""
    task: int
    """By number within its split."""
    label: str
    """The task in words."""
    parameter: float | None
    """Its first one."""
    stage: str
    """After which it was measured."""
    kept: bool
    """Whether this stage's policy is what was handed back."""
    updates: float | None
    """Gradient steps on the new task until then, if that is known."""
    transitions: float | None
    """Real ones of the new task until then, if that is known."""
    episode_return: float
    """Mean over its episodes."""


class Results(NamedTuple):
    """Of one sweep, or of several in one."""

    curves: list[CurvePoint]
    outcomes: list[Outcome]


EVALUATED = "adapted"
"""The stage of an evaluation that follows adaptation."""
_ONCE = {
    CURVES_FILE: ("preset", "method", "seed", "split", "updates", "task"),
    RETURNS_FILE: ("preset", "method", "arm", "seed", "adaptation_seed", "split", "task", "stage"),
}
"""What tells one line from another."""


def results_of(jobs: Sequence[Job], out: Path) -> Results:
    """What lies in a sweep's directory: curves also of runs under way, outcomes of what is done."""
    runs = {job.name: job for job in jobs if isinstance(job, Training)}
    results = Results([], [])
    for job in jobs:
        done = job.done(out)
        if isinstance(job, Oracle):  # whose curves are of one task that no method trains on
            results.outcomes.extend(_reached(job, out) if done else ())
        elif isinstance(job, Training):
            results.curves.extend(_curve(job, out))
            results.outcomes.extend(_evaluated(job, out) if done else ())
        elif isinstance(job, Adapting) and done:
            results.outcomes.extend(_adapted(job, runs[job.run_name], out))
    return results


def write_results(results: Results, out: Path) -> None:
    """Write both tables as CSV, with a line of names above."""
    for path, kind, rows in _tables(results, out):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(kind._fields)
        for row in rows:
            writer.writerow("" if value is None else _plain(value) for value in row)
        replace_text(path, text.getvalue())


def read_results(out: Path) -> Results:
    """Read tables that :func:`write_results` wrote, of several sweeps if they were joined.

    Raises:
        FileNotFoundError: If one is missing.
        CheckpointError: If a line is not as it writes them, or is there twice.
    """
    results = Results([], [])
    for path, kind, rows in _tables(results, out):
        lines = csv.reader(io.StringIO(path.read_text(errors="replace")))
        if (names := tuple(next(lines, ()))) != kind._fields:
            raise CheckpointError(
                f"{path}: expected columns {', '.join(kind._fields)}, got {', '.join(names):.200}."
            )
        types = typing.get_type_hints(kind)
        try:
            for line in lines:
                if len(line) != len(names):
                    raise ValueError(f"expected {len(names)} values, got {len(line)}")
                texts = zip(names, line, strict=True)
                rows.append(kind(*(_parsed(name, types[name], text) for name, text in texts)))
        except (ValueError, csv.Error) as error:
            raise CheckpointError(f"{path}, line {lines.line_num}: {error}.") from error
        seen = set()
        for row in rows:
            if (key := tuple(getattr(row, name) for name in _ONCE[path.name])) in seen:
                raise CheckpointError(
                    f"{path} holds {', '.join(map(str, key))} more than once, which would then "
                    "count more than once: leave one of them out."
                )
            seen.add(key)
    return results


def _tables(results: Results, out: Path) -> tuple[tuple[Path, typing.Any, list[typing.Any]], ...]:
    return (
        (out / CURVES_FILE, CurvePoint, results.curves),
        (out / RETURNS_FILE, Outcome, results.outcomes),
    )


def _plain(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _parsed(name: str, kind: typing.Any, text: str) -> typing.Any:
    if kind is str:
        return text
    if not text and kind == float | None:
        return None
    try:
        value = {"0": False, "1": True}[text] if kind is bool else float(text)
        if not np.isfinite(value) or (kind is int and value != int(text)):
            raise ValueError
    except (LookupError, ValueError) as error:
        wanted = {int: "a whole number", bool: "0 or 1"}.get(kind, "a finite number")
        raise ValueError(f"expected {wanted} as {name}, got {text!r:.40}") from error
    return int(text) if kind is int else value


def _curve(job: Training, out: Path) -> Iterator[CurvePoint]:
    for row in job.metrics(out):
        for task, returned in enumerate(row.get("returns_adapted", ())):
            yield CurvePoint(
                preset=job.preset,
                method=job.method,
                seed=job.seed,
                split=row.get("split", "meta_train"),
                updates=row["updates"],
                env_steps=row["env_steps"],
                seconds=_rounded(row.get("seconds", 0.0)),
                task=task,
                episode_return=_rounded(returned),
            )


def _evaluated(job: Training, out: Path) -> Iterator[Outcome]:
    for split, rows in job.evaluation(out)["splits"].items():
        for task, row in enumerate(rows):
            for stage, key in (("initial", "return_initial"), (EVALUATED, "return_adapted")):
                for seed, returned in enumerate(row[key]):
                    yield Outcome(
                        **_of(job),
                        arm="",
                        adaptation_seed=seed,
                        split=split,
                        **_task(task, row),
                        stage=stage,
                        kept=stage == EVALUATED,
                        updates=None,
                        transitions=None,
                        episode_return=_rounded(returned),
                    )


def _reached(job: Oracle, out: Path) -> Iterator[Outcome]:
    """Of the one task, which was all that the run trained on."""
    adapted = [each for each in _evaluated(job, out) if each.stage == EVALUATED]
    return (each._replace(method=ORACLE, split="test", task=job.task) for each in adapted)


def _adapted(job: Adapting, run: Training, out: Path) -> Iterator[Outcome]:
    refreshed = job.settings["refresh_updates"]
    for task, report in enumerate(job.reports(out)):
        spent = float(report["real_transitions"])
        updates = {
            "initial context": 0.0,
            "adapted context": 0.0,
            "compensated": 0.0,
            "known task": 0.0,
            "actor only": float(refreshed),
            "relabeled": float(refreshed + report["updates"]),
        }
        common = {
            **_of(run),
            **{"arm": job.arm, "adaptation_seed": job.adaptation_seed, "split": "test"},
            **_task(task, report),
        }
        for stage, returned in report["returns"].items():
            yield Outcome(
                **common,
                stage=stage,
                kept=stage == report["decision"],
                updates=updates.get(stage),
                transitions=0.0 if stage == "initial context" else spent,
                episode_return=_rounded(float(np.mean(returned))),
            )
        for number, episode in enumerate(report["continued"]):
            yield Outcome(
                **common,
                stage=f"episode {number + 1}",
                kept=False,
                updates=None,
                transitions=float(episode["transitions"] + episode["steps"]),
                episode_return=_rounded(episode["return"]),
            )


def _of(job: Training) -> dict[str, typing.Any]:
    return {
        **{"preset": job.preset, "method": job.method, "seed": job.seed},
        **{"family": job.settings["family"], "task_set": job.settings["task_set"]},
    }


def _task(number: int, row: dict[str, typing.Any]) -> dict[str, typing.Any]:
    parameters = row["parameters"]
    parameter = float(f"{parameters[0]:.6g}") if parameters else None
    return {"task": number, "label": row["task"], "parameter": parameter}


def _rounded(value: float) -> float:
    """To what it is written with, so that figures of a sweep and of its tables are the same."""
    return round(float(value), 2)
