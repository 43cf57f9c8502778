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

from mier_adapt import load_run
from mier_adapt.agents import FamilyEnvs, evaluate
from mier_adapt.statistics import bootstrap_interval
from mier_adapt_envs import Task


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
    """Print a table, a row for each kind of velocities."""
    run = load_run(args.run_directory)
    drawn = np.random.RandomState(2024).uniform(0, 1.5, 30)
    splits = {
        "inside: U(0, 1.5) m/s": [
            Task(run.task_set.family, (float(value),), label=f"velocity {value:.3f}")
            for value in drawn
        ],
        "outside: the set's meta-test tasks": list(run.task_set.meta_test),
    }
    table = Table("velocities", "tasks", "initial", "adapted", "95% interval", "worst", "best")
    with FamilyEnvs(run.task_set) as envs:
        for name, members in splits.items():
            by_seed = [
                evaluate(
                    run,
                    envs,
                    members[: 3 if args.fast else None],
                    seed=1_000 * seed,
                    adaptation_steps=run.adapt_config.adaptation_steps,
                    episodes=1 if args.fast else args.episodes,
                )
                for seed in range(1 if args.fast else args.seeds)
            ]
            initial_TS, adapted_TS = (
                np.array(
                    [[getattr(each, f"returns_{when}").mean() for each in one] for one in by_seed]
                ).T
                for when in ("initial", "adapted")
            )
            interval = bootstrap_interval(adapted_TS)
            table.add_row(
                name,
                str(len(adapted_TS)),
                f"{initial_TS.mean():.1f}",
                f"{adapted_TS.mean():.1f}",
                "one seed" if interval is None else "{:.1f} to {:.1f}".format(*interval),
                f"{adapted_TS.mean(1).min():.1f}",
                f"{adapted_TS.mean(1).max():.1f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Args))
