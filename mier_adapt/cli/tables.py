"""Lines and tables that the command shows, of plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table


def status_line(trainer: Any, row: dict[str, Any], rate: float) -> str:
    """How fast a run is, and how good by now."""
    if trainer.updates == 0:
        return f"{rate:.0f} steps/s"
    often = f"{rate:.0f}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.0f} s each"
    parts = [f"{trainer.updates} updates, {often}"]
    if "model_loss" in row:
        parts.append(f"model loss {row['model_loss']:.2f}")
    if "return_adapted" in row:
        parts.append(f"return {row['return_initial']:.0f} → {row['return_adapted']:.0f}")
    return ", ".join(parts)


def evaluation_line(row: dict[str, Any]) -> str:
    """What an evaluation in the middle of a run gave."""
    line = (
        f"{row['updates']:>8} updates {row['env_steps']:>9} env steps {row['seconds']:>6.0f} s   "
        f"return {row['return_initial']:8.1f} → {row['return_adapted']:8.1f}"
    )
    if "loss_adapted" in row:
        line += f"   model loss {row['loss_initial']:7.2f} → {row['loss_adapted']:7.2f}"
    return line


def evaluation_table(record: dict[str, Any], *, first: Mapping[str, int]) -> Table:
    """What `mier-adapt evaluate` measured; tasks of a split are counted from its first one."""
    table = Table(
        title=f"{record['family']} {record['task_set']}: {record['seeds']} adaptation seed(s), "
        f"{record['episodes']} episodes, {record['adaptation_steps']} transitions"
    )
    table.add_column("task", no_wrap=True)
    for column in ("return: initial", "adapted", "model loss: initial", "adapted"):
        table.add_column(column, justify="right")
    for split, rows in record["splits"].items():
        for index, row in enumerate(rows, first[split]):
            table.add_row(f"{index}: {row['task']}", *_cells([row]))
        returns = record["summary"][split].values()
        for name, key in ((f"mean of {split} tasks", "mean"), ("interquartile mean", "iqm")):
            cells = _cells(rows) if key == "mean" else [f"{each[key]:.0f}" for each in returns]
            table.add_row(name, *cells, style="bold")
            if record["seeds"] > 1:
                table.add_row(
                    "  95% interval over seeds",
                    *("{:.0f} to {:.0f}".format(*each[f"{key}_interval"]) for each in returns),
                )
        table.add_section()
    return table


def cards_table(cards: Sequence[dict[str, Any]]) -> Table:
    """Pretrained runs, and their mean returns."""
    table = Table("name", "train: initial", "adapted", "test: initial", "adapted", "updates")
    table.columns[0].no_wrap = True
    table.title = "Mean returns over the tasks of each split"
    for card in cards:
        table.add_row(
            card["name"],
            *(cell for rows in card["evaluation"]["splits"].values() for cell in _cells(rows)[:2]),
            f"{card['updates']:,}",
        )
    return table


def comparison_table(compared: dict[str, Any]) -> Table:
    """Each arm's mean return and its gain over the baseline, with intervals."""

    def interval(ends: tuple[float, float] | None) -> str:
        return "{:.0f} to {:.0f}".format(*ends) if ends else "one seed"

    count, baseline = len(compared["tasks"]), compared["baseline"]
    table = Table(
        title=f"Mean return of {count} task(s), seed(s) {', '.join(map(str, compared['seeds']))}; "
        f"gain over the {baseline}; intervals over seeds"
    )
    table.add_column("arm", no_wrap=True)
    for column in ("return", "95% interval", "gain", "95% interval", "tasks better"):
        table.add_column(column, justify="right")
    for name, arm in compared["arms"].items():
        gain = (f"{arm['gain']:.0f}", interval(arm["gain_interval"]), f"{arm['better']} of {count}")
        table.add_row(
            name,
            f"{arm['mean']:.0f}",
            interval(arm["mean_interval"]),
            *(gain if name != baseline else ()),
        )
    return table


def _cells(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Means over tasks and seeds of an evaluation's rows; a dash where there is no model."""
    cells = []
    for name, digits in (
        ("return_initial", 0),
        ("return_adapted", 0),
        ("loss_initial", 2),
        ("loss_adapted", 2),
    ):
        values = [value for row in rows for value in row[name]]
        cells.append("–" if None in values else f"{np.mean(values):.{digits}f}")
    return cells
