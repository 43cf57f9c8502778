"""How long a round of a session takes, and how long the robot waits for a command meanwhile.

Run it on an idle machine, as a script for the figures alone, or under pytest, which also checks the
targets:

    python tests/benchmarks/test_session_time.py
    pytest -m benchmark tests/benchmarks/test_session_time.py -s
"""

import statistics
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from mier_adapt import AdaptationSession, load_run

PERIOD = 0.02
"""Seconds between commands: 50 Hz."""


def measure(rounds: int = 5) -> dict[str, float]:
    """Seconds of a round alone, and milliseconds of ``act`` alone and beside one."""
    run = load_run("halfcheetah-vel-hard")
    env = gymnasium.make(run.task_set.env_id, task=run.task_set[103], max_episode_steps=200)
    session = AdaptationSession(run, run.adapt_config, seed=0)

    def episode() -> None:
        (obs, _), over = env.reset(seed=session.transitions), False
        while not over:
            act = session.act(obs)
            obs_next, rew, terminated, truncated, _ = env.step(act)
            session.observe(obs, act, rew, obs_next, terminated, truncated)
            obs, over = obs_next, terminated or truncated

    while "learned" not in (session.log[-1].get("said", "") if session.log else ""):
        episode()
        session.improve()
    seconds = []
    for _ in range(rounds):
        episode()
        started = time.perf_counter()
        session.improve()
        seconds.append(time.perf_counter() - started)

    obs, _ = env.reset(seed=0)

    def waited(while_alive: threading.Thread | None) -> list[float]:
        waits = []
        while while_alive.is_alive() if while_alive else len(waits) < 200:
            started = time.perf_counter()
            session.act(obs)
            waits.append(1_000 * (time.perf_counter() - started))
            time.sleep(PERIOD)
        return waits

    alone, beside = waited(None), []
    for _ in range(rounds):
        episode()
        thread = threading.Thread(target=session.improve)
        thread.start()
        beside += waited(thread)
        thread.join()
    return {
        "round, s": statistics.median(seconds),
        "act alone, median ms": statistics.median(alone),
        "act beside a round, median ms": statistics.median(beside),
        "act beside a round, 99th percentile ms": float(np.quantile(beside, 0.99)),
        "act beside a round, slowest of": float(len(beside)),
        "act beside a round, slowest ms": max(beside),
    }


@pytest.mark.benchmark
def test_a_round_is_short_and_the_robot_does_not_wait_for_it():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = measure()
    finally:
        torch.set_num_threads(threads)
    print(f"\n{found}")
    assert found["round, s"] <= 6
    assert found["act beside a round, 99th percentile ms"] <= 5


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, value in measure().items():
        print(f"{name:40} {value:8.2f}")
