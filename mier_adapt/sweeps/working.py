"""How jobs are done: one after the other in this process, or as Ray tasks, on many machines."""

import contextlib
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mier_adapt._storage.locks import RunLockedError, holder_of, run_lock, take_away
from mier_adapt.sweeps.jobs import SWEEP_FILE, Job

RETRIES = 10
"""Times that Ray starts a job anew whose node or process was lost; one that fails, it does not."""
_LEFT_SECONDS = 60.0
"""For which a process that was lost may still be at work in a job's directory."""
_EXPECTED = (ValueError, OSError, FloatingPointError)
"""What says by itself what is wrong; of anything else the traceback is told."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all jobs of a sweep have in common, wherever they are done."""

    out: Path
    """The sweep's directory, on storage that all machines share."""
    threads: int
    """Of torch."""
    device: str
    """Where networks live and learn."""
    checkpoint_seconds: float
    """Wall-clock time between checkpoints."""
    prepare: Callable[[], None]
    """Called in each process before its jobs: registers families of one's own."""

    def do(self, job: Job, *, should_stop: Callable[[], bool] = lambda: False) -> str | None:
        """Do what is left of a job; what went wrong, or None."""
        deadline = time.monotonic() + _LEFT_SECONDS
        while True:
            try:
                job.work(
                    self.out,
                    device=self.device,
                    checkpoint_seconds=self.checkpoint_seconds,
                    should_stop=should_stop,
                )
            except RunLockedError as error:
                if time.monotonic() < deadline and not should_stop():
                    time.sleep(1.0)
                    continue
                return str(error)
            except _EXPECTED as error:
                return str(error)
            except Exception:  # the other jobs go on
                return traceback.format_exc()
            return None


def work_here(
    jobs: Sequence[Job], work: Work, *, should_stop: Callable[[], bool]
) -> Iterator[tuple[Job, str | None]]:
    """Do jobs one after the other; each as it ends, with what went wrong, if anything did.

    Args:
        jobs: Those that are left, each after those that it needs.
        work: What they have in common.
        should_stop: Asked often; True ends with the job that is at work, which saves what it has.
    """
    failed: set[str] = set()
    for job in jobs:
        error = _not_started(job.run_name) if job.run_name in failed else None
        error = error or work.do(job, should_stop=should_stop)
        if should_stop():
            return
        if error is not None:
            failed.add(job.name)
        yield job, error


@contextlib.contextmanager
def ray_cluster(
    address: str | None, *, num_cpus: int, runtime_env: Mapping[str, Any]
) -> Iterator[Any]:
    """Ray, connected to a cluster, or with one of this machine for as long as the block lasts.

    Args:
        address: Of a cluster; None for one of this machine.
        num_cpus: Of that one.
        runtime_env: Ray's, for the workers.

    Raises:
        ImportError: If Ray is not installed.
        ConnectionError: If there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "Ray is not installed, which jobs beside each other need: "
            "pip install 'mier-adapt[ray]', or leave --jobs and --address out."
        ) from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is ours alone
        options |= {"num_cpus": num_cpus, "include_dashboard": False}
    ray.init(address or "local", runtime_env=dict(runtime_env), **options)
    try:
        yield ray
    finally:
        ray.shutdown()


def work_on_ray(
    ray: Any,
    jobs: Sequence[Job],
    work: Work,
    *,
    resources: Mapping[str, float],
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Job, str | None]]:
    """Do jobs as Ray tasks; each as it ends, with what went wrong, if anything did.

    Ray places them where their resources are free, starts those again that were lost with a node,
    and begins what needs a run when that is done.

    Args:
        ray: The module, connected.
        jobs: Those that are left, each after those that it needs.
        work: What they have in common.
        resources: Of each job: ``num_cpus``, ``num_gpus``, and ``memory`` in bytes.
        should_stop: Asked twice a second; True leaves them, with their last checkpoints.
    """
    task = ray.remote(_do_on_a_node)
    runs: dict[str, Any] = {}
    pending: dict[Any, Job] = {}
    for job in jobs:
        options = {**resources, "max_retries": RETRIES, "name": job.name}
        result = task.options(**options).remote(job, work, runs.get(job.run_name))
        runs[job.name] = result
        pending[result] = job
    while pending and not should_stop():
        ready, _ = ray.wait(list(pending), timeout=0.5)
        for result in ready:
            job = pending.pop(result)
            try:
                error = ray.get(result)
            except ray.exceptions.RayError as lost:  # more often than it is retried
                error = f"{type(lost).__name__}: {lost}"
            yield job, error


def _do_on_a_node(job: Job, work: Work, run_failed: str | None) -> str | None:
    """A Ray task.

    Args:
        job: To be done.
        work: What jobs have in common.
        run_failed: What went wrong with the run that it needs, if anything did.
    """
    if run_failed is not None:
        return _not_started(job.run_name)
    if not (work.out / SWEEP_FILE).is_file():
        return (
            f"{socket.gethostname()} does not see {work.out / SWEEP_FILE}. Expected --out on "
            "storage that all nodes share, at the same path."
        )
    torch.set_num_threads(work.threads)
    work.prepare()
    import ray

    _unlock(work.out / job.name, ray)
    return work.do(job)


def _unlock(directory: Path, ray: Any) -> None:
    """Take away a lock that a lost node left, of which no process of another node can tell.

    Ray can: a node that is dead holds nothing, and one that lives looks for itself.
    """
    host = holder_of(directory)
    if host is None or host == socket.gethostname():
        return
    nodes = [node for node in ray.nodes() if node["NodeManagerHostname"] == host]
    living = [node["NodeID"] for node in nodes if node["Alive"]]
    if living:
        there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(living[0], soft=False)
        look = ray.remote(_take_over).options(num_cpus=0, scheduling_strategy=there)
        ray.get(look.remote(directory))
    elif nodes:
        take_away(directory, host)


def _take_over(directory: Path) -> None:
    """A Ray task on the node of a lock: nothing where its process lives."""
    with contextlib.suppress(RunLockedError), run_lock(directory):
        pass


def _not_started(run: str) -> str:
    return f"Not started: it needs {run}, which failed."
