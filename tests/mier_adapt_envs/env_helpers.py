"""What several tests of the environments need."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np

import mier_adapt_envs


def make(family, **kwargs):
    return gymnasium.make(mier_adapt_envs.env_class(family).env_id, **kwargs)


def spread_tasks(family, num_tasks):
    """Different tasks from all over a family's sets (in turn again if it has too few)."""
    every = list(
        dict.fromkeys(
            task
            for name in mier_adapt_envs.task_sets(family)
            for task in mier_adapt_envs.task_set(family, name)
        )
    )
    return [every[index * 7919 % len(every)] for index in range(num_tasks)]


def random_actions(family, num_steps, *leading, seed=0):
    """Actions of which some lie outside the box."""
    env = make(family)
    shape = (num_steps, *leading, *env.action_space.shape)
    env.close()
    return np.random.default_rng(seed).uniform(-1.5, 1.5, shape).astype(np.float32)


def run_silently(code, directory):
    """Run ``code`` in a process of its own, there; it may neither say nor write anything."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(mier_adapt_envs.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(directory.iterdir()) == []
