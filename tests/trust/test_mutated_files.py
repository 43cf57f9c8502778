"""Every kind of file that the library reads, mutated thousands of times: refused, or read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mier_adapt.doubles import REPOSITORY

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)


def attack(files: int, run: Path, scratch: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.trust.mutating", run, scratch, str(files)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for name, outcomes in report["kinds"].items():
        print(f"{name}: {outcomes}")
    print(f"{report['files']} files in {report['seconds']} s")
    assert report["faults"] == []
    assert report["files"] >= files
    for name, outcomes in report["kinds"].items():  # else nothing was attacked
        assert "read" in outcomes, name
        assert "refused" in outcomes or name.endswith("metrics.jsonl"), name


def test_hundreds_of_mutated_files_do_nothing(finished_run: Path, tmp_path: Path) -> None:
    attack(500, finished_run, tmp_path)


@pytest.mark.slow
def test_ten_thousand_mutated_files_do_nothing(finished_run: Path, tmp_path: Path) -> None:
    attack(10_000, finished_run, tmp_path)
