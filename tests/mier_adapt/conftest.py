from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
from matplotlib.figure import Figure

import mier_adapt_envs
from mier_adapt import cli, figures
from mier_adapt._storage.files import replacing
from mier_adapt.agents import FamilyEnvs
from mier_adapt.cli import terminal
from mier_adapt.training import meta_train
from mier_adapt_envs import TaskSet

from .baselines.lever import register_lever
from .doubles import TINY_ADAPT, tiny_config

CHECKPOINT = "checkpoint.safetensors"


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without checked annotations, as users run it: what does the library itself refuse?"""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def plain_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws figures small and without a layout, which takes longer than a tiny run does."""

    def save(figure: Figure, path: Path) -> None:
        figure.set_layout_engine("none")
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix[1:] or "png", dpi=20)

    monkeypatch.setattr(figures, "_save", save)


@pytest.fixture
def lever(monkeypatch: pytest.MonkeyPatch) -> TaskSet:
    """The tasks of a family that is known for the time of a test."""
    return register_lever(monkeypatch)


def _train(directory: Path, family: str) -> Path:
    assert meta_train(tiny_config(family), directory, adapt_config=TINY_ADAPT, seed=1)
    return directory


@pytest.fixture(scope="session")
def negated_joints_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run where rewards and dynamics vary. Do not write into it."""
    return _train(tmp_path_factory.mktemp("negated") / "run", "HalfCheetahNegatedJoints")


@pytest.fixture(scope="session")
def velocity_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run where only rewards vary. Do not write into it."""
    return _train(tmp_path_factory.mktemp("velocity") / "run", "HalfCheetahVel")


@pytest.fixture(scope="session")
def negated_joints_envs() -> Iterator[FamilyEnvs]:
    with FamilyEnvs(mier_adapt_envs.task_set("HalfCheetahNegatedJoints"), num_threads=1) as envs:
        yield envs


@pytest.fixture(scope="session")
def velocity_envs() -> Iterator[FamilyEnvs]:
    with FamilyEnvs(mier_adapt_envs.task_set("HalfCheetahVel"), num_threads=1) as envs:
        yield envs


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mier-adapt", *map(str, arguments)])
        monkeypatch.setattr(terminal.console, "width", 200)
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run
