"""Seconds of a diagnosis: all alternatives and known tasks as a batch, and one after another.

A robot with six motors, ten known tasks and 400 transitions: the shipped cheetah's, in a task with
a motor reversed that never was in training.

    python tests/benchmarks/test_diagnosis_time.py
    pytest -m benchmark tests/benchmarks/test_diagnosis_time.py -s

The two take turns on the same transitions.
"""

import statistics
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from mier_adapt import _evidence, load_run
from mier_adapt.adaptation import compensated, explain, first_candidate, identify
from mier_adapt.agents import FamilyEnvs

ROUNDS = 3
MOST_SECONDS = 8.0


def measure() -> dict[str, float]:
    """Median seconds from transitions to a compensated policy, in both ways."""
    run = load_run("halfcheetah-negated-joints")
    config = run.adapt_config
    envs = FamilyEnvs(run.task_set)
    generator = np.random.default_rng(0)
    task = run.new_task(envs, run.task_set[12])
    found = identify(run, task, config, seed=0, generator=generator)
    contexts = run.earlier_contexts(config.adaptation_steps, generator)
    start = first_candidate(run, found.context)
    ways = {"as a batch": _evidence._CHUNK, "one after another": 1}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, chunk in ways.items():
            began = time.perf_counter()
            with mock.patch.object(_evidence, "_CHUNK", chunk):
                diagnosis = explain(run, config, found, contexts, np.random.default_rng(0))
            assert compensated(run, start, diagnosis) is not None
            seconds[name].append(time.perf_counter() - began)
    envs.close()
    return {name: statistics.median(values) for name, values in seconds.items()}


@pytest.mark.benchmark
def test_a_diagnosis_takes_seconds() -> None:
    seconds = measure()
    print(seconds)
    assert seconds["as a batch"] <= MOST_SECONDS
    assert seconds["as a batch"] < seconds["one after another"]


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for name, value in measure().items():
        print(f"{name}: {value:.1f} s")
