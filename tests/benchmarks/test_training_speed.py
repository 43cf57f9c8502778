"""Updates a second of meta-training as a whole, with the flagship preset: before and now.

What a run pays for an update: SAC's own, its share of a meta-step and of simulation. Contenders
take turns of a few hundred updates each, so that whatever else the machine does hits them alike:

    python tests/benchmarks/test_training_speed.py
    pytest -m benchmark tests/benchmarks/test_training_speed.py -s

- ``release 0.1``: torch's own choice of kernels for matrix products, meta-steps between updates;
- ``quick products``: the faster kernels, where they are as exact;
- ``late contexts``: meta-steps on a core of their own besides;
- ``today``: a meta-step for 8 updates instead of 4, observations and rewards scaled, as the preset.
"""

import contextlib
import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from mier_adapt._products import _as_exact, quick_products
from mier_adapt.agents import FamilyEnvs, preset
from mier_adapt.training.meta_training import MetaTrainer
from mier_adapt_envs import task_set

TURN = 200
"""Updates of a turn."""


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(*, turns: int = 9, cores: int = 2) -> dict[str, float]:
    """Median updates a second of each contender."""
    config = preset("halfcheetah-negated-joints").meta_train
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, pretrain_steps=20))
    seconds: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        worker: Executor = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        contenders: dict[str, tuple[MetaTrainer, int, Any]] = {}
        before = dataclasses.replace(
            config.policy, normalize=False, reward_scale=1.0, updates_per_model_step=4
        )
        for name, late, policy, products in (
            ("release 0.1", False, before, contextlib.nullcontext),
            ("quick products", False, before, quick_products),
            ("late contexts", True, before, quick_products),
            ("today", True, config.policy, quick_products),
        ):
            envs = stack.enter_context(FamilyEnvs(task_set(config.family, config.task_set)))
            trainer = MetaTrainer(
                dataclasses.replace(config, late_contexts=late, policy=policy),
                envs,
                seed=0,
                beside=worker if late and cores > 1 else None,
            )
            while trainer.updates < 1:
                trainer.step()
            contenders[name] = (trainer, 1 if late else cores, products)
        for turn in range(turns + 1):
            for name, (trainer, count, products) in contenders.items():
                with threads(count), products():
                    started = time.perf_counter()
                    for _ in range(TURN):
                        trainer.step()
                    if turn:  # the first one warms up
                        seconds.setdefault(name, []).append(time.perf_counter() - started)
                    trainer.state()  # waits for what is under way
    return {name: TURN / statistics.median(each) for name, each in seconds.items()}


def show(cores: int) -> dict[str, float]:
    rates = measure(cores=cores)
    print(f"torch {torch.__version__}, {cores} core(s), exact quick products: {_as_exact()}")
    for name, rate in rates.items():
        print(f"{name:>16}: {rate:6.1f} updates/s, {rate / rates['release 0.1']:.2f} times")
    return rates


@pytest.mark.benchmark
def test_updates_take_less_time_than_in_release_0_1() -> None:
    rates = show(2)
    assert rates["late contexts"] > 1.2 * rates["release 0.1"]
    assert rates["today"] > 1.3 * rates["release 0.1"]


if __name__ == "__main__":
    for number in (1, 2):
        show(number)
