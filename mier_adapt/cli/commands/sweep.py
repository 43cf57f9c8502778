"""``mier-adapt sweep``: a grid of runs, here or on Ray."""

import contextlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from mier_adapt._checks import NonNegative, Positive, Size
from mier_adapt.cli.arguments import File, Imports, Switch, Threads
from mier_adapt.cli.families import register_families
from mier_adapt.cli.signals import stop_signals
from mier_adapt.cli.terminal import Progress, SweepProgress, console_on, say
from mier_adapt.cli.words import UsageError


@dataclass
class Sweep:
    """Run a grid of runs; the same command goes on with what is left.

    Example: mier-adapt sweep grid.toml --out sweeps/mine --jobs 8
    """

    grid: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="GRID.toml")]
    """Presets, methods, seeds, and how their runs adapt."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Directory of the sweep; on a cluster, storage that all nodes share."""
    fast: Switch = False
    """A few updates of each run, to see that it runs."""
    jobs: Annotated[Size | None, tyro.conf.arg(metavar="N")] = None
    """Jobs beside each other on this machine; 1, without Ray, if None."""
    address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Of a Ray cluster: auto, HOST:PORT, ray://HOST:PORT."""
    cpus: Positive = 1.0
    """Cores that Ray gives each job."""
    gpus: NonNegative = 0.0
    """GPUs, or a share of one, that Ray gives each job."""
    runtime_env: File = None
    """Ray's runtime environment for the jobs, as JSON."""
    device: str = "cpu"
    """Where networks live and learn: cpu, cuda."""
    checkpoint_seconds: NonNegative = 120.0
    """Wall-clock seconds between a run's checkpoints."""
    threads: Threads = None
    import_: Imports = ()

    def run(self) -> int:
        """Do what is left, showing progress; 1 if anything failed."""
        import torch

        from mier_adapt._storage.locks import run_lock
        from mier_adapt.cli.grids import read_grid
        from mier_adapt.sweeps.jobs import write_jobs
        from mier_adapt.sweeps.working import Work, work_here

        self._require_fitting()
        jobs = read_grid(self.grid, fast=self.fast)
        work = Work(
            out=self.out.absolute(),
            threads=torch.get_num_threads(),
            device=self.device,
            checkpoint_seconds=self.checkpoint_seconds,
            prepare=partial(register_families, self.import_),
        )
        failed: dict[str, str] = {}
        self.out.mkdir(parents=True, exist_ok=True)
        with run_lock(self.out), stop_signals() as stopped, Progress() as progress:
            write_jobs(jobs, self.out)
            shown = SweepProgress(progress, jobs, self.out)

            def should_stop() -> bool:
                shown.now_and_then()
                return bool(stopped)

            left = [job for job in jobs if not job.done(self.out)]
            with contextlib.ExitStack() as opened:
                if not self._on_ray:
                    outcomes = work_here(left, work, should_stop=should_stop)
                elif left:
                    outcomes = self._ray_outcomes(left, work, should_stop, opened)
                else:
                    outcomes = iter(())
                for job, error in outcomes:
                    shown.ended(job, error)
                    if error is not None:
                        failed[job.name] = error
        if stopped:
            say(f"Stopped; checkpoints are kept. The same command goes on in {self.out}.")
            return 128 + stopped[0]
        for name, error in failed.items():
            console_on("stderr").print(f"{name}: {error}", soft_wrap=True)
        done = sum(job.done(self.out) for job in jobs)
        told = f" {len(failed)} failed; the same command tries them again." if failed else ""
        say(f"Done: {done} of {len(jobs)} jobs in {self.out}.{told}")
        say(f"Figures: mier-adapt figures {self.out}")
        return 1 if failed else 0

    @property
    def _on_ray(self) -> bool:
        return self.address is not None or self.jobs not in (None, 1)

    def _ray_outcomes(self, left: Any, work: Any, should_stop: Any, opened: Any) -> Any:
        """The outcomes of jobs that are done as Ray tasks."""
        from mier_adapt._storage.files import read_json
        from mier_adapt.sweeps.working import ray_cluster, work_on_ray

        environment = read_json(self.runtime_env, {str: object}) if self.runtime_env else {}
        cores = math.ceil((self.jobs or 1) * self.cpus)
        try:
            ray = opened.enter_context(
                ray_cluster(self.address, num_cpus=cores, runtime_env=environment)
            )
        except ImportError as error:
            raise UsageError(f"{error}") from error
        resources = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        return work_on_ray(ray, left, work, resources=resources, should_stop=should_stop)

    def _require_fitting(self) -> None:
        """Check options against each other."""
        if self.jobs is not None and self.address is not None:
            raise UsageError(
                "Expected --jobs or --address: a cluster takes as many jobs as --cpus and --gpus "
                "leave room for."
            )
        if not self._on_ray and (self.gpus or self.cpus != 1 or self.runtime_env):
            raise UsageError(
                "Expected --jobs of at least 2 or --address with --cpus, --gpus and --runtime-env, "
                "which are for Ray."
            )
        if self._on_ray and (self.device != "cpu") != (self.gpus > 0):
            raise UsageError(
                f"Expected --gpus above 0 with --device cuda and only then, got --gpus {self.gpus} "
                f"and --device {self.device}: Ray shows a job no GPU that it was not given."
            )
