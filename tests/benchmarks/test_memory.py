"""Memory of a full-length run: 1.5 million environment steps of the flagship preset, for real.

All experience is collected and stored, evaluations run when they are due, and checkpoints are
written; but only one SAC update and few meta-steps are taken for each collection, since more of
them would add hours and no memory. A fresh process does it, whose largest resident size counts:

    python tests/benchmarks/test_memory.py
    pytest -m benchmark tests/benchmarks/test_memory.py -s

It takes a few minutes, 0.4 GB of a disk and less than 4 GB of memory.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

ENV_STEPS = 1_500_000
LIMIT_GB = 4.0


def collect_full_length(directory: Path) -> dict[str, float]:
    """Run the data path in this process; gigabytes are of 10⁹ bytes."""
    from mier_adapt.agents import preset
    from mier_adapt.training.meta_training import MetaTrainer, meta_train

    config = preset("halfcheetah-negated-joints").meta_train
    episodes = config.adaptation_episodes + config.evaluation_episodes
    steps = config.tasks_per_iteration * episodes * config.episode_steps
    first = 10 * config.initial_episodes * config.episode_steps
    iterations = -(-(ENV_STEPS - first) // steps)
    config = dataclasses.replace(
        config,
        updates=iterations,
        updates_per_iteration=1,
        evaluate_every=iterations // 5,
        model=dataclasses.replace(config.model, pretrain_steps=10),
    )
    seen = {"env_steps": 0, "transitions": 0}

    def look(trainer: MetaTrainer, row: object) -> None:
        seen["env_steps"], seen["transitions"] = trainer.env_steps, len(trainer.run.replay)

    started = time.monotonic()
    meta_train(config, directory, checkpoint_seconds=30.0, on_step=look)
    # kilobytes on Linux, bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        **seen,
        "seconds": time.monotonic() - started,
        "checkpoint_gb": (directory / "checkpoint.safetensors").stat().st_size / 1e9,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9,
    }


def measure() -> dict[str, float]:
    """The same in a fresh process, in a directory that is removed."""
    with tempfile.TemporaryDirectory() as directory:
        outcome = subprocess.run(
            [sys.executable, __file__, directory], capture_output=True, text=True, cwd=ROOT
        )
    if outcome.returncode:
        raise RuntimeError(outcome.stderr)
    figures: dict[str, float] = json.loads(outcome.stdout.splitlines()[-1])
    return figures


@pytest.mark.benchmark
def test_a_full_length_run_stays_below_four_gigabytes():
    figures = measure()
    print(f"\n{figures}")
    assert figures["env_steps"] >= ENV_STEPS
    assert figures["transitions"] == 1_000_000  # 10 full rings
    assert figures["peak_gb"] < LIMIT_GB


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(collect_full_length(Path(sys.argv[1]))))
    else:
        print(measure())
