"""Adapting, evaluating and resetting on changing tasks for long: nothing grows, nothing leaks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mier_adapt.doubles import REPOSITORY

SECONDS = float(os.environ.get("MIER_ADAPT_SOAK_SECONDS", "1800"))
"""Length of the slow test; half an hour unless told otherwise."""


def soak(run: Path, seconds: float) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.trust.soaking", run, str(seconds)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print({name: value for name, value in report.items() if name != "rss_kib"})
    assert report["rounds"] >= 4
    assert report["mj_data_made"] >= report["rounds"]
    for name in ("kernel_threads", "python_threads", "files", "mj_data"):
        early, late = report[name]
        assert late <= early, name
    assert report["mj_data"][1] == 0
    return report


def test_a_few_rounds_leak_no_threads_files_or_simulations(finished_run: Path) -> None:
    soak(finished_run, 3)


@pytest.mark.slow
def test_memory_is_flat(finished_run: Path) -> None:
    assert soak(finished_run, SECONDS)["rss_growth"] < 0.02
