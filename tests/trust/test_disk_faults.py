"""Disks that are full, forbidden or gone: the run goes on in memory and says what to do."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mier_adapt._storage.checkpoints import (
    CHECKPOINT_FILE,
    PREVIOUS_FILE,
    CheckpointError,
    load_checkpoint,
    load_tree,
    save_checkpoint,
    save_tree,
)
from tests.mier_adapt.doubles import REPOSITORY

KINDS = ("full", "filling", "forbidden", "vanished")


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Any]]:
    """What became of runs that met each fault, for a while and for good."""
    # Not pytest's directory, which other users may not enter: permissions do not bind root.
    with tempfile.TemporaryDirectory(prefix="mier-adapt-faults-") as directory:
        Path(directory).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-m", "tests.trust.faulting", directory],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)


@pytest.mark.slow  # mounts small disks, which not every machine allows
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_passes_costs_nothing(kind: str, outcomes: dict[str, Any]) -> None:
    outcome = outcomes[f"{kind} for a while"]
    messages = outcome["messages"]
    assert outcome["result"] == "finished", outcome
    assert outcome["same"], outcome  # parameters, experience, generators
    assert "was not written" in messages
    assert "The run goes on in memory and loses nothing" in messages
    assert {
        "full": "[Errno 28]",
        "filling": "[Errno 28]",
        "forbidden": "[Errno 13]",
        "vanished": f"mkdir -p '{outcome['directory']}'",
    }[kind] in messages
    assert ("Free space on the disk" in messages) == (kind != "vanished")
    # What is left of the filling disk is room enough for these.
    assert ("Measurements at update 10 were not written" in messages) == (kind != "filling")
    assert outcome["rows"] == [10, 20, 24]


@pytest.mark.slow  # mounts small disks, which not every machine allows
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_lasts_ends_with_an_error(kind: str, outcomes: dict[str, Any]) -> None:
    outcome = outcomes[f"{kind} for good"]
    error = "OSError: The run's last checkpoint, at update 24, could not be written to"
    assert outcome["result"].startswith(error), outcome
    assert "free space or make the directory writable" in outcome["result"]
    assert outcome["messages"].count("was not written") > 3
    if kind != "vanished":  # the last whole one before the fault
        assert outcome["updates"] in (2, 3)


def test_room_is_asked_for_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tree(tmp_path / "tree", {"a": 1})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**22))
    with pytest.raises(OSError, match=r"8\.0 MiB are to be written and 4\.0 MiB are free") as info:
        save_tree(tmp_path / "tree", {"a": torch.zeros(2**21)})
    assert info.value.errno == errno.ENOSPC
    assert load_tree(tmp_path / "tree") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_damage_to_the_newest_checkpoint_costs_one_interval(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        save_checkpoint(tmp_path, {"number": number})
    newest = tmp_path / CHECKPOINT_FILE
    newest.write_bytes(newest.read_bytes()[:-9])
    path, tree = load_checkpoint(tmp_path)
    assert (path.name, tree) == (PREVIOUS_FILE, {"number": 1})
    assert f"{newest} is damaged; going on from the one before it" in caplog.text
    # The process that goes on does not let the damaged one take the whole one's place.
    load_checkpoint(tmp_path, set_damaged_aside=True)
    save_checkpoint(tmp_path, {"number": 3})
    assert load_tree(tmp_path / PREVIOUS_FILE) == {"number": 1}
    assert load_checkpoint(tmp_path)[1] == {"number": 3}
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="The one before it is no better"):
        load_checkpoint(tmp_path)


def test_a_large_replay_is_saved_and_loaded_in_bounded_memory(tmp_path: Path) -> None:
    code = """
import sys
import tempfile
from pathlib import Path
from typing import Any
import numpy as np
import torch
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt._storage.checkpoints import load_tree, save_tree

def memory(name):
    (line,) = [l for l in Path("/proc/self/status").read_text().splitlines() if name in l]
    return int(line.split()[1]) / 1024

def buffer():
    return ContextReplayBuffer(
        10, 40_000, obs_dim=20, act_dim=6, context_dim=5, generator=np.random.default_rng(0)
    )

path = Path(sys.argv[1])
full = buffer()
for column in full._columns().values():
    column[:] = 1
for task in range(10):
    full.task_buffer(task).restore(40_000, 7)
    full._lengths[task] = 40_000
save_tree(path, {"warm": torch.zeros(10)})
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
save_tree(path, full.state())
print(path.stat().st_size / 2**20, memory("VmHWM") - before)
other = buffer()
for column in other._columns().values():
    column[:] = 0  # so that its memory is there
before = memory("RssAnon")
other.load_state(load_tree(path))
print(memory("RssAnon") - before)
assert all((a == b).all() for a, b in zip(full._columns().values(), other._columns().values()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "replay")],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    size, saving, loading = map(float, done.stdout.split())
    print(f"{size:.0f} MiB: {saving:.1f} MiB more to save, {loading:.1f} MiB more to load")
    assert size > 70
    assert saving < 16
    assert loading < 16
