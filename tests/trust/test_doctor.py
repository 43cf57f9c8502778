"""`mier-adapt doctor`: what it prints, and what it makes of a machine that lacks something."""

import time
from pathlib import Path

import pytest
import torch

from mier_adapt import doctor
from mier_adapt.cli.commands.doctor import Doctor


def test_it_prints_versions_devices_threads_and_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.process_time()
    code = Doctor(out=tmp_path).run()
    assert time.process_time() - started < 60
    output = capsys.readouterr().out
    assert code == 0, output
    for word in ("mier-adapt", "torch", "mujoco", "tianshou", "devices", "torch threads", "cores"):
        assert word in output
    for check in ("simulate", "train on cpu", "same seed, same figures", "save and load", "render"):
        assert check in output
    assert "failed" not in output
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_fails_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_simulate", lambda slow: "fine")
    monkeypatch.setattr(doctor, "_train", lambda device, slow: slow.append("Slow!") or "fine")
    monkeypatch.setattr(doctor, "_repeat", lambda: "fine")

    def broken(where: Path, slow: list[str]) -> str:
        raise OSError("No space left on device")

    def without_display() -> str:
        raise RuntimeError("no display")

    monkeypatch.setattr(doctor, "_save_and_load", broken)
    monkeypatch.setattr(doctor, "_render", without_display)
    examination = doctor.examine(tmp_path)
    assert not examination.healthy
    results = {check.name: check for check in examination.checks}
    assert results["save and load"].result == "OSError: No space left on device"
    assert not results["render"].required
    assert "Slow!" in examination.slow
    assert Doctor(out=tmp_path).run() == 1
    output = capsys.readouterr().out
    assert "failed" in output
    assert "not here" in output


def test_two_runs_that_differ_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"a": torch.zeros(2)}, {"a": torch.ones(2)}])
    monkeypatch.setattr(doctor, "_short_run", lambda: next(answers))
    with pytest.raises(RuntimeError, match="different parameters"):
        doctor._repeat()
