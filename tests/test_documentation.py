"""What README and docs show runs as it stands there."""

import ast
import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3

import mier_adapt
from mier_adapt.adaptation import own_policy

ROOT = Path(__file__).parent.parent
GENERATED = {"_build", "environments", "tutorials"}
"""Folders below docs/ that building the site writes."""
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name not in GENERATED),
]


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name
)
def test_the_snippets_of_a_page_run_in_order(page, forked, tmp_path):
    outcome = forked("\n".join(snippets(page)), folder=tmp_path)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        path = (page.parent / target).resolve()
        if path.parent == ROOT / "docs" / "tutorials":  # made from the script of that name
            path = ROOT / "examples" / f"{path.name}.py"
        # Building the site makes those below, and checks links and their anchors once more.
        assert path.exists() or path.parent == ROOT / "docs" / "environments", target


def test_the_tests_that_hold_a_promise_are_there():
    page = (ROOT / "docs" / "explanation" / "promises.md").read_text()
    tests = re.findall(r"`([\w/]+\.py)?::(\w+)`", page)
    assert len(tests) > 30
    file = ""
    for path, name in tests:
        file = path or file
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), name


def test_readme_names_each_command():
    readme = (ROOT / "README.md").read_text()
    for command in ("meta-train", "adapt", "evaluate", "tasks"):
        assert f"mier-adapt {command}" in readme


@pytest.fixture
def little_learning(monkeypatch):
    """So that a run takes seconds: what is adapted is of no worth."""
    config = mier_adapt.AdaptConfig.for_own_policy(
        diagnose=False,
        adaptation_steps=60,
        weight_steps=20,
        relabel_size=100,
        updates_per_round=3,
        batch_size=16,
    )
    monkeypatch.setattr(mier_adapt.AdaptConfig, "for_own_policy", lambda: config)
    monkeypatch.setattr(own_policy, "_FEWEST_STEPS", 20)


def readmes_lines() -> str:
    """Those that train a policy of one's own, which takes minutes."""
    (block,) = re.findall(r"^```py\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    return block


@pytest.mark.usefixtures("little_learning")
def test_readmes_lines_for_a_policy_of_ones_own_run_with_little_learning(
    monkeypatch, tmp_path, capsys
):
    learn = stable_baselines3.SAC.learn
    asked = []

    def learn_little(model, steps):
        asked.append(steps)
        return learn(model, 200)

    monkeypatch.setattr(stable_baselines3.SAC, "learn", learn_little)
    monkeypatch.chdir(tmp_path)
    exec(readmes_lines(), {})
    assert asked == [6_000]
    assert_adapted_by_readme(tmp_path, capsys.readouterr().out)


@pytest.mark.slow
def test_readmes_lines_for_a_policy_of_ones_own_run_as_they_stand(tmp_path):
    """The training among them: minutes."""
    outcome = subprocess.run(
        [sys.executable, "-c", readmes_lines()],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert_adapted_by_readme(tmp_path, outcome.stdout)


def assert_adapted_by_readme(folder: Path, out: str) -> None:
    assert out.startswith("Pendulum-v1, seed 0. Kept ")
    policy = mier_adapt.AdaptedPolicy.load(folder / "pendulum.safetensors")
    assert policy.predict(np.zeros(3)).shape == (1,)


@pytest.mark.usefixtures("little_learning")
@pytest.mark.filterwarnings("ignore:Single environment detected")
@pytest.mark.parametrize("name", ["sb3_gravity", "sb3_pendulum", "td3_hopper"])
def test_the_examples_with_a_policy_of_ones_own_run(name, monkeypatch, tmp_path, capfd):
    made = tmp_path / "made.png"
    example = ROOT / "examples" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(example), "--fast", "--out", str(made)])
    runpy.run_path(str(example), run_name="__main__")
    assert made.exists()
    last = capfd.readouterr().out.splitlines()[-1]
    assert re.search(r"adapted.*: -?\d+", last), last


def is_room(module: str) -> bool:
    """Whether a module says what it lists, and is not private."""
    try:
        return hasattr(importlib.import_module(module), "__all__") and "._" not in module
    except ImportError:
        return False


def unlisted(program: str) -> list[str]:
    """What a program takes of this library that no room lists."""
    nodes = list(ast.walk(ast.parse(program)))
    bound = {}  # what was imported, by its name in the program
    for node in nodes:
        if isinstance(node, ast.Import):
            bound |= {each.asname or each.name: each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            bound |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    ours = {name: path for name, path in bound.items() if path.startswith("mier_adapt")}
    rooms = {name: path for name, path in ours.items() if is_room(path)}
    read = {
        f"{rooms[ast.unparse(node.value)]}.{node.attr}"
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in rooms
    }

    def is_public(path: str) -> bool:
        room, _, name = path.rpartition(".")
        return is_room(path) or (is_room(room) and name in sys.modules[room].__all__)

    return sorted(path for path in {*ours.values(), *read} if not is_public(path))


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name
)
def test_examples_import_public_names_only(example):
    assert unlisted(example.read_text()) == []


def test_private_and_unlisted_names_are_found():
    program = """
import mier_adapt.cli.entry
import mier_adapt_envs as envs
from mier_adapt import figures, load_run
from mier_adapt._typing import Tensor
from mier_adapt.agents.run_file import find_run

figures.plot_comparison, figures.plot_learning_curve, envs.Task, envs.robot, load_run.__name__
"""
    assert unlisted(program) == [
        "mier_adapt._typing.Tensor",
        "mier_adapt.agents.run_file.find_run",
        "mier_adapt.cli.entry",
        "mier_adapt.figures.plot_learning_curve",
        "mier_adapt_envs.robot",
    ]
