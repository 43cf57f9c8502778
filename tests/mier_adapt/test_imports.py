"""What importing costs and loads, each measured in a fresh process."""

import json

import pytest

from .doubles import run_python

LOADED = """
import json, sys
{statement}
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""

HEAVY = (
    "torch",
    "tianshou",
    "mujoco",
    "matplotlib",
    "gymnasium",
    "tensorboard",
    "scipy",
    "rich",
    "ray",
)


def loaded_by(statement: str) -> set[str]:
    code, out, err = run_python(LOADED.format(statement=statement), options=("-W", "error"))
    assert (code, err) == (0, "")
    return set(json.loads(out))


@pytest.mark.parametrize(
    ("statement", "needs"),
    [
        ("import mier_adapt_envs", {"mujoco", "gymnasium"}),
        ("import mier_adapt", {"torch"}),
        ("import mier_adapt.wrappers", {"torch", "gymnasium"}),
        ("import mier_adapt; mier_adapt.ContextObservation", {"torch", "gymnasium"}),
        ("import mier_adapt.protocols", {"torch"}),
        ("import mier_adapt.gates", {"torch"}),
        ("import mier_adapt.statistics", {"torch"}),
        ("import mier_adapt.figures", {"torch", "matplotlib"}),
        ("import mier_adapt.cli", {"torch", "mujoco", "gymnasium", "rich"}),
    ],
)
def test_loads_what_it_needs_and_nothing_heavier(statement, needs):
    loaded = loaded_by(statement)
    # These come with what is needed, at the other packages' choice.
    brought = {"scipy"} if "gymnasium" in needs else set()
    assert needs <= loaded
    assert loaded & set(HEAVY) - brought == needs
    if "mier_adapt_envs" in statement:
        assert not any(name.startswith("jax") for name in loaded)
    assert "jax" not in loaded


def test_public_names_are_what_all_says():
    names = """
import mier_adapt
for name in mier_adapt.__all__:
    getattr(mier_adapt, name)
try:
    mier_adapt.Nonsense
except AttributeError as error:
    print(error)
"""
    code, out, _ = run_python(names)
    assert code == 0
    assert out.strip() == "module 'mier_adapt' has no attribute 'Nonsense'"


IMPORT_TIME = """
import time
import torch
before = time.perf_counter()
import mier_adapt
print(time.perf_counter() - before)
"""


def test_importing_adds_at_most_a_third_of_a_second_to_torch():
    run_python(IMPORT_TIME)  # writes byte code, reads files for the first time
    times = sorted(float(run_python(IMPORT_TIME)[1]) for _ in range(3))
    assert times[1] <= 0.3


USE_ENVIRONMENTS = """
import gymnasium
import numpy as np
import mier_adapt_envs

for family in ("HalfCheetahVel", "HalfCheetahNegatedJoints"):
    tasks = mier_adapt_envs.task_set(family)
    env = gymnasium.make(tasks.env_id, task=tasks.meta_test[0])
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    env.close()
    envs = gymnasium.make_vec(tasks.env_id, num_envs=2, vectorization_mode="vector_entry_point")
    envs.reset(seed=0, options={"tasks": tasks.meta_train[:2]})
    envs.step(np.zeros(envs.action_space.shape, np.float32))
    envs.close()
"""


def test_using_environments_prints_nothing_and_leaves_no_log(tmp_path):
    """MuJoCo writes from C, past Python's warnings: what counts are the process's own streams."""
    result = run_python(USE_ENVIRONMENTS, cwd=tmp_path, options=("-W", "error"))
    assert result == (0, "", "")
    assert list(tmp_path.iterdir()) == []
