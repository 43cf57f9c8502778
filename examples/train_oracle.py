"""What could be reached: SAC trained on each task itself, with all the steps that it wants.

The upper end of the gap of which adaptation closes a part. A call that is repeated goes on where
it was, since a training takes minutes.

    python examples/train_oracle.py --out docs/_static/oracle.json
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).parent))

import train_single_task

from mier_adapt.integration import FastSAC
from mier_adapt.statistics import bootstrap_interval


@dataclass
class Args:
    """Train one SAC for each task and seed; keep its returns in a JSON file."""

    out: Path
    """File of the returns; those that it holds are not measured again."""
    family: str = "HalfCheetahVel"
    """Family of tasks, as `mier-adapt tasks` lists them."""
    task_set: str = "hard"
    """Which of the family's task sets."""
    task: tuple[int, ...] = (100, 105, 111, 117, 123, 129)
    """Tasks by index."""
    seeds: int = 3
    """Training seeds 0, 1, ... of each task."""
    updates: int = 20_000
    """Gradient updates of each training; 4 environment steps for each."""
    fast: bool = False
    """One task, one seed, 1,000 updates, to see that it runs."""


def main(args: Args) -> None:
    """Train what is missing; print mean and interval."""
    tasks, seeds, updates = args.task, args.seeds, args.updates
    if args.fast:
        tasks, seeds, updates = tasks[:1], 1, 1_000
    found: dict[str, dict[str, float]] = (
        json.loads(args.out.read_text()) if args.out.exists() else {}
    )
    for seed in range(seeds):
        for task in tasks:
            name = f"{args.family} {args.task_set} task {task} seed {seed}"
            if name in found:
                continue
            returns = train_single_task.main(
                train_single_task.Args(
                    family=args.family,
                    task_set=args.task_set,
                    task=task,
                    seed=seed,
                    updates=updates,
                    target_return=np.inf,
                ),
                FastSAC,
            )
            found[name] = {str(done): round(value, 1) for done, value in returns.items()}
            args.out.write_text(json.dumps(found, indent=2) + "\n")
    for done in found[name]:
        returns_TS = np.array(
            [
                [
                    found[f"{args.family} {args.task_set} task {task} seed {seed}"][done]
                    for seed in range(seeds)
                ]
                for task in tasks
            ]
        )
        told = "one seed"
        if interval := bootstrap_interval(returns_TS):
            told = "95% interval over seeds [{:.0f}, {:.0f}]".format(*interval)
        print(f"{done} updates: mean return {returns_TS.mean():.0f}, {told}")


if __name__ == "__main__":
    main(tyro.cli(Args))
