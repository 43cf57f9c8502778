"""MetricsLog: what a run measures, as JSON lines, TensorBoard events and one picture."""

import json
from pathlib import Path
from typing import Any

from mier_adapt.integration.logging import tensorboard_logger
from mier_adapt.workflows.plots import plot_learning_curve

__all__ = ["METRICS_FILE", "MetricsLog", "read_metrics"]

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Writes a run's measurements, a row for each iteration.

    Rows beyond the checkpoint that a run resumes from are dropped: it will write them again.

    Args:
        directory: The run's; gets ``metrics.jsonl``, ``tensorboard/``, ``learning_curve.png``.
        updates: SAC updates behind the checkpoint that the run goes on from; 0 for a new run.
    """

    def __init__(self, directory: Path, *, updates: int) -> None:
        self._path = directory / METRICS_FILE
        self._picture = directory / "learning_curve.png"
        kept = [row for row in read_metrics(directory) if row["updates"] <= updates]
        partial = self._path.with_name(METRICS_FILE + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self._path)
        self._rows = kept
        self._logger = tensorboard_logger(
            directory / "tensorboard", resume_step=updates + 1 if updates else None
        )

    def write(self, row: dict[str, Any]) -> None:
        """Add a row; a row with returns also draws the learning curve anew."""
        self._rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        scalars = {f"meta_train/{key}": value for key, value in row.items() if _is_number(value)}
        self._logger.write("meta_train/updates", row["updates"], scalars)
        if "return_adapted" in row:
            plot_learning_curve(self._rows, self._picture)

    def close(self) -> None:
        """Flush the TensorBoard events."""
        self._logger.finalize()


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Rows of a run's ``metrics.jsonl``; a last line that a kill cut short is left out."""
    path = directory / METRICS_FILE
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
