"""Every kind of file that the library reads, mutated thousands of times: refused, or read."""

from pathlib import Path

import pytest

from tests.mier_adapt.doubles import reported

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"
)


FORGIVING = ("metrics.jsonl", "exported/run.json")
"""Damaged lines of the former are left out; what the latter says, the checkpoint says as well."""


def attack(files: int, run: Path, scratch: Path) -> None:
    report = reported("tests.trust.mutating", run, scratch, files, timeout=3600)
    for name, outcomes in report["kinds"].items():
        print(f"{name}: {outcomes}")
    print(f"{report['files']} files in {report['seconds']} s")
    assert report["faults"] == []
    assert report["files"] >= files
    for name, outcomes in report["kinds"].items():  # else nothing was attacked
        assert "read" in outcomes, name
        assert "refused" in outcomes or name.endswith(FORGIVING), name


def test_hundreds_of_mutated_files_do_nothing(finished_run: Path, tmp_path: Path) -> None:
    attack(640, finished_run, tmp_path)


@pytest.mark.slow
def test_ten_thousand_mutated_files_do_nothing(finished_run: Path, tmp_path: Path) -> None:
    attack(10_000, finished_run, tmp_path)
