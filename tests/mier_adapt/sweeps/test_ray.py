"""Sweeps on Ray: a cluster of two nodes, of which one is lost, and a driver that is killed."""

import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from mier_adapt.cli.grids import read_grid
from mier_adapt.sweeps.jobs import read_jobs, write_jobs
from mier_adapt.sweeps.paper import write_figures
from mier_adapt.sweeps.working import Work, ray_cluster, work_here, work_on_ray

from ..conftest import CHECKPOINT
from ..doubles import REPOSITORY, run_python, start_python
from .grids import SMALL_SAC, assert_same_runs, tiny, write_grid
from .test_sweep import SWEEP, kill_when

pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    # of Ray's own, and of its processes, which are killed here
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RUNS = (
    {"presets": ["smoke"], "seeds": list(range(4)), "changes": tiny(updates=20)},
    {
        "presets": ["smoke"],
        "methods": ["sac"],
        "seeds": list(range(8)),
        "changes": {**SMALL_SAC, "updates": 40},
    },
)


def nothing() -> None:
    """No families of one's own."""


def work_in(out) -> Work:
    return Work(out=out, threads=1, device="cpu", checkpoint_seconds=0.0, prepare=nothing)


def processes_at_work(out) -> dict[str, int]:
    """The process of each run that has taken steps and is not done."""
    found = {}
    for lock in out.glob("smoke/*/*/run.lock"):
        try:
            if (lock.parent / CHECKPOINT).exists():
                found[str(lock.parent.relative_to(out))] = json.loads(lock.read_text())["pid"]
        except (FileNotFoundError, ValueError):
            pass
    return found


@contextlib.contextmanager
def watched(out) -> Iterator[dict[str, set[int]]]:
    """The processes that were ever at each run, as they are seen in the block."""
    seen: dict[str, set[int]] = defaultdict(set)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for name, pid in processes_at_work(out).items():
                seen[name].add(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_a_node_that_is_lost_costs_nothing_but_time(tmp_path):
    """Twelve runs, one of two nodes killed in the middle: as a sweep that nothing happened to."""
    from ray.cluster_utils import Cluster

    jobs = read_grid(write_grid(tmp_path / "grid.toml", *RUNS, evaluate={"episodes": 1}))
    assert len(jobs) == 12
    lost, whole = tmp_path / "lost", tmp_path / "whole"
    for out in (lost, whole):
        out.mkdir()
        write_jobs(jobs, out)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        ended: list[str] = []
        with (
            watched(lost) as seen,
            ray_cluster(cluster.address, num_cpus=0, runtime_env={}) as ray,
        ):
            options = {"resources": {"num_cpus": 1}, "should_stop": lambda: False}
            for job, error in work_on_ray(ray, jobs, work_in(lost), **options):
                assert error is None
                ended.append(job.name)
                if len(ended) == 4:
                    deadline = time.monotonic() + 300
                    while len(processes_at_work(lost)) < 2:
                        assert time.monotonic() < deadline
                        time.sleep(0.01)
                    cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()
    assert sorted(ended) == sorted(job.name for job in jobs)
    (interrupted,) = [name for name, processes in seen.items() if len(processes) > 1]
    assert interrupted not in ended[:4]
    assert all(
        error is None for _, error in work_here(jobs, work_in(whole), should_stop=lambda: False)
    )
    assert_same_runs([job.name for job in jobs], lost, whole)


def test_a_driver_of_ray_that_was_killed_goes_on(tmp_path):
    grid = write_grid(tmp_path / "grid.toml", RUNS[1], evaluate={"episodes": 1})
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    options = ("--checkpoint-seconds", 0)
    process = start_python(SWEEP, grid, "--out", killed, "--jobs", 2, *options)
    kill_when(process, lambda: len(processes_at_work(killed)) == 2)
    assert len(processes_at_work(killed)) == 2
    for out, more in ((killed, ("--jobs", 2)), (whole, ())):
        code, shown, err = run_python(SWEEP, grid, "--out", out, *options, *more, timeout=900)
        assert code == 0, err
        assert "Done: 8 of 8 jobs" in shown
        assert err == "" or "was left by process" in err
    assert_same_runs([f"smoke/sac/seed-{seed}" for seed in range(8)], killed, whole)


def test_a_node_that_does_not_see_the_directory_says_so(tmp_path):
    jobs = read_grid(write_grid(tmp_path / "grid.toml", RUNS[1]))[:1]
    with ray_cluster(None, num_cpus=1, runtime_env={}) as ray:
        options = {"resources": {"num_cpus": 1}, "should_stop": lambda: False}
        ((_, error),) = work_on_ray(ray, jobs, work_in(tmp_path / "elsewhere"), **options)
    assert "Expected --out on storage that all nodes share" in error


def test_the_papers_grid_runs_in_twenty_minutes(tmp_path):
    """Every domain by every method, cut down, and its figures."""
    started = time.monotonic()
    grid, out = REPOSITORY / "examples" / "paper.toml", tmp_path / "paper"
    process = start_python(SWEEP, grid, "--out", out, "--fast", "--jobs", 2)
    shown, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    assert time.monotonic() - started < 1200
    jobs = read_jobs(out)
    assert f"Done: {len(jobs)} of {len(jobs)} jobs" in shown
    told = write_figures(out)
    assert [Path(line.partition(": ")[0]).name for line in told] == [
        f"figure_{number}.png" for number in (2, 4, 5, 6)
    ]
