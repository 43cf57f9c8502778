"""The documentation's examples, run as written."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mier_adapt_envs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "custom_family.md"
MODULES = [module.name for module in pkgutil.iter_modules(mier_adapt_envs.__path__)]


def blocks():
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)


CHECK = """
import warnings

from env_helpers import random_actions
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import SyncVectorEnv

import hopper_speed  # by its name, as a spec would load it

warnings.filterwarnings("ignore", ".*Box observation space")  # unbounded, as gymnasium's are
for task in (tasks[0], tasks[-1]):
    check_env(gymnasium.make(tasks.env_id, task=task).unwrapped, skip_render_check=True)
assert "torch" not in __import__("sys").modules
ours = gymnasium.make_vec(
    tasks.env_id, num_envs=3, vectorization_mode="vector_entry_point", tasks=tasks[4:7]
)
theirs = SyncVectorEnv([lambda t=t: gymnasium.make(tasks.env_id, task=t) for t in tasks[4:7]])
assert data_equivalence(ours.reset(seed=0), theirs.reset(seed=0), exact=True)
ends = 0
for actions in random_actions("HopperSpeed", 100, 3):
    returned = ours.step(actions)
    ends += returned[2].sum()
    assert data_equivalence(returned, theirs.step(actions), exact=True)
assert ends > 2
"""


def test_the_custom_family_runs_as_written(tmp_path):
    module, usage, own_set = blocks()
    assert len([line for line in module.splitlines() if line.strip()]) <= 35
    (tmp_path / "hopper_speed.py").write_text(module)
    script = tmp_path / "use.py"
    script.write_text("import hopper_speed\n" + usage + own_set + CHECK)
    python_path = [str(ROOT), str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(python_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"HopperSpeed\(3\): -?\d\.\d\d m/s, reward", done.stdout)
    assert done.stdout.rstrip().endswith("5 True")


@pytest.mark.parametrize("name", ["", *MODULES])
def test_docstring_examples(name):
    module = importlib.import_module(f"mier_adapt_envs.{name}".rstrip("."))
    outcome = doctest.testmod(module)
    assert outcome.failed == 0
    if name in ("", "tasks", "families", "vector"):
        assert outcome.attempted > 0


def test_the_gallery_shows_every_family():
    gallery = ROOT / "docs" / "gallery"
    page = (gallery / "index.md").read_text()
    for family in mier_adapt_envs.families():
        assert f"({family}.png)" in page
        assert (gallery / f"{family}.png").stat().st_size > 10_000
        for name in mier_adapt_envs.task_sets(family):
            assert f"`{name}`" in page
