"""Environment steps per second of the batched engine and its alternatives, in one run.

Run it on an idle machine, as a script for the table alone, or under pytest, which also checks the
engine's targets:

    python tests/benchmarks/test_vector_throughput.py
    python tests/benchmarks/test_vector_throughput.py --load 2
    pytest -m benchmark tests/benchmarks/test_vector_throughput.py -s

All contenders step the same actions from seeded starts, with episodes of 200 steps, and take turns
in every repeat, so that whatever else the machine does hits them alike. `--load` is what else it
does: that many processes that never rest. EnvPool is measured where it is installed (`pip install
envpool`).
"""

import argparse
import contextlib
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from mier_adapt_envs import env_class, task_set
from mier_adapt_envs.vector import TaskVectorEnv

EPISODE = 200
ROBOTS = {
    # robot: our family, gymnasium's environment, steps per repeat
    "HalfCheetah": ("HalfCheetahNegatedJoints", "HalfCheetah-v5", 100),
    "Ant": ("AntNegatedJoints", "Ant-v5", 40),
}
OURS, ENVPOOL, SYNC, ASYNC = "mier_adapt_envs", "EnvPool", "SyncVectorEnv", "AsyncVectorEnv"
BOUND = "bound: threads × raw mj_step"
BESIDE = "mier_adapt_envs × EnvPool, in the same repeat"


@dataclass
class Contender:
    """Something that steps environments."""

    start: Callable[[], object]
    """Starts episodes; not timed."""
    run: Callable[[], object]
    """Steps all environments with all actions."""
    scale: float = 1.0
    """Factor from what was measured to what is reported."""


def raw_simulation(
    family: str, actions: NDArray[np.float64], engine: TaskVectorEnv, num_threads: int
) -> Contender:
    """MuJoCo alone, on one thread, through the episodes that the engine goes through."""
    robot = env_class(family).robot
    model = robot.compile()
    datas = [mujoco.MjData(model) for _ in range(engine.num_envs)]
    generator = np.random.default_rng(0)
    masks = np.array([task.parameters for task in engine.tasks])

    engine.reset(seed=0)
    plan = []
    restart_B = np.zeros(engine.num_envs, dtype=np.bool_)
    for act_BA in actions:
        _, _, terminated_B, truncated_B, _ = engine.step(act_BA)
        plan.append((masks * act_BA, restart_B.tolist()))
        restart_B = terminated_B | truncated_B

    def start() -> None:
        for data in datas:
            robot.reset(model, data, generator)

    def run() -> None:
        for ctrl_BA, restarts in plan:
            for data, ctrl_A, restart in zip(datas, ctrl_BA, restarts, strict=True):
                if restart:
                    robot.reset(model, data, generator)
                    continue
                data.ctrl[:] = ctrl_A
                mujoco.mj_step(model, data, robot.frame_skip)
                if robot.contact_forces:
                    mujoco.mj_rnePostConstraint(model, data)

    return Contender(start, run, scale=num_threads)


@contextlib.contextmanager
def contenders(
    robot: str, actions: NDArray[np.float64], num_threads: int
) -> Iterator[dict[str, Contender]]:
    """Set up every contender for one robot, and close it in the end."""
    family, env_id, _ = ROBOTS[robot]
    num_envs = actions.shape[1]
    tasks = task_set(family).meta_train
    ours = TaskVectorEnv(
        family,
        num_envs,
        tasks=[tasks[slot % len(tasks)] for slot in range(num_envs)],
        num_threads=num_threads,
    )
    makers = [lambda: gymnasium.make(env_id, max_episode_steps=EPISODE)] * num_envs
    vectors = {
        OURS: ours,
        SYNC: gymnasium.vector.SyncVectorEnv(makers),
        ASYNC: gymnasium.vector.AsyncVectorEnv(makers),
    }

    def stepping(envs: gymnasium.vector.VectorEnv) -> Callable[[], object]:
        return lambda: [envs.step(act_BA) for act_BA in actions]

    found = {
        name: Contender(lambda e=envs: e.reset(seed=0), stepping(envs))
        for name, envs in vectors.items()
    }
    if importlib.util.find_spec("envpool"):
        import envpool

        pool = envpool.make(
            env_id,
            env_type="gymnasium",
            num_envs=num_envs,
            num_threads=num_threads,
            max_episode_steps=EPISODE,
            seed=0,
        )
        found[ENVPOOL] = Contender(pool.reset, stepping(pool))
    found[BOUND] = raw_simulation(family, actions, ours, num_threads)
    try:
        yield found
    finally:
        for envs in vectors.values():
            envs.close()


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep cores busy with other processes."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(
    robot: str, *, num_envs: int = 64, num_threads: int = 2, repeats: int = 7, load: int = 0
) -> dict[str, float]:
    """Return each contender's environment steps per second, the median over repeats.

    ``BESIDE`` is the median, over the repeats, of the engine's rate as a multiple of EnvPool's in
    the same repeat.
    """
    family, _, num_steps = ROBOTS[robot]
    act_dim = env_class(family).robot.compile().nu
    actions = np.random.default_rng(0).uniform(-1, 1, (num_steps, num_envs, act_dim))
    with contenders(robot, actions, num_threads) as found, busy(load):
        rates: dict[str, list[float]] = {name: [] for name in found}
        for repeat in range(repeats + 1):
            for name, contender in found.items():
                contender.start()
                began = time.perf_counter()
                contender.run()
                seconds = time.perf_counter() - began
                if repeat > 0:  # the first one warms up
                    rates[name].append(contender.scale * num_steps * num_envs / seconds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    if ENVPOOL in rates:
        pairs = zip(rates[OURS], rates[ENVPOOL], strict=True)
        medians[BESIDE] = statistics.median(ours / theirs for ours, theirs in pairs)
    return medians


def table(rates: dict[str, dict[str, float]]) -> str:
    """Lay out the rates in Markdown."""
    robots = list(rates)
    header = "".join(f" {robot} | of the bound | × Sync |" for robot in robots)
    lines = [f"| env steps per second |{header}", "| --- |" + " ---: | ---: | ---: |" * len(robots)]
    for name in (OURS, ENVPOOL, SYNC, ASYNC, BOUND):
        cells = ""
        for robot in robots:
            rate = rates[robot].get(name)
            cells += (
                " not installed | | |"
                if rate is None
                else f" {rate:,.0f} | {rate / rates[robot][BOUND]:.0%} |"
                f" {rate / rates[robot][SYNC]:.1f} |"
            )
        lines.append(f"| {name} |{cells}")
    if all(BESIDE in of_robot for of_robot in rates.values()):
        cells = "".join(f" {of_robot[BESIDE]:.2f} | | |" for of_robot in rates.values())
        lines.append(f"| {BESIDE} |{cells}")
    return "\n".join(lines)


@pytest.mark.benchmark
@pytest.mark.filterwarnings("default")  # EnvPool's dependencies warn
@pytest.mark.parametrize("load", [0, 2])
@pytest.mark.parametrize("robot", ROBOTS)
def test_throughput(robot, load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # HalfCheetah-v5 makes MuJoCo write a log file
    rates = measure(robot, load=load)
    print(f"\n{table({robot: rates})}")
    assert rates[OURS] >= (1.5 if load else 2.0) * rates[SYNC]
    if ENVPOOL not in rates:
        pytest.skip("EnvPool is not installed, so only SyncVectorEnv was compared")
    assert rates[BESIDE] >= 1.0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--load", type=int, default=0, help="processes that never rest, beside it")
    options = vars(parser.parse_args())
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            rates = {robot: measure(robot, **options) for robot in ROBOTS}
        finally:
            os.chdir(here)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, MuJoCo {mujoco.__version__}, {options}")
    print(f"\n{table(rates)}")


if __name__ == "__main__":
    main()
