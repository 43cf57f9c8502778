"""What a sweep takes beside its runs, against the same runs as commands of their own.

    python tests/benchmarks/test_sweep_overhead.py
    pytest -m benchmark tests/benchmarks/test_sweep_overhead.py -s

Short runs of SAC, each trained and evaluated: by ``mier-adapt meta-train`` and ``evaluate`` one
after the other, by a sweep in one process, and by one on a Ray of this machine with room for a job.
All end with the same evaluations. What a sweep adds does not depend on how long its runs are, so
that seconds are told, and from how long a run on they are less than 5% of it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

RUNS = 4
UPDATES = 1_000
SHARE = 0.05
LONGEST = 600.0
"""Seconds of a run from which on a sweep has to take less than that share beside it."""
_COMMAND = "import sys; from mier_adapt.cli import main; sys.exit(main())"
_ONE_JOB_ON_RAY = """
import sys
from mier_adapt.sweeps import working
from mier_adapt.cli import main

start = working.ray_cluster
working.ray_cluster = lambda address, *, num_cpus, runtime_env: start(
    address, num_cpus=1, runtime_env=runtime_env
)
sys.exit(main())
"""


def command(*arguments: object, code: str = _COMMAND) -> None:
    """Run ``mier-adapt``, on one of torch's threads, to its end."""
    subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )


def measure(directory: Path) -> dict[str, float]:
    """Seconds for all runs: as plain commands, in one process, on Ray."""
    grid = directory / "grid.toml"
    seeds = list(range(RUNS))
    grid.write_text(
        f'[[runs]]\npresets = ["smoke"]\nmethods = ["sac"]\nseeds = {seeds}\n'
        f"changes = {{ updates = {UPDATES} }}\n[evaluate]\nseeds = 1\nepisodes = 1\n"
    )
    seconds = {}

    started = time.perf_counter()
    for seed in seeds:
        run = directory / "plain" / f"seed-{seed}"
        options = ("--method", "sac", "--updates", UPDATES, "--seed", seed, "--out", run)
        command("meta-train", "smoke", *options)
        command("evaluate", run, "--seeds", 1, "--episodes", 1)
    seconds["plain"] = time.perf_counter() - started

    started = time.perf_counter()
    command("sweep", grid, "--out", directory / "here")
    seconds["in one process"] = time.perf_counter() - started

    started = time.perf_counter()
    command("sweep", grid, "--out", directory / "ray", "--jobs", 2, code=_ONE_JOB_ON_RAY)
    seconds["on Ray"] = time.perf_counter() - started

    for seed in seeds:
        summaries = {
            json.dumps(json.loads((path / "sweep_evaluation.json").read_text())["summary"]["test"])
            for path in (
                directory / "plain" / f"seed-{seed}",
                *(directory / each / "smoke" / "sac" / f"seed-{seed}" for each in ("here", "ray")),
            )
        }
        assert len(summaries) == 1, seed
    return seconds


def told(seconds: dict[str, float]) -> dict[str, float]:
    """What a sweep adds to each run, in seconds, and how long runs have to be for the share."""
    added = {
        name: (each - seconds["plain"]) / RUNS for name, each in seconds.items() if name != "plain"
    }
    return {
        **{f"{name}, seconds": each for name, each in seconds.items()},
        **{f"{name}, added to each run": each for name, each in added.items()},
        **{f"{name}, runs below {SHARE:.0%} from": each / SHARE for name, each in added.items()},
    }


@pytest.mark.benchmark
def test_a_sweep_takes_little_beside_its_runs(tmp_path: Path) -> None:
    seconds = told(measure(tmp_path))
    print(json.dumps(seconds, indent=2))
    for name in ("in one process", "on Ray"):
        assert seconds[f"{name}, runs below {SHARE:.0%} from"] < LONGEST


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        for key, value in told(measure(Path(name))).items():
            print(f"{key}: {value:.1f}")
