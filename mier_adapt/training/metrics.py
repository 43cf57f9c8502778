"""MetricsLog: what a run measures, as JSON lines, TensorBoard events and one picture."""

import json
import logging
from pathlib import Path
from typing import Any

from mier_adapt._storage.files import (
    parse_json,
    read_bytes,
    replace_text,
    require_kinds,
    require_no_link,
)
from mier_adapt.agents.pretrained import METRICS_FILE, MOST_METRICS
from mier_adapt.figures import plot_learning_curve
from mier_adapt.integration.logging import tensorboard_logger

_log = logging.getLogger(__name__)

_ROW = {"updates": int, "env_steps": int, str: (float, [float])}
_EVALUATED = {
    **{f"{what}_{when}": float for what in ("return", "loss") for when in ("initial", "adapted")},
    "returns_adapted": [float],
}
"""Of those rows that figures show."""


class MetricsLog:
    """Writes a run's measurements, a row for each iteration.

    Rows beyond the checkpoint that a run resumes from are dropped: it will write them again.
    Rows that the disk refuses are kept in memory, and written with a later one.

    Args:
        directory: The run's; gets ``metrics.jsonl``, ``tensorboard/``, ``learning_curve.png``.
        updates: SAC updates behind the checkpoint that the run goes on from; 0 for a new run.
    """

    def __init__(self, directory: Path, *, updates: int) -> None:
        self._directory = directory
        self._rows = [row for row in read_metrics(directory) if row["updates"] <= updates]
        self._write_rows()
        self._logged = len(self._rows)
        require_no_link(directory / "tensorboard")
        self._logger: Any = tensorboard_logger(
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
            self.close()
            self._logger, self._logged = None, 0
            _log.warning(
                "Measurements at SAC update %s were not written: %s. They are kept in memory and "
                "written with the next ones; make room in %s, or make it writable again.",
                row["updates"],
                error,
                self._directory,
            )

    def close(self) -> None:
        """Flush the TensorBoard events."""
        try:
            if self._logger is not None:
                self._logger.finalize()
        except OSError as error:
            _log.warning("TensorBoard events were not written: %s.", error)

    def _write_rows(self) -> None:
        # As a whole each time, which is short: so a refusal or a kill leaves no half of a row,
        # and a directory that was made anew gets all of them.
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        replace_text(self._directory / METRICS_FILE, text)

    def _write_events(self) -> None:
        if self._logger is None:
            self._logger = tensorboard_logger(
                self._directory / "tensorboard", resume_step=self._rows[0]["updates"]
            )
        for row in self._rows[self._logged :]:
            # The logger itself writes the step, and puts what comes before the slash before all.
            scalars = {
                key: value for key, value in row.items() if _is_number(value) and key != "updates"
            }
            self._logger.write("meta_train/updates", row["updates"], scalars)
        self._logged = len(self._rows)


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
            require_kinds(_ROW, row, "it")
            if "return_adapted" in row:
                require_kinds(_EVALUATED, row, "it")
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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
