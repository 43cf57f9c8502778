"""How good is a velocity run at speeds that it was not trained for, inside and outside its range?

Identifies each task from 200 real transitions and returns deterministic episodes: 30 new speeds
drawn from the range of the ``hard`` set's meta-training tasks, and the set's 30 meta-test tasks,
which are faster than all of them.

    mier-adapt meta-train halfcheetah-vel-hard --out runs/vel-hard
    python examples/evaluate_velocities.py runs/vel-hard
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.evaluation import evaluation_record
from mier_adapt.workflows.pretrained import find_run
from mier_adapt.workflows.runs import load_run, read_run_file
from mier_adapt_envs import Task, task_set


@dataclass
class Args:
    """Evaluate a HalfCheetahVel run on velocities inside and outside its training range."""

    run_directory: Annotated[Path, tyro.conf.Positional]
    """A run directory, or the name of a pretrained run."""
    seeds: int = 3
    """Adaptation seeds; each gathers its own transitions."""
    episodes: int = 4
    """Deterministic episodes for each task, context and seed."""
    fast: bool = False
    """One seed, one episode and three tasks of either kind, to see that it runs."""


def main(args: Args) -> None:
    directory = find_run(args.run_directory)
    config, _, _ = read_run_file(directory)
    tasks = task_set(config.family, config.task_set)
    drawn = np.random.RandomState(2024).uniform(0, 1.5, 30)
    splits = {
        "inside: U(0, 1.5) m/s": [
            Task(config.family, (float(value),), label=f"velocity {value:.3f}") for value in drawn
        ],
        "outside: the set's meta-test tasks": list(tasks.meta_test),
    }
    if args.fast:
        splits = {name: members[:3] for name, members in splits.items()}
    with TaskEnvs(tasks) as envs:
        record = evaluation_record(
            load_run(directory, envs),
            envs,
            splits,
            seeds=1 if args.fast else args.seeds,
            episodes=1 if args.fast else args.episodes,
        )
    table = Table("velocities", "tasks", "initial", "adapted", "95% interval", "worst", "best")
    for name, rows in record["splits"].items():
        summary = record["summary"][name]
        adapted = [np.mean(row["return_adapted"]) for row in rows]
        interval = summary["adapted"]["mean_interval"]
        table.add_row(
            name,
            str(len(rows)),
            f"{summary['initial']['mean']:.1f}",
            f"{summary['adapted']['mean']:.1f}",
            "one seed" if interval is None else "{:.1f} to {:.1f}".format(*interval),
            f"{min(adapted):.1f}",
            f"{max(adapted):.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Args))
