"""A family of one's own and the command as users have it: in another process and folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..doubles import REPOSITORY

PAGE = Path(REPOSITORY) / "docs" / "custom_family.md"
SMALL = """
updates = 4
updates_per_iteration = 2
tasks_per_iteration = 2
adaptation_episodes = 1
evaluation_episodes = 1
initial_episodes = 2
episode_steps = 20
replay_per_task = 200
evaluate_every = 1
evaluated_tasks = 2
[model]
hidden_sizes = [8, 8]
context_dim = 2
pretrain_steps = 2
[policy]
hidden_sizes = [8, 8]
[adapt]
adaptation_steps = 40
refresh_updates = 2
num_models = 1
weight_steps = 4
relabel_rounds = 1
relabel_size = 50
updates_per_round = 2
"""


@pytest.fixture
def folder(tmp_path):
    """Where the page's module lies."""
    (source, *_) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "hopper_speed.py").write_text(source)
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


@pytest.fixture
def run(forked, folder, monkeypatch):
    """Run the command there."""
    monkeypatch.setenv("COLUMNS", "200")
    code = "from mier_adapt.cli import main; main()"
    return lambda *arguments: forked(code, *arguments, folder=folder)


def test_a_family_of_ones_own_goes_through_every_command(run, folder):
    def own(*arguments):
        code, out, err = run(*arguments, "--import", "hopper_speed")
        assert (code, err) == (0, ""), err
        return out

    assert "HopperSpeed-v0" in own("tasks")
    assert "HopperSpeed(3)" in own("tasks", "HopperSpeed")
    trained = ("meta-train", "--family", "HopperSpeed", "--config", "small.toml", "--out", "run")
    assert "Finished: run" in own(*trained)
    assert json.loads((folder / "run" / "run.json").read_text())["config"]["updates"] == 4
    own("plot", "run", "--out", "curves.png")
    assert "mean of test tasks" in own("evaluate", "run", "--split", "test", "--episodes", 1)
    own("adapt", "run", "--task", 11, "--episodes", 1, "--out", "adapted")
    policy = "adapted/task-11-seed-0.policy.safetensors"
    assert (folder / policy).is_file()
    assert "in 1 episode(s)" in own("play", policy, "--episodes", 1)
    export = ("export", "run", "--name", "hop", "--out", "exported", "--command", "it")
    own(*export, "--seeds", 1, "--episodes", 1)
    assert json.loads((folder / "exported" / "card.json").read_text())["family"] == "HopperSpeed"

    for arguments in (("adapt", "run", "--task", 11), ("plot", "run", "--out", "x.png")):
        code, _, err = run(*arguments)
        assert code == 1
        assert "family HopperSpeed is not known; --import the module that registers it" in err
    (folder / "run" / "run.json").unlink()
    code, _, err = run("evaluate", "run")
    assert (code, "family HopperSpeed is not known; --import the" in err) == (1, True)
    code, _, err = run("play", policy)
    assert (code, "(--import MODULE)" in err) == (1, True)


def test_the_examples_swimmer_is_trained_adapted_and_acts_by_its_commands(run, folder):
    source = (Path(REPOSITORY) / "examples" / "swimmer_speed.py").read_text()
    (folder / "swimmer_speed.py").write_text(source)
    commands = re.findall(r"^    mier-adapt (.*)$", source, re.MULTILINE)
    assert len(commands) == 3
    said = []
    for command in commands:
        few = command.replace("--updates 10000", "--config small.toml")
        code, out, err = run(*few.split())
        assert (code, err) == (0, ""), err
        said.append(out)
    assert "SwimmerSpeed(0.06)" in said[2]
    assert "in 4 episode(s)" in said[2]


def test_a_module_that_is_not_there_or_fails_is_said_in_a_line(run, folder):
    (folder / "broken.py").write_text("\n1 / 0\n")
    for module, message in (
        ("nowhere", "ModuleNotFoundError: No module named 'nowhere'\n"),
        ("broken", f"ZeroDivisionError: division by zero ({folder / 'broken.py'}, line 2)\n"),
    ):
        code, _, err = run("tasks", "--import", "json", "--import", module)
        assert (code, err) == (1, f"mier-adapt: --import {module} failed: {message}")


def test_installed_packages_bring_their_families(folder):
    for name, entry in (("hop", "hopper_speed"), ("bad", "nowhere")):
        about = folder / f"{name}-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        text = f"[mier_adapt.families]\nany = {entry}\n"
        (about / "entry_points.txt").write_text(text)
    code = "import sys; sys.path.insert(0, '.'); from mier_adapt.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "tasks", "HopperSpeed"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "HopperSpeed(3)" in done.stdout
    assert "The families of bad are left out: ModuleNotFoundError" in done.stderr
