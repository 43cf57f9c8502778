"""One process goes on with a run; signals save it and leave with codes of their own."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mier_adapt._storage.checkpoints import load_checkpoint
from mier_adapt._storage.locks import LOCK_FILE, RunLockedError, run_lock
from mier_adapt.training import meta_train
from tests.mier_adapt.doubles import (
    TINY_ADAPT,
    assert_same_tree,
    run_python,
    start_python,
    tiny_config,
)

# What the command does, on a run that takes long enough to be met.
TRAIN = """
import dataclasses, sys
import torch
torch.set_num_threads(1)
from mier_adapt import cli
from mier_adapt.agents import presets
from tests.mier_adapt.doubles import TINY_ADAPT, tiny_config
config = tiny_config(updates=int(sys.argv[2]), evaluate_every=1000)
presets.PRESETS["tiny"] = presets.Preset(config, TINY_ADAPT)
sys.argv = ["mier-adapt", "meta-train", "tiny", "--seed", "1", "--out", sys.argv[1]]
cli.main()
"""


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_keeps_others_out_and_saves_when_it_is_stopped(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with start_python(TRAIN, out, 1_000_000) as process:
        # Measurements are there just before the first step, and the handlers stand by then.
        wait_for(out / "tensorboard", process)
        pattern = rf"in use by process {process.pid} on this machine, since \d+ (s|min)\. .*delete"
        with pytest.raises(RunLockedError, match=pattern):
            meta_train(tiny_config(), out, seed=1)
        assert (out / LOCK_FILE).exists()
        process.send_signal(number)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == code, (output, errors)
    assert "checkpoint saved" in output
    assert not (out / LOCK_FILE).exists()
    load_checkpoint(out)


UNHEEDED = """
import sys, time

from mier_adapt.cli.signals import stop_signals

with stop_signals():
    open(sys.argv[1], "w").close()
    while True:
        time.sleep(0.1)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_what_does_not_heed_the_first(
    number: signal.Signals, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    with start_python(UNHEEDED, ready) as process:
        try:
            wait_for(ready, process)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(timeout=30) != 0
        finally:
            process.kill()


def test_a_lock_of_this_process_is_refused_as_well(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path),
        pytest.raises(RunLockedError, match=str(os.getpid())),
        run_lock(tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    "owner",
    [
        {"pid": a_dead_process()},
        # The number is in use again, by a process that started at another time.
        {"pid": os.getpid(), "process_start": "1"},
    ],
)
def test_a_stale_lock_is_taken_over_with_a_message(
    owner: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = {
        "host": socket.gethostname(),
        "taken": time.time() - 7_200,
        "process_start": "17",
        **owner,
    }
    (tmp_path / LOCK_FILE).write_text(json.dumps(contents))
    with caplog.at_level(logging.WARNING), run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
        with pytest.raises(RunLockedError), run_lock(tmp_path):
            pass
    assert f"left by process {owner['pid']}" in caplog.text
    assert "taking it over (2 h old)" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_is_refused(tmp_path: Path) -> None:
    contents = {"pid": 1, "host": "elsewhere", "taken": time.time(), "process_start": None}
    (tmp_path / LOCK_FILE).write_text(json.dumps(contents))
    with (
        pytest.raises(RunLockedError, match=r"on elsewhere.*delete .*run\.lock"),
        run_lock(tmp_path),
    ):
        pass


@pytest.mark.parametrize("contents", [b"", b"{", b"[1]", b'{"pid": "x"}'])
def test_a_lock_without_an_owner_counts_once_it_is_old(
    contents: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / LOCK_FILE
    path.write_bytes(contents)
    with pytest.raises(RunLockedError, match="just now"), run_lock(tmp_path):
        pass
    os.utime(path, (time.time() - 60,) * 2)
    with run_lock(tmp_path):
        pass
    assert "taking it over" in caplog.text


@pytest.mark.parametrize("left", [True, False])
def test_of_many_processes_that_start_at_once_one_takes_the_lock(
    left: bool, tmp_path: Path
) -> None:
    """Whether one that died has left a lock there or not."""
    code = """
import os, sys, time
from pathlib import Path
from mier_adapt._storage.locks import RunLockedError, run_lock

begin = time.time() + 0.5
released, release = os.pipe()
for _ in range(6):
    if os.fork() == 0:
        os.close(release)
        time.sleep(max(0.0, begin - time.time()))
        try:
            with run_lock(Path(sys.argv[1])):
                os.read(released, 1)  # until the others have their answers
            os._exit(3)
        except RunLockedError:
            os._exit(4)
codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(5)]
os.close(release)
print(*codes, os.waitstatus_to_exitcode(os.wait()[1]))
"""
    if left:
        stale = {"pid": a_dead_process(), "host": socket.gethostname(), "taken": 0.0}
        (tmp_path / LOCK_FILE).write_text(json.dumps({**stale, "process_start": None}))
    exit_code, output, errors = run_python(code, tmp_path)
    assert (exit_code, output) == (0, "4 4 4 4 4 3\n"), errors
    assert errors.count("taking it over") == left


def test_a_run_that_was_stopped_ends_like_another(tmp_path: Path, finished_run: Path) -> None:
    out = tmp_path / "run"
    for stop in (1, 4, 9, 99):
        steps = iter(range(stop))
        meta_train(
            tiny_config(),
            out,
            adapt_config=TINY_ADAPT,
            seed=1,
            should_stop=lambda it=steps: next(it, None) is None,  # type: ignore[misc]
        )
    first, second = (load_checkpoint(directory)[1] for directory in (finished_run, out))
    assert_same_tree(first, second, ignore=["seconds"])
