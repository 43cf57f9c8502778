"""Grids of tiny runs."""

import json
from pathlib import Path
from typing import Any

from mier_adapt._storage.checkpoints import load_tree
from mier_adapt.cli.grids import read_grid
from mier_adapt.sweeps.jobs import Job
from mier_adapt.training.metrics import read_metrics

from ..conftest import CHECKPOINT
from ..doubles import TINY_ADAPT, assert_same_tree, tiny_config

SMALL_SAC = {
    **{"updates": 30, "updates_per_iteration": 10, "episodes_per_iteration": 2},
    **{"initial_episodes": 1, "episode_steps": 20, "hidden_sizes": [8], "batch_size": 10},
    **{"replay_size": 1000, "evaluated_tasks": 2, "evaluate_every": 1},
}


def tiny(**changes: Any) -> dict[str, Any]:
    """What makes a preset's run one of about a second."""
    config = tiny_config(**changes).to_dict()
    del config["family"], config["task_set"]
    adapt = TINY_ADAPT.to_dict()
    del adapt["gate"]
    return {**config, "adapt": adapt}


def toml(table: dict[str, Any], at: str = "") -> str:
    """A table's values, and the tables in it."""
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    text = "".join(
        f"{key} = {json.dumps('None' if value is None else value)}\n"
        for key, value in values.items()
    )
    for key, value in tables.items():
        text += f"\n[{at}{key}]\n{toml(value, f'{at}{key}.')}"
    return text


def write_grid(path: Path, *runs: dict[str, Any], **tables: dict[str, Any]) -> Path:
    """A grid's file of ``[[runs]]`` and further tables."""
    text = "".join(f"[[runs]]\n{toml(each, 'runs.')}\n" for each in runs)
    path.write_text(text + toml(tables))
    return path


def jobs_of(path: Path, *runs: dict[str, Any], **tables: dict[str, Any]) -> list[Job]:
    """The jobs of such a grid."""
    return read_grid(write_grid(path, *runs, **tables))


def assert_same_runs(names: list[str], one: Path, other: Path) -> None:
    """Check that runs ended alike in two sweeps, bit for bit, and measured the same."""
    for name in names:
        trees = [load_tree(out / name / CHECKPOINT) for out in (one, other)]
        assert_same_tree(*trees, ignore=("seconds", "started"), at=name)
        rows = [read_metrics(out / name) for out in (one, other)]
        assert [{**row, "seconds": 0} for row in rows[0]] == [
            {**row, "seconds": 0} for row in rows[1]
        ]
        texts = [(out / name / "sweep_evaluation.json").read_text() for out in (one, other)]
        assert texts[0] == texts[1]
