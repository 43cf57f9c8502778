"""Sweeps in one process: what they leave, how they go on, and what fails."""

import json
import os
import signal
import time
import traceback

import pytest

from mier_adapt._storage.locks import run_lock
from mier_adapt.sweeps import jobs as jobs_module
from mier_adapt.sweeps import working
from mier_adapt.sweeps.jobs import Oracle, Training, read_jobs
from mier_adapt.training.metrics import read_metrics

from ..conftest import CHECKPOINT
from ..doubles import run_python, start_python
from .grids import SMALL_SAC, assert_same_runs, jobs_of, tiny, write_grid

OURS = {"presets": ["smoke"], "changes": tiny(updates=12)}
SAC = {"presets": ["smoke"], "methods": ["sac"], "seeds": [0, 1], "changes": SMALL_SAC}
ADAPT = {"episodes": 1, "arms": {"usual": {}, "little": {"weight_steps": 2}}}

SWEEP = """
import sys
from mier_adapt import cli

sys.argv = ["mier-adapt", "sweep", *sys.argv[1:]]
cli.main()
"""


@pytest.fixture
def two_tasks(monkeypatch):
    """Each adaptation is to two tasks: ten take ten times as long, and show no more."""
    real = jobs_module.Adapting.__init__

    def init(self, *, tasks, **values):
        real(self, tasks=tasks[:2], **values)

    monkeypatch.setattr(jobs_module.Adapting, "__init__", init)


def test_a_stop_does_not_wait_for_an_evaluation_or_an_adaptation(tmp_path):
    tables = {"evaluate": {"seeds": 2, "episodes": 1, "tasks": 2}, "adapt": ADAPT}
    training, adapting = jobs_of(tmp_path / "grid.toml", OURS, **tables)[:2]
    options = {"device": "cpu", "checkpoint_seconds": 60.0}

    def stopped_in(job, part, when=lambda: True):
        """Whether it is left where that function first asks."""
        asked = []

        def should_stop():
            within = any(frame.name == part for frame in traceback.extract_stack())
            asked.append(within and when())
            return asked[-1]

        finished = job.work(tmp_path, **options, should_stop=should_stop)
        return any(asked) and not finished and not job.done(tmp_path)

    assert stopped_in(training, "evaluation_record")
    assert training.work(tmp_path, **options, should_stop=lambda: False)
    assert stopped_in(adapting, "adapt")
    gathered = tmp_path / adapting.name / "task-10-seed-0.safetensors"
    assert stopped_in(adapting, "adapt", gathered.exists)
    assert gathered.exists()  # its real transitions


@pytest.mark.usefixtures("two_tasks")
def test_a_grid_is_trained_evaluated_adapted_and_drawn_and_then_nothing_is_left(command, tmp_path):
    evaluate = {"seeds": 2, "episodes": 1, "tasks": 9}
    oracle = {"tasks": 1, "changes": SMALL_SAC}
    tables = {"evaluate": evaluate, "adapt": ADAPT, "oracle": oracle}
    grid = write_grid(tmp_path / "grid.toml", OURS, SAC, **tables)
    out = tmp_path / "out"
    code, shown, err = command("sweep", grid, "--out", out)
    assert (code, err) == (0, "")
    assert "Done: 6 of 6 jobs" in shown
    assert "smoke/mier/seed-0: done, 12 of 12 updates, return " in shown
    jobs = read_jobs(out)
    for job in jobs:
        assert job.done(out)
        assert job.state(out)[0] == 1
        assert not (out / job.name / "run.lock").exists()
    record = json.loads((out / "smoke/sac/seed-1/sweep_evaluation.json").read_text())
    assert (record["seeds"], record["episodes"], record["method"]) == (2, 1, "sac")
    assert {split: len(rows) for split, rows in record["splits"].items()} == {
        "train": 9,
        "test": 9,
    }
    alone = ("evaluate", out / "smoke/sac/seed-1", "--split", "train", "--seeds", 1)
    assert command(*alone, "--episodes", 1)[0] == 0
    (trained,) = (job for job in jobs if job.name == "smoke/sac/seed-1")
    assert trained.evaluation(out) == record
    (reached,) = (job for job in jobs if isinstance(job, Oracle))
    ((only,),) = reached.evaluation(out)["splits"].values()
    assert only["task"] == record["splits"]["test"][0]["task"]
    reports = jobs[-1].reports(out)
    assert [report["task"] for report in reports] == [
        row["task"] for row in record["splits"]["test"][:2]
    ]
    assert {len(report["weight_steps"]) > 0 for report in reports} == {True}

    changed = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    code, shown, _ = command("sweep", grid, "--out", out)
    assert (code, "Done: 6 of 6 jobs" in shown) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == changed

    code, shown, err = command("figures", out)
    assert (code, err) == (0, "")
    assert "No figure_5, returns by difficulty: " in shown
    made = {path.name for path in (out / "figures").iterdir()}
    assert made == {
        f"figure_{number}.{ending}" for number in (2, 4, 6) for ending in ("png", "csv")
    }
    assert (out / "figures" / "figure_4.png").read_bytes().startswith(b"\x89PNG")


def test_what_fails_is_told_and_tried_again_and_the_others_go_on(command, tmp_path, monkeypatch):
    grid = write_grid(tmp_path / "grid.toml", OURS, SAC, evaluate={"episodes": 1}, adapt=ADAPT)
    out = tmp_path / "out"
    work = Training.work

    def fails(self, out, **options):
        if self.method == "mier":
            raise FloatingPointError("the model's loss is nan")
        if self.seed == 1:
            raise KeyError("a fault of ours")
        return work(self, out, **options)

    monkeypatch.setattr(Training, "work", fails)
    code, shown, err = command("sweep", grid, "--out", out)
    assert code == 1
    assert "Done: 1 of 5 jobs" in shown
    assert "4 failed; the same command tries them again" in shown
    lines = err.splitlines()
    assert lines[0] == "smoke/mier/seed-0: the model's loss is nan"
    assert "smoke/sac/seed-1: Traceback (most recent call last):" in lines
    assert "KeyError: 'a fault of ours'" in lines
    needs = "Not started: it needs smoke/mier/seed-0, which failed."
    assert f"smoke/mier/seed-0/adapt/little/seed-0: {needs}" in lines
    monkeypatch.setattr(Training, "work", work)
    without = write_grid(tmp_path / "grid.toml", OURS, SAC, evaluate={"episodes": 1}, adapt=ADAPT)
    monkeypatch.setattr(jobs_module.Adapting, "work", lambda self, out, **options: True)
    code, shown, _ = command("sweep", without, "--out", out)
    assert (code, "Done: 3 of 5 jobs" in shown) == (0, True)


def test_a_sweep_is_one_processs_and_a_grid_another_directorys(command, tmp_path, monkeypatch):
    grid = write_grid(tmp_path / "grid.toml", SAC)
    out = tmp_path / "out"
    out.mkdir()
    with run_lock(out):
        code, _, err = command("sweep", grid, "--out", out)
    assert (code, "is in use by process" in err, err.count("\n")) == (1, True, 1)
    (out / "letter.txt").touch()
    code, _, err = command("sweep", grid, "--out", out)
    assert (code, "holds other files. Choose another one." in err, err.count("\n")) == (1, True, 1)
    code, _, err = command("figures", out)
    assert (code, "mier-adapt sweep GRID.toml --out DIR" in err, err.count("\n")) == (1, True, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--jobs", 2, "--address", "auto"), "Expected --jobs or --address"),
        (("--jobs", 0), "--jobs expected >= 1, got 0"),
        (("--gpus", 1), "which are for Ray"),
        (("--jobs", 2, "--device", "cuda"), "Expected --gpus above 0 with --device cuda"),
        (("--jobs", 2, "--gpus", 0.5), "Expected --gpus above 0 with --device cuda"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(command, tmp_path, options, message):
    grid = write_grid(tmp_path / "grid.toml", SAC)
    code, _, err = command("sweep", grid, "--out", tmp_path / "out", *options)
    assert (code, message in err, err.count("\n")) == (1, True, 1)
    assert not (tmp_path / "out").exists()


def test_without_ray_it_says_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    grid = write_grid(tmp_path / "grid.toml", SAC)
    code, _, err = command("sweep", grid, "--out", tmp_path / "out", "--jobs", 2)
    assert (code, "pip install 'mier-adapt[ray]'" in err, err.count("\n")) == (1, True, 1)


def test_a_job_waits_for_a_process_that_was_lost_and_may_live_on(tmp_path, monkeypatch):
    """As workers of a node do for a moment after it, or of a driver that was killed."""
    monkeypatch.setattr(working, "_LEFT_SECONDS", 3.0)
    path = write_grid(tmp_path / "grid.toml", SAC)
    from mier_adapt.cli.grids import read_grid

    job = read_grid(path)[0]
    work = working.Work(
        out=tmp_path, threads=1, device="cpu", checkpoint_seconds=9.0, prepare=lambda: None
    )
    directory = tmp_path / job.name
    directory.mkdir(parents=True)
    waited: list[float] = []
    monkeypatch.setattr(working.time, "sleep", waited.append)
    with run_lock(directory):
        monkeypatch.setattr(working.time, "monotonic", iter([0.0, 1.0, 2.0, 4.0]).__next__)
        assert "is in use by process" in str(work.do(job))
    assert waited == [1.0, 1.0]


class Nodes:
    """As much of Ray as taking a lock away asks for: which nodes it knew."""

    def __init__(self, **alive: bool) -> None:
        self.alive = alive

    def nodes(self):
        return [
            {"NodeManagerHostname": host, "Alive": alive, "NodeID": host}
            for host, alive in self.alive.items()
        ]


def test_the_lock_of_a_node_that_ray_knows_to_be_dead_is_taken_away(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("socket.gethostname", lambda: "lost")
    lock = tmp_path / "run.lock"
    with run_lock(tmp_path):
        text = lock.read_text()
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    lock.write_text(text)
    working._unlock(tmp_path, Nodes(here=True))  # who knows which machine that is
    assert lock.exists()
    working._unlock(tmp_path, Nodes(here=True, lost=False))
    assert not lock.exists()
    assert "was left by lost, which is gone" in caplog.text
    working._unlock(tmp_path, Nodes(here=True, lost=False))  # there is none


def kill_when(process, ready, seconds=300.0):
    """Kill a process as soon as something is the case."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_a_driver_that_was_killed_goes_on_and_ends_as_if_nothing_had_happened(tmp_path):
    longer = {**SAC, "changes": {**SMALL_SAC, "updates": 60}}
    grid = write_grid(tmp_path / "grid.toml", longer, evaluate={"episodes": 1})
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = ("--checkpoint-seconds", 0)
    process = start_python(SWEEP, grid, "--out", killed, *options)
    kill_when(process, (killed / "smoke/sac/seed-1" / CHECKPOINT).exists)
    assert (killed / "smoke/sac/seed-0/sweep_evaluation.json").exists()
    assert not (killed / "smoke/sac/seed-1/sweep_evaluation.json").exists()
    assert (killed / "run.lock").exists()
    for out in (killed, whole):
        code, shown, err = run_python(SWEEP, grid, "--out", out, *options)
        assert code == 0, err
        assert "Done: 2 of 2 jobs" in shown
    rows = read_metrics(killed / "smoke/sac/seed-1")
    assert [row["updates"] for row in rows] == list(range(10, 70, 10))
    assert_same_runs([f"smoke/sac/seed-{seed}" for seed in (0, 1)], killed, whole)
