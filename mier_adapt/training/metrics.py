"""MetricsLog: what a run measures, as JSON lines, events of others' tools, and one picture."""

import json
import logging
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mier_adapt._storage.files import (
    CheckpointError,
    parse_json,
    read_bytes,
    read_json,
    replace_text,
    require_kinds,
    require_no_link,
)
from mier_adapt.agents.configs import Split
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.evaluation import evaluate
from mier_adapt.agents.pretrained import METRICS_FILE, MOST_METRICS
from mier_adapt.figures import plot_learning_curve
from mier_adapt.integration.logging import tensorboard_logger, wandb_run
from mier_adapt.protocols import MetaPolicy

_log = logging.getLogger(__name__)

Log = Literal["tensorboard", "wandb", "none"]
"""Where measurements go besides ``metrics.jsonl``; with wandb, TensorBoard has them too."""
WANDB_FILE = "wandb.json"
"""Which run a run is at Weights & Biases, in its directory."""

_ROW = {"updates": int, "env_steps": int, str: (float, [float])}
_EVALUATED = {"return_initial": float, "return_adapted": float, "returns_adapted": [float]}
"""Of those rows that figures show."""
_LOSSES = {"loss_initial": float, "loss_adapted": float}
"""Both or none: not every method has a model."""
_EVALUATION_SEED = 20_000
"""Evaluations of one run share their starts, so that its curve shows the policy alone."""


class MetricsLog:
    """Writes a run's measurements, a row for each iteration.

    Rows beyond the checkpoint that a run resumes from are dropped: it will write them again.
    Rows that the disk refuses are kept in memory, and written with a later one.

    Args:
        directory: The run's; gets ``metrics.jsonl``, ``tensorboard/``, ``learning_curve.png``.
        updates: Those behind the checkpoint that the run goes on from; 0 for a new run.
        log: Where they go as well.
        about: What Weights & Biases shows of the run.
    """

    def __init__(
        self,
        directory: Path,
        *,
        updates: int,
        log: Log = "tensorboard",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self._directory = directory
        self._rows = [row for row in read_metrics(directory) if row["updates"] <= updates]
        self._write_rows()
        self._logged = len(self._rows)
        self._wandb: Any = None
        if log == "wandb":
            self._wandb = wandb_run(directory, run_id=_wandb_id(directory), config=about or {})
        self._has_events = log != "none"
        self._logger: Any = None
        if self._has_events:
            require_no_link(directory / "tensorboard")
            self._logger = tensorboard_logger(
                directory / "tensorboard", resume_step=updates + 1 if updates else None
            )

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; a row with returns also draws the learning curve anew."""
        self._rows.append(row)
        try:
            self._write_rows()
            self._write_events()
            if "return_adapted" in row:
                plot_learning_curve(self._rows, self._directory / "learning_curve.png")
        except OSError as error:
            # Its events may be lost, in a directory that vanished all of them: write them again.
            self._close_events()
            self._logger, self._logged = None, 0
            _log.warning(
                "Measurements at update %s were not written: %s. They are kept in memory and "
                "written with the next ones; make room in %s, or make it writable again.",
                row["updates"],
                error,
                self._directory,
            )
        self._tell_wandb("log", {f"meta_train/{k}": v for k, v in _numbers(row)}, row["updates"])

    def close(self) -> None:
        """Flush the events."""
        self._close_events()
        self._tell_wandb("finish")

    def _close_events(self) -> None:
        try:
            if self._logger is not None:
                self._logger.finalize()
        except OSError as error:
            _log.warning("TensorBoard events were not written: %s.", error)

    def _tell_wandb(self, method: str, *arguments: Any) -> None:
        try:
            if self._wandb is not None:
                getattr(self._wandb, method)(*arguments)
        except Exception as error:  # of wandb's; a run does not end by what only shows it
            _log.warning("wandb did not take the measurements: %s.", error)

    def _write_rows(self) -> None:
        # As a whole each time, which is short: so a refusal or a kill leaves no half of a row,
        # and a directory that was made anew gets all of them.
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        replace_text(self._directory / METRICS_FILE, text)

    def _write_events(self) -> None:
        if not self._has_events:
            return
        if self._logger is None:
            self._logger = tensorboard_logger(
                self._directory / "tensorboard", resume_step=self._rows[0]["updates"]
            )
        for row in self._rows[self._logged :]:
            # The logger itself writes the step, and puts what comes before the slash before all.
            scalars = {key: value for key, value in _numbers(row) if key != "updates"}
            self._logger.write("meta_train/updates", row["updates"], scalars)
        self._logged = len(self._rows)


def evaluated(
    policy: MetaPolicy,
    envs: FamilyEnvs,
    split: Split,
    count: int,
    *,
    adaptation_steps: int,
    episode_steps: int,
) -> dict[str, Any]:
    """What a row says of an evaluation.

    Losses are there where the policy has a model.

    Args:
        policy: As for :func:`.evaluate`.
        envs: See there.
        split: Which of their tasks.
        count: How many of these at most, the first ones.
        adaptation_steps: See there.
        episode_steps: See there.
    """
    evaluations = evaluate(
        policy,
        envs,
        getattr(envs.task_set, split)[:count],
        seed=_EVALUATION_SEED,
        adaptation_steps=adaptation_steps,
        episode_steps=episode_steps,
    )
    row: dict[str, Any] = {"split": split}
    for name in _LOSSES:
        losses = [getattr(each, name) for each in evaluations]
        if None not in losses:
            row[name] = float(np.mean(losses))
    for name in ("initial", "adapted"):
        per_task = [float(getattr(each, f"returns_{name}").mean()) for each in evaluations]
        row[f"return_{name}"] = float(np.mean(per_task))
        row[f"returns_{name}"] = per_task
    return row


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Rows of a run's ``metrics.jsonl``; damaged lines are left out, with a warning.

    Raises:
        CheckpointError: If it is no file of ours at all.
    """
    path = directory / METRICS_FILE
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    damaged = []
    for number, line in enumerate(read_bytes(path, most=MOST_METRICS).splitlines(), 1):
        try:
            row = parse_json(line)
            require_kinds({}, row, "it")
            split = {"split": str} if "split" in row else {}
            require_kinds(_ROW | split, row, "it")
            if "return_adapted" in row:
                losses = _LOSSES if _LOSSES.keys() & row.keys() else {}
                require_kinds(_EVALUATED | losses, row, "it")
            if split and row["split"] not in get_args(Split):
                raise ValueError(f"there is no split {row['split']!r:.80}")
            rows.append(row)
        except ValueError:
            damaged.append(number)
    if damaged:
        numbers = ", ".join(map(str, damaged[:10])) + (", …" if len(damaged) > 10 else "")
        _log.warning(
            "%s is damaged in line(s) %s, which are left out; the other %d are read.",
            path,
            numbers,
            len(rows),
        )
    return rows


def _numbers(row: Mapping[str, Any]) -> list[tuple[str, int | float]]:
    return [
        (key, value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _wandb_id(directory: Path) -> str:
    """The run's ID at Weights & Biases, under which it goes on when it is resumed."""
    try:
        found = str(read_json(directory / WANDB_FILE, {"id": str})["id"])
    except FileNotFoundError:
        found = uuid.uuid4().hex[:8]
        replace_text(directory / WANDB_FILE, json.dumps({"id": found}) + "\n")
    if not re.fullmatch(r"[\w-]{1,64}", found):
        raise CheckpointError(f"{directory / WANDB_FILE} holds no ID of a run. Delete it.")
    return found
