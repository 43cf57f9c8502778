"""Where the time of the meta-training loop goes, with the flagship preset.

What a run is for is SAC's updates, meta-steps of the model, and simulation; the rest is overhead:

    python tests/benchmarks/test_loop_profile.py
    pytest -m benchmark tests/benchmarks/test_loop_profile.py -s

Two iterations of 2,000 updates are timed, with an evaluation at the second, where a run has one
every five: that counts more overhead than there is. First data and pre-training come before. The
script then profiles one collection, where most of the rest is.
"""

import cProfile
import dataclasses
import pstats
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from mier_adapt.agents import FamilyEnvs, preset
from mier_adapt.training import meta_training
from mier_adapt.training.meta_training import MetaTrainer
from mier_adapt_envs import task_set
from mier_adapt_envs.vector import TaskVectorEnv

ITERATIONS = 2
LEAST_SHARE = 0.85


@contextmanager
def trainer() -> Iterator[MetaTrainer]:
    """A run of the preset that has its first data."""
    config = preset("halfcheetah-negated-joints").meta_train
    config = dataclasses.replace(
        config,
        evaluate_every=ITERATIONS,
        model=dataclasses.replace(config.model, pretrain_steps=20),
    )
    with FamilyEnvs(task_set(config.family, config.task_set)) as envs:
        made = MetaTrainer(config, envs, seed=0)
        while made.pretrain_steps < config.model.pretrain_steps:
            made.step()
        yield made


def measure(trainer: MetaTrainer, *, iterations: int = ITERATIONS) -> dict[str, float]:
    """Seconds in each part of the loop, and in all of it."""
    seconds = dict.fromkeys(("SAC updates", "meta-steps", "simulation"), 0.0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] += time.perf_counter() - started

        return call

    with (
        mock.patch.object(meta_training, "update", timed("SAC updates", meta_training.update)),
        mock.patch.object(MetaTrainer, "_meta_step", timed("meta-steps", MetaTrainer._meta_step)),
        mock.patch.object(TaskVectorEnv, "step", timed("simulation", TaskVectorEnv.step)),
    ):
        started = time.perf_counter()
        for _ in range(iterations * trainer.config.updates_per_iteration):
            trainer.step()
        return {**seconds, "all": time.perf_counter() - started}


def share(seconds: dict[str, float]) -> float:
    """What the parts have of all of it."""
    return sum(value for name, value in seconds.items() if name != "all") / seconds["all"]


@pytest.mark.benchmark
def test_the_loop_spends_its_time_on_updates_and_simulation():
    with trainer() as made:
        seconds = measure(made)
    print(f"\n{seconds}, {share(seconds):.1%}")
    assert share(seconds) >= LEAST_SHARE


def main() -> None:
    """Print the table and the profile."""
    with trainer() as made:
        seconds = measure(made)
        print("| part | seconds | share |\n|---|---:|---:|")
        for name, value in seconds.items():
            print(f"| {name} | {value:.1f} | {value / seconds['all']:.1%} |")
        print(f"\nupdates and simulation: {share(seconds):.1%}\n\none collection:\n")
        profile = cProfile.Profile()
        profile.runcall(made._collect)
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
