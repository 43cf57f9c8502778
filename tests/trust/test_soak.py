"""Adapting, evaluating and resetting on changing tasks for long: nothing grows, nothing leaks."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.mier_adapt.doubles import reported

SECONDS = float(os.environ.get("MIER_ADAPT_SOAK_SECONDS", "1800"))
"""Length of the slow test; half an hour unless told otherwise."""


def soak(run: Path, seconds: float) -> Any:
    report = reported("tests.trust.soaking", run, seconds)
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
