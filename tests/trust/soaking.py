"""A process that adapts, evaluates and resets on changing tasks, and watches itself.

Run as ``python -m tests.trust.soaking RUN_DIRECTORY SECONDS``; prints one JSON object.
"""

import gc
import itertools
import json
import os
import statistics
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import gymnasium
import mujoco

_alive: "weakref.WeakSet[Any]" = weakref.WeakSet()
_made = itertools.count()


class CountedData(mujoco.MjData):
    """MjData that is counted as long as it lives."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        _alive.add(self)
        next(_made)


mujoco.MjData = CountedData

import torch  # noqa: E402

import mier_adapt_envs  # noqa: E402
from mier_adapt.adaptation import adapt  # noqa: E402
from mier_adapt.agents import FamilyEnvs, evaluate, load_run  # noqa: E402


def watch() -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rss_kib": int(status["VmRSS"].split()[0]),
        "kernel_threads": int(status["Threads"]),
        "python_threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "mj_data": len(_alive),
    }


def soak(directory: Path, seconds: float) -> dict[str, Any]:
    """Go round until the time is over; what was held at each round's end."""
    torch.set_num_threads(1)
    started = time.monotonic()
    seen: list[dict[str, float]] = []
    for number in itertools.count():
        round_(directory, number)
        seen.append({"seconds": time.monotonic() - started, **watch()})
        if time.monotonic() - started > seconds and len(seen) >= 4:
            break
    # The first fifth of the rounds warms up: allocators and caches fill.
    steady = seen[len(seen) // 5 :]
    edge = max(1, len(steady) // 5)
    first, last = (
        statistics.median(row["rss_kib"] for row in rows)
        for rows in (steady[:edge], steady[-edge:])
    )
    return {
        "rounds": len(seen),
        "mj_data_made": next(_made),
        "seconds": seen[-1]["seconds"],
        "rss_growth": last / first - 1,
        "rss_mib_after_warm_up": first / 1024,
        "rss_mib_at_end": last / 1024,
        **{
            name: [seen[len(seen) // 5][name], seen[-1][name]]
            for name in ("kernel_threads", "python_threads", "files", "mj_data")
        },
        "rss_kib": [row["rss_kib"] for row in seen[:: max(1, len(seen) // 200)]],
    }


def round_(directory: Path, number: int) -> None:
    """One adaptation and evaluation, on other tasks each time, with environments of its own."""
    tasks = mier_adapt_envs.task_set("HalfCheetahNegatedJoints")
    task = tasks[number % len(tasks)]
    with FamilyEnvs(tasks, num_threads=2) as envs:
        run = load_run(directory, envs)
        new_task = run.new_task(envs, task)
        adapt(run, new_task, run.adapt_config, seed=number, evaluation_episodes=2)
        others = [tasks[(number + i) % len(tasks)] for i in range(3)]
        steps = run.adapt_config.adaptation_steps
        evaluate(run, envs, others, seed=number, adaptation_steps=steps, episode_steps=20)
    env = gymnasium.make(tasks.env_id, task=task.to_dict())
    env.reset(seed=number)
    for other in others:
        env.reset(options={"task": other})
        for _ in range(5):
            env.step(env.action_space.sample())
    env.close()


if __name__ == "__main__":
    print(json.dumps(soak(Path(sys.argv[1]), float(sys.argv[2]))))
