"""Milliseconds of an update: FastSAC against Tianshou's SAC, batched meta-steps against a loop.

Run it on an idle machine, as a script for the tables alone, or under pytest, which also checks by
how much the faster ones are faster:

    python tests/benchmarks/test_update_speed.py
    pytest -m benchmark tests/benchmarks/test_update_speed.py -s

Contenders take turns of a few calls each, so that whatever else the machine does hits them alike,
and each finds the caches as it left them, as in training.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tianshou.algorithm.modelfree.sac import SAC
from tianshou.algorithm.optim import AdamOptimizerFactory
from torch.utils.flop_counter import FlopCounterMode

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from mier_adapt import ContextModel, GradientContextAdapter, Transitions
from mier_adapt._memory import keep_freed_memory
from mier_adapt.integration import ContextReplayBuffer, FastSAC, algorithms, build_sac, update
from tests.mier_adapt.doubles import plain_meta_loss

OBS_DIM, ACT_DIM, CONTEXT_DIM = 20, 6, 10
"""HalfCheetah's, with the context of the negated joints."""
TASKS = 10


def transitions(*axes: int) -> Transitions:
    return Transitions(
        obs=torch.randn(*axes, OBS_DIM),
        act=torch.rand(*axes, ACT_DIM) * 2 - 1,
        rew=torch.randn(*axes),
        obs_next=torch.randn(*axes, OBS_DIM),
        terminated=torch.rand(*axes) < 0.01,
    )


def timed(
    contenders: dict[str, Callable[[], object]], *, repeats: int, calls: int
) -> dict[str, list[float]]:
    """Each turn's milliseconds for a call; the first turn and call of a turn warm up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, run in contenders.items():
            run()
            started = time.perf_counter()
            for _ in range(calls):
                run()
            if repeat:
                times[name].append(1e3 * (time.perf_counter() - started) / calls)
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


def measure_sac(batch_size: int, *, repeats: int = 15) -> dict[str, float]:
    """An update of two 256-256 critics and a 256-256 actor from a buffer of 200,000.

    ``SAC`` has Tianshou's own Adam, the others that of :func:`build_sac`. ``scaled`` learns as
    presets do, from scaled observations and rewards.
    """
    keep_freed_memory()  # as in meta-training
    torch.manual_seed(0)
    buffer = ContextReplayBuffer(
        TASKS,
        20_000,
        obs_dim=OBS_DIM,
        act_dim=ACT_DIM,
        context_dim=CONTEXT_DIM,
        generator=np.random.default_rng(0),
    )
    for task in range(TASKS):
        buffer.extend(task, transitions(20_000))
    buffer.set_contexts(np.arange(TASKS), torch.randn(TASKS, CONTEXT_DIM))
    observations = spaces.Box(-np.inf, np.inf, (OBS_DIM,))
    actions = spaces.Box(-1, 1, (ACT_DIM,))
    built = {
        f"{algorithm_class.__name__}, fused Adam": build_sac(
            observations, actions, CONTEXT_DIM, algorithm_class=algorithm_class
        )
        for algorithm_class in (SAC, FastSAC)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            algorithms, "TorchOptimizerFactory", lambda _, lr, fused: AdamOptimizerFactory(lr=lr)
        )
        built["SAC"] = build_sac(observations, actions, CONTEXT_DIM)
    scaled = build_sac(observations, actions, CONTEXT_DIM, algorithm_class=FastSAC)
    scaled.scale_obs(torch.full((OBS_DIM,), 0.5))
    scaled.scale_rewards(0.1)
    built["scaled"] = scaled
    times = timed(
        {
            name: lambda algorithm=algorithm: update(algorithm, buffer, batch_size)
            for name, algorithm in built.items()
        },
        repeats=repeats,
        calls=20 if batch_size < 1000 else 5,
    )
    return medians(times)


def measure_meta_step(batch_size: int, *, repeats: int = 25) -> dict[str, float]:
    """Loss and gradients of a second-order meta-step of the 4 × 200 model on 10 tasks.

    The plain loop differentiates automatically, the other calls ``meta_loss`` for each task.
    ``share`` is that of the machine's rate of matrix products, the rate at which it multiplies
    two of 1024 × 1024: the median over repeats, each of which measures both within a fraction of a
    second. The products are the batched step's own, which are one fewer than the plain loop's.
    ``fastest share`` is that of the two's fastest turns: other work on the machine slows small
    operations down more than large products.
    """
    keep_freed_memory()
    torch.manual_seed(0)
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM)
    adapter = GradientContextAdapter(model)
    adaptation, evaluation = transitions(TASKS, batch_size), transitions(TASKS, batch_size)
    matrix = torch.randn(1024, 1024)
    product = torch.empty_like(matrix)

    def batched() -> None:
        model.zero_grad()
        adapter.meta_loss(adaptation, evaluation).loss.backward()

    def one_by_one(loss: Callable[[Transitions, Transitions], torch.Tensor]) -> None:
        model.zero_grad()
        for task in range(TASKS):
            one = slice(task, task + 1)
            loss(adaptation[one], evaluation[one]).backward()

    def plain_loop() -> None:
        one_by_one(partial(plain_meta_loss, adapter))

    in_place = {torch.ops.aten.baddbmm_: lambda _, one, other, **__: 2 * math.prod(one) * other[-1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        batched()
    times = timed(
        {
            "plain loop": plain_loop,
            "meta_loss for each": lambda: one_by_one(lambda *sets: adapter.meta_loss(*sets).loss),
            "batched": batched,
            "product": lambda: torch.mm(matrix, matrix, out=product),
        },
        repeats=repeats,
        calls=5,
    )
    product_share = counter.get_total_flops() / (2 * 1024**3)
    result = medians(times)
    del result["product"]
    result["share"] = statistics.median(
        product_share * product / batched
        for product, batched in zip(times["product"], times["batched"], strict=True)
    )
    result["fastest share"] = product_share * min(times["product"]) / min(times["batched"])
    return result


@pytest.mark.benchmark
@pytest.mark.parametrize(("batch_size", "least"), [(256, 1.5), (2000, 1.2)])
def test_fast_sac_is_faster(batch_size, least):
    times = measure_sac(batch_size)
    print(f"\nbatch {batch_size}: {times}")
    assert times["SAC"] / times["FastSAC, fused Adam"] >= least


@pytest.mark.benchmark
def test_a_batched_meta_step_is_faster_and_spends_its_time_on_products():
    times = measure_meta_step(64)
    print(f"\n{times}")
    assert times["plain loop"] / times["batched"] >= 2.5
    assert times["share"] >= 0.6


def main() -> None:
    """Print the tables."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians\n")
    print(
        "| SAC update | Tianshou's, ms | with fused Adam, ms | FastSAC, ms | ratios | "
        "scaled, ms |\n|---|---:|---:|---:|---:|---:|"
    )
    for batch_size in (256, 2000):
        times = measure_sac(batch_size)
        stock, fused, fast = (times[k] for k in ("SAC", "SAC, fused Adam", "FastSAC, fused Adam"))
        print(
            f"| batch {batch_size} | {stock:.1f} | {fused:.1f} | {fast:.1f} | "
            f"{stock / fast:.2f}, {fused / fast:.2f} | {times['scaled']:.1f} |"
        )
    print(
        "\n| meta-step, 10 tasks | plain loop, ms | meta_loss for each, ms | batched, ms | "
        "ratios | share of product rate | of fastest turns |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    for batch_size in (64, 400):
        times = measure_meta_step(batch_size)
        plain, each, batched = (times[k] for k in ("plain loop", "meta_loss for each", "batched"))
        print(
            f"| {batch_size} transitions | {plain:.0f} | {each:.0f} | {batched:.0f} | "
            f"{plain / batched:.2f}, {each / batched:.2f} | {times['share']:.0%} | "
            f"{times['fastest share']:.0%} |"
        )


if __name__ == "__main__":
    main()
