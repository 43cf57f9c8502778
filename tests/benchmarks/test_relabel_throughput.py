"""Relabeled transitions per second: action, prediction, sampling and storing.

``ExperienceRelabeler`` into ``MixedReplayBuffer``, against what a few lines with stock Tianshou
and torch.distributions come to: batches of 1,000, and ``ReplayBuffer.add`` for each transition,
or, for whoever finds that way, ``ReplayBuffer.from_data`` and ``update`` for each batch.

    python tests/benchmarks/test_relabel_throughput.py
    pytest -m benchmark tests/benchmarks/test_relabel_throughput.py -s

Contenders take turns on the same stored transitions. Memory is measured in a fresh process.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tianshou.algorithm.modelfree.sac import SACPolicy
from tianshou.data import Batch, ReplayBuffer
from tianshou.utils.torch_utils import policy_within_training_step
from torch.distributions import Normal
from torch.utils.flop_counter import FlopCounterMode

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from mier_adapt import ContextModel, ExperienceRelabeler, Transitions
from mier_adapt.integration import MixedReplayBuffer, build_sac, relabeling_policy
from mier_adapt_envs import env_class

OBS_DIM, ACT_DIM, CONTEXT_DIM = 20, 6, 10
"""HalfCheetah's, with the context of the negated joints."""
COUNT = 20_000
"""Transitions of a turn."""
ENDED = env_class("HalfCheetahNegatedJoints").termination_fn


def parts() -> tuple[SACPolicy, ContextModel, torch.Tensor, Transitions]:
    """A new policy and model of the presets' sizes, a context, and stored transitions."""
    torch.manual_seed(0)
    observations = spaces.Box(-np.inf, np.inf, (OBS_DIM,))
    sac = build_sac(observations, spaces.Box(-1, 1, (ACT_DIM,)), CONTEXT_DIM)
    stored = Transitions(
        obs=torch.randn(COUNT, OBS_DIM),
        act=torch.rand(COUNT, ACT_DIM) * 2 - 1,
        rew=torch.randn(COUNT),
        obs_next=torch.randn(COUNT, OBS_DIM),
        terminated=torch.zeros(COUNT, dtype=torch.bool),
    )
    model = ContextModel(OBS_DIM, ACT_DIM, CONTEXT_DIM)
    return sac.policy, model, torch.randn(CONTEXT_DIM), stored


def ours(
    policy: SACPolicy, model: ContextModel, context: torch.Tensor, size: int
) -> tuple[ExperienceRelabeler, MixedReplayBuffer]:
    """As the workflow builds them."""
    relabeler = ExperienceRelabeler(
        model, context, policy=relabeling_policy(policy, context), termination_fn=ENDED
    )
    buffer = MixedReplayBuffer(
        1,
        size,
        obs_dim=OBS_DIM,
        act_dim=ACT_DIM,
        context=context,
        generator=np.random.default_rng(0),
    )
    return relabeler, buffer


@torch.no_grad()
def plain(
    policy: SACPolicy,
    model: ContextModel,
    context: torch.Tensor,
    stored: Transitions,
    *,
    batch_size: int = 1_000,
) -> Iterator[Batch]:
    """Relabeled batches, the context behind their observations."""
    for start in range(0, len(stored), batch_size):
        obs = stored.obs[start : start + batch_size]
        contexts = context.expand(len(obs), -1)
        with policy_within_training_step(policy):
            act = policy(Batch(obs=torch.cat((obs, contexts), -1), info=Batch())).act
        predicted = model(obs, act, context)
        assert predicted.delta_mean is not None
        assert predicted.delta_log_var is not None
        rew = Normal(predicted.rew_mean, (0.5 * predicted.rew_log_var).exp()).sample()
        delta = Normal(predicted.delta_mean, (0.5 * predicted.delta_log_var).exp()).sample()
        obs_next = obs + delta
        terminated = ENDED(obs.numpy(), act.numpy(), obs_next.numpy())
        yield Batch(
            obs=torch.cat((obs, contexts), -1).numpy(),
            act=act.numpy(),
            rew=rew.numpy(),
            terminated=terminated,
            truncated=np.zeros_like(terminated),
            done=terminated,
            obs_next=torch.cat((obs_next, contexts), -1).numpy(),
        )


def medians(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of a call over turns; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if repeat:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(*, repeats: int = 9) -> dict[str, float]:
    """Transitions per second, and the share of the rate of 1024 × 1024 matrix products."""
    policy, model, context, stored = parts()
    relabeler, buffer = ours(policy, model, context, COUNT)
    added, updated = ReplayBuffer(COUNT), ReplayBuffer(COUNT)
    matrix = torch.randn(1024, 1024)
    product = torch.empty_like(matrix)

    def relabel() -> None:
        for chunk in relabeler.stream([stored]):
            buffer.extend_synthetic(chunk)

    def add() -> None:
        for batch in plain(policy, model, context, stored):
            for transition in batch:
                added.add(transition)

    def update() -> None:
        for batch in plain(policy, model, context, stored):
            updated.update(ReplayBuffer.from_data(**batch))

    def products() -> None:
        for _ in range(5):
            torch.mm(matrix, matrix, out=product)

    with FlopCounterMode(display=False) as counter:
        relabel()
    times = medians(
        {
            "ExperienceRelabeler": relabel,
            "plain, add": add,
            "plain, from_data and update": update,
            "products": products,
        },
        repeats,
    )
    least = counter.get_total_flops() * times.pop("products") / (5 * 2 * 1024**3)
    rates = {name: COUNT / seconds for name, seconds in times.items()}
    return {**rates, "share of product rate": least / times["ExperienceRelabeler"]}


def grown_megabytes(requests: list[int]) -> dict[int, float]:
    """By how much each request raised this process's largest resident size, above a ring's."""
    policy, model, context, stored = parts()
    relabeler, buffer = ours(policy, model, context, COUNT)

    def peak() -> float:
        # Not getrusage's, which a child process inherits from its parent.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6

    buffer.extend_synthetic(stored)  # touches the whole ring
    for chunk in relabeler.stream([stored[:100]]):  # what torch and Tianshou load once
        buffer.extend_synthetic(chunk)
    before, grown = peak(), {}
    for request in requests:
        for chunk in relabeler.stream(stored for _ in range(request // COUNT)):
            buffer.extend_synthetic(chunk)
        grown[request] = peak() - before
    return grown


def measure_memory() -> dict[int, float]:
    """The same in a fresh process, for growing requests up to 10⁶ transitions."""
    outcome = subprocess.run([sys.executable, __file__, "memory"], capture_output=True, text=True)
    if outcome.returncode:
        raise RuntimeError(outcome.stderr)
    found = json.loads(outcome.stdout.splitlines()[-1])
    return {int(request): grown for request, grown in found.items()}


@pytest.mark.benchmark
def test_relabeling_is_faster_than_the_plain_way():
    rates = measure()
    print(f"\n{rates}")
    assert rates["ExperienceRelabeler"] / rates["plain, add"] >= 2


@pytest.mark.benchmark
def test_a_million_transitions_take_the_memory_of_a_chunk():
    grown = measure_memory()
    print(f"\n{grown} MB")
    assert grown[1_000_000] - grown[200_000] < 30  # 800,000 transitions alone are 151 MB


def main() -> None:
    """Print the figures."""
    rates = measure()
    share = rates.pop("share of product rate")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians\n")
    print("| relabeling | transitions per second | ratio |\n|---|---:|---:|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rates['ExperienceRelabeler'] / rate:.2f} |")
    print(f"\n{share:.0%} of the rate of matrix products")
    for request, grown in measure_memory().items():
        print(f"{request:,} transitions: {grown:.1f} MB above the ring")


if __name__ == "__main__":
    if sys.argv[1:] == ["memory"]:
        print(json.dumps(grown_megabytes([20_000, 200_000, 1_000_000])))
    else:
        main()
