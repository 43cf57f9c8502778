"""Work that is killed with SIGKILL at random moments ends as if it had not been."""

from pathlib import Path
from typing import Any

import pytest

from tests.mier_adapt.doubles import reported


def kill_often(kind: str, finished: Path, directory: Path, kills: int) -> Any:
    result = reported("tests.trust.killing", kind, finished, directory, kills, timeout=3600)
    print(result)
    assert result["different"] == result["failed"] == 0
    assert result["kills"] >= kills
    assert result["completed"] >= 1
    return result


@pytest.mark.parametrize("kind", ["train", "adapt", "continue"])
def test_two_kills_lose_nothing(kind: str, finished_run: Path, tmp_path: Path) -> None:
    kill_often(kind, finished_run, tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "adapt", "continue"])
def test_a_hundred_kills_lose_nothing(kind: str, finished_run: Path, tmp_path: Path) -> None:
    result = kill_often(kind, finished_run, tmp_path, 100)
    assert result["kills_in_saves"] >= (10 if kind == "train" else 1)
    assert result["resumed"] >= 10
