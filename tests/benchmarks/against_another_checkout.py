"""Training loop and adaptation of this checkout against another one's, in turns, in one run.

    git worktree add ../before 65f8768
    python tests/benchmarks/against_another_checkout.py ../before

runs both through the command, which is the same in both, on one thread of an idle machine,
and prints medians of seconds and the median of each round's ratio. About two minutes a round.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

THIS = Path(__file__).parents[2]


@dataclass
class Args:
    """Time this checkout against another one."""

    other: Annotated[Path, tyro.conf.Positional]
    """Root of the other checkout; it is run with the libraries that are installed here."""
    rounds: int = 3
    """Each times both, in alternating order."""


def run(checkout: Path, directory: Path, *arguments: str) -> None:
    code = "import sys; from mier_adapt.cli import main; sys.exit(main())"
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=directory,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout.resolve())},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def measure(checkout: Path) -> dict[str, float]:
    """Seconds of 1,000 updates with all that belongs to them, and of an adaptation's stages."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        run(checkout, directory, "meta-train", "smoke", "--updates", "1000", "--out", "run")
        (*_, row) = (directory / "run" / "metrics.jsonl").read_text().splitlines()
        run(
            checkout, directory, "adapt", "halfcheetah-negated-joints", "--task", "12", "--out", "."
        )
        report = json.loads((directory / "task-12-seed-0.json").read_text())
    return {"training": json.loads(row)["seconds"], "adaptation": sum(report["seconds"].values())}


def main(args: Args) -> None:
    """Print how long each takes."""
    checkouts = {"other": args.other, "this": THIS}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for number in range(args.rounds):
        for name in sorted(checkouts, reverse=bool(number % 2)):
            found[name].append(measure(checkouts[name]))
            print(f"round {number}, {name}: {found[name][-1]}", flush=True)
    for part in ("training", "adaptation"):
        seconds = {name: [each[part] for each in rounds] for name, rounds in found.items()}
        ratios = np.divide(seconds["other"], seconds["this"])
        medians = ", ".join(f"{name} {np.median(values):.1f} s" for name, values in seconds.items())
        print(
            f"{part}: {medians}; {np.median(ratios):.3f} times as fast as the other "
            f"({ratios.min():.3f} to {ratios.max():.3f})"
        )


if __name__ == "__main__":
    main(tyro.cli(Args))
