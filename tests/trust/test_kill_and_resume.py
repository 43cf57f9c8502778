"""Work that is killed with SIGKILL at random moments ends as if it had not been."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mier_adapt.doubles import REPOSITORY


def kill_often(kind: str, finished: Path, directory: Path, kills: int) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.trust.killing", kind, finished, directory, str(kills)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    result = json.loads(done.stdout)
    assert result["different"] == result["failed"] == 0, done.stderr
    assert result["kills"] >= kills
    assert result["completed"] >= 1
    return result


@pytest.mark.parametrize("kind", ["train", "adapt"])
def test_five_kills_lose_nothing(kind: str, finished_run: Path, tmp_path: Path) -> None:
    kill_often(kind, finished_run, tmp_path, 5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "adapt"])
def test_a_hundred_kills_lose_nothing(kind: str, finished_run: Path, tmp_path: Path) -> None:
    result = kill_often(kind, finished_run, tmp_path, 100)
    assert result["kills_in_saves"] >= (10 if kind == "train" else 1)
    assert result["resumed"] >= 10
