"""The ``mier-adapt`` command."""

import contextlib
import dataclasses
import inspect
import itertools
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.table import Table

import mier_adapt_envs
from mier_adapt.cli.families import register_families
from mier_adapt.cli.tables import (
    cards_table,
    comparison_table,
    evaluation_line,
    evaluation_table,
    status_line,
)
from mier_adapt.cli.terminal import Progress, SweepProgress, console, console_on, say
from mier_adapt.cli.words import UsageError, in_shell_words, require_known

_Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
_Imports = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(name="import", metavar="NAME", help="A module, imported first: of your family."),
]
_Threads = Annotated[
    int | None,
    tyro.conf.arg(metavar="N", help="Of torch: OMP_NUM_THREADS or 1 if None."),
]

METHODS = ("mier", "grbal", "maml", "mql", "pearl", "promp", "random", "rl2", "sac")
"""Ways to meta-train, ours first."""
OPTIONS_FILE = "config.toml"
"""What ``adapt`` used, beside its reports."""
_HEADING = "Configuration: --NAME VALUE. --dry-run shows their values, and what they mean."
_QUICKSTART_RUN = "halfcheetah-negated-joints"


@dataclass
class Quickstart:
    """Adapt a pretrained policy to a task that it never saw.

    Example: mier-adapt quickstart --task 14
    """

    task: int = 12
    """Task from 10 to 19: `mier-adapt tasks HalfCheetahNegatedJoints`."""
    seed: int = 0
    """Fixes the adaptation."""
    episodes: int = 4
    """Deterministic evaluation episodes after each stage."""
    out: Path = Path("quickstart")
    """Directory for the report as JSON, the figure and the film."""
    threads: _Threads = None
    import_: _Imports = ()

    def run(self) -> int:
        """Adapt, print the report, and film both policies if this machine can draw."""
        from mier_adapt.agents.environments import FamilyEnvs
        from mier_adapt.agents.films import film_side_by_side, find_gl_backend
        from mier_adapt.agents.run import load_run

        run = load_run(_QUICKSTART_RUN)
        tasks = run.task_set
        first = len(tasks.meta_train)
        _require_task(self.task, range(first, len(tasks)), tasks.family)
        with FamilyEnvs(tasks) as envs:
            new = {f"task-{self.task}": run.new_task(envs, tasks[self.task])}
            (adaptation,) = _adapt_to_each(
                run,
                new,
                run.adapt_config,
                seeds=(self.seed,),
                out=self.out,
                episodes=self.episodes,
            )
        film = self.out / f"task-{self.task}-seed-{self.seed}.gif"
        actors = {"before": run.initial_actor(1), "after": adaptation.actor}
        try:
            os.environ["MUJOCO_GL"] = find_gl_backend()
        except RuntimeError as error:
            say(f"No film: {error}.")
        else:
            with Progress() as progress:
                progress.show("quickstart", "filming both policies")
                film_side_by_side(
                    tasks.env_id,
                    tasks[self.task],
                    actors,
                    film,
                    seed=self.seed,
                    episode_steps=run.config.episode_steps,
                )
            say(f"Film, before and after: {film}")
        say(f"Report and figure: {self.out}")
        return 0


@dataclass
class MetaTrain:
    """Meta-train; the same command resumes an interrupted run.

    Example: mier-adapt meta-train smoke --out runs/smoke
    """

    preset: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")] = None
    """A wrong name lists them. Or use --family."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = dataclasses.field(kw_only=True)
    """Directory of the run."""
    method: Annotated[str, tyro.conf.arg(metavar="NAME")] = METHODS[0]
    """mier, grbal, maml, mql, pearl, promp, random, rl2 or sac."""
    seed: int = 0
    """Fixes the run, with which it is also resumed."""
    device: str = "cpu"
    """Where networks live and learn: cpu, cuda."""
    checkpoint_seconds: float = 120.0
    """Wall-clock seconds between checkpoints."""
    log: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where else measurements go."""
    threads: _Threads = None
    import_: _Imports = ()
    config: _File = None
    """Configuration from a TOML file."""
    dry_run: _Switch = False
    """Print the configuration, and stop."""

    @staticmethod
    def options(words: Sequence[str] = ()) -> Any:
        """What else is an option with these words, as :class:`.options.Options`."""
        from mier_adapt.agents.configs import AdaptConfig, MetaTrainConfig
        from mier_adapt.baselines import BASELINES
        from mier_adapt.cli.options import Options

        if (method := _method_in(words)) in BASELINES:
            return Options({"": BASELINES[method].run_file.config_class})
        return Options({"": MetaTrainConfig, "adapt": AdaptConfig})

    def run(self, options: Any, given: dict[str, Any]) -> int:
        """Train, showing progress."""
        from mier_adapt.agents.configs import merged
        from mier_adapt.integration.logging import import_wandb
        from mier_adapt.sweeps.methods import training

        asked = merged(options.read(self.config) if self.config else {}, given)
        with options.errors(given, self.config):
            values = merged(self._usual(asked), asked)
            _require_family(values["family"])
            resolved, total, train = training(self.method, values, device=self.device)
        if self.dry_run:
            say(options.to_toml(resolved))
            return 0
        if self.log == "wandb":
            try:
                import_wandb()
            except ImportError as error:
                raise UsageError(f"{error}") from error
        with Progress() as progress, _stop_signals() as stopped:
            name = self.preset or resolved["family"]
            progress.show(name, "collecting first data", 0.0)
            shown: dict[str, Any] = {}
            first: tuple[int, float] | None = None

            def show(trainer: Any, row: dict[str, Any] | None) -> None:
                nonlocal first
                steps = getattr(trainer, "pretrain_steps", 0) + trainer.updates
                first = first or (steps, trainer.seconds)
                if row is not None:
                    shown.update(row)
                    if "return_adapted" in row:
                        progress.print(evaluation_line(row))
                begins = steps == first[0] or trainer.updates == 1
                if begins or steps % 20 == 0 or row is not None:
                    rate = (steps - first[0]) / max(trainer.seconds - first[1], 1e-9)
                    stage = "meta-training" if trainer.updates else "pre-training the model"
                    progress.show(name, stage, steps / total, status_line(trainer, shown, rate))

            finished = train(
                self.out,
                seed=self.seed,
                checkpoint_seconds=self.checkpoint_seconds,
                log=self.log,
                should_stop=lambda: bool(stopped),
                on_step=show,
            )
        if not finished:
            say(f"Stopped; checkpoint saved. The same command goes on in {self.out}.")
            return 128 + stopped[0]
        say(f"Finished: {self.out} (learning curve: {self.out / 'learning_curve.png'})")
        return 0

    def _usual(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What holds for all that is not asked for: a preset's, or what our presets share."""
        from mier_adapt.agents.presets import family_preset
        from mier_adapt.sweeps.methods import presets_of, usual_settings

        if self.preset is not None:
            kind = "preset" if self.method == METHODS[0] else f"preset of {self.method}"
            require_known(kind, self.preset, presets_of(self.method))
            return usual_settings(self.method, self.preset)
        if "family" not in asked:
            raise UsageError("Expected a PRESET, or --family NAME, or a --config with a family.")
        family = asked["family"]
        _require_family(family)
        default = mier_adapt_envs.task_sets(family)[0]
        found = family_preset(family, asked.get("task_set", default))
        return usual_settings(self.method, found)


@dataclass
class Adapt:
    """Adapt a run to new tasks; show what each stage achieved.

    Example: mier-adapt adapt runs/smoke --task 12 15
    """

    run_directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run directory, or a pretrained run's name."""
    task: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Tasks by index, see `mier-adapt tasks FAMILY`."""
    all_ood: _Switch = False
    """All meta-test tasks."""
    seed: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (0,)
    """One adaptation of each task for each seed."""
    compare: _Switch = False
    """Run all stages, also those not needed."""
    budget: int = 0
    """Further real transitions, to go on adapting."""
    episodes: int = 4
    """Evaluation episodes after each stage."""
    device: str = "cpu"
    """Where networks live and learn: cpu, cuda."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """For files; RUN/adapt if None."""
    threads: _Threads = None
    import_: _Imports = ()
    config: _File = None
    """Configuration from a TOML file."""
    dry_run: _Switch = False
    """Print the configuration, and stop."""

    @staticmethod
    def options(words: Sequence[str] = ()) -> Any:
        """What else is an option, as :class:`.options.Options`."""
        from mier_adapt.agents.configs import AdaptConfig, ContinueConfig
        from mier_adapt.cli.options import Options

        return Options(
            {"": AdaptConfig, "rounds": ContinueConfig}, aliases={"adaptation-steps": "transitions"}
        )

    def run(self, options: Any, given: dict[str, Any]) -> int:
        """Adapt to each task in turn."""
        from mier_adapt._storage.files import replace_text, require_no_link
        from mier_adapt.adaptation.comparison import with_all_stages
        from mier_adapt.adaptation.sweep import write_comparison
        from mier_adapt.agents.configs import AdaptConfig, ContinueConfig, merged
        from mier_adapt.agents.environments import FamilyEnvs
        from mier_adapt.agents.run import find_run, load_run, read_run_file

        directory = find_run(self.run_directory)
        trained, usual, _, _ = read_run_file(directory)
        asked = merged(options.read(self.config) if self.config else {}, given)
        with options.errors(given, self.config):
            rounds = ContinueConfig(**asked.pop("rounds", {}))
            config = AdaptConfig.from_dict(merged(usual.to_dict(), asked))
        if self.compare:
            config = with_all_stages(config)
        resolved = options.to_toml({**config.to_dict(), "rounds": dataclasses.asdict(rounds)})
        if self.dry_run:
            say(resolved)
            return 0
        if "rounds" in given and not self.budget:
            raise UsageError("Expected --budget N with --rounds, which say how it is spent.")
        if 0 < self.budget < trained.episode_steps:
            raise UsageError(
                f"Expected --budget of at least an episode, {trained.episode_steps} transitions, "
                f"got {self.budget}."
            )
        tasks = mier_adapt_envs.task_set(trained.family, trained.task_set)
        if bool(self.task) == self.all_ood or not self.seed:
            raise UsageError("Expected --task INDEX ... or --all-ood, and at least one --seed.")
        first = len(tasks.meta_train)
        indices = tuple(range(first, len(tasks))) if self.all_ood else self.task
        for index in indices:
            _require_task(index, range(len(tasks)), trained.family)
        out = self.out or self.run_directory / "adapt"
        if self.out is None:
            require_no_link(out)
        with FamilyEnvs(tasks) as envs:
            run = load_run(directory, envs, device=self.device)
            out.mkdir(parents=True, exist_ok=True)
            replace_text(out / OPTIONS_FILE, resolved)
            adaptations = _adapt_to_each(
                run,
                {f"task-{index}": run.new_task(envs, tasks[index]) for index in indices},
                config,
                seeds=self.seed,
                out=out,
                episodes=self.episodes,
                budget=self.budget,
                rounds=rounds,
            )
        if self.episodes and (self.compare or len(adaptations) > 1):
            console.print(comparison_table(write_comparison(adaptations, out)))
        say(f"Reports and figures: {out}")
        return 0


@dataclass
class Play:
    """Let an adapted policy act in its task, and film it.

    Example: mier-adapt play policy.safetensors --film it.gif
    """

    policy: Annotated[Path, tyro.conf.Positional]
    """What `mier-adapt adapt`, `quickstart` or `Adaptation.save` wrote."""
    episodes: int = 4
    """Deterministic episodes."""
    seed: int = 0
    """Fixes their starts."""
    film: Path | None = None
    """Film of the first episode to write: .gif."""
    threads: _Threads = None
    import_: _Imports = ()

    def run(self) -> int:
        """Act, and print the returns."""
        from mier_adapt.adapted_policy import AdaptedPolicy
        from mier_adapt.agents.films import find_gl_backend, play

        policy = AdaptedPolicy.load(self.policy)
        made = policy.about.get("environment")
        if self.episodes < 1:
            raise UsageError(f"Expected --episodes of at least 1, got {self.episodes}.")
        if not isinstance(made, dict):
            raise UsageError(
                f"{self.policy} does not say what makes its environment, which was not made by "
                "gymnasium.make with plain values alone. Step it yourself: AdaptedPolicy.load(path)"
                ".predict(obs)."
            )
        if self.film is not None:
            try:
                os.environ["MUJOCO_GL"] = find_gl_backend()
            except RuntimeError as error:
                raise UsageError(f"No film: {error}. Leave --film out.") from error
        returns = play(policy, made, episodes=self.episodes, seed=self.seed, film=self.film)
        told = f"{np.mean(returns):.0f} ± {np.std(returns):.0f}"
        say(f"{policy.about.get('task', made['id'])}: return {told} in {len(returns)} episode(s)")
        if self.film is not None:
            say(f"Film: {self.film}")
        return 0


@dataclass
class Evaluate:
    """Measure a run's tasks before and after adaptation.

    Example: mier-adapt evaluate runs/smoke --seeds 3
    """

    run_directory: Annotated[Path, tyro.conf.Positional]
    """A run directory, or the name of a pretrained run."""
    split: Literal["train", "test", "all"] = "all"
    """Which tasks."""
    episodes: int = 4
    """Deterministic evaluation episodes for each task and context."""
    seeds: int = 1
    """Adaptation seeds 0, 1, ...: each gathers its own transitions."""
    context_steps: int | None = None
    """Context steps; as many as in meta-training if not given."""
    device: str = "cpu"
    """Where networks live: cpu, cuda."""
    threads: _Threads = None
    import_: _Imports = ()

    def run(self) -> int:
        """Evaluate and print a table."""
        from mier_adapt._storage.files import replace_text
        from mier_adapt.agents.pretrained import EVALUATION_FILE
        from mier_adapt.agents.run import find_run, method_of_run
        from mier_adapt.sweeps.methods import config_of, evaluate_run, tasks_of

        directory = find_run(self.run_directory)
        if (method := method_of_run(directory)) != METHODS[0] and self.context_steps is not None:
            raise UsageError(
                f"Expected no --context-steps for {directory}, a run of {method}, which takes "
                "no steps on a context."
            )
        config = config_of(directory)
        tasks = tasks_of(config)
        splits = {
            name: split
            for name, split in (("train", tasks.meta_train), ("test", tasks.meta_test))
            if split and self.split in (name, "all")
        }
        if not splits:
            raise UsageError(
                f"Expected --split train or all, got {self.split}: {directory} is of "
                f"one task, {tasks[0]}, that it was trained on."
            )
        with Progress() as progress:
            record = evaluate_run(
                directory,
                splits,
                seeds=self.seeds,
                episodes=self.episodes,
                device=self.device,
                context_steps=self.context_steps,
                on_stage=lambda stage, done: progress.show("evaluate", stage, done),
            )
        self.run_directory.mkdir(parents=True, exist_ok=True)
        path = self.run_directory / EVALUATION_FILE
        replace_text(path, json.dumps(record, indent=2) + "\n")
        first = getattr(config, "task", None) or 0
        console.print(
            evaluation_table(record, first={"train": first, "test": len(tasks.meta_train)})
        )
        for split, count in record["identified"].items():
            if count is not None:
                say(f"Own context predicts best: {count} of {len(splits[split])} {split} tasks")
        say(f"Figures: {path}")
        return 0


@dataclass
class Plot:
    """Draw runs: learning curves, or the return of each task.

    Example: mier-adapt plot runs/smoke --out it.png
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Directories, or names of pretrained runs, of any methods; seeds of one are one curve."""
    out: Path
    """Picture to write: .png, .pdf or .svg."""
    kind: Literal["learning", "tasks"] = "learning"
    """Returns over meta-training, or by task as `mier-adapt evaluate` measured them."""
    over: Literal["steps", "time"] = "steps"
    """What the former run over: environment steps, or the time that training took."""
    import_: _Imports = ()

    def run(self) -> int:
        """Draw, and say where."""
        from mier_adapt.agents.pretrained import read_evaluation
        from mier_adapt.agents.run import find_run
        from mier_adapt.cli.runs import group_by_configuration
        from mier_adapt.figures import plot_learning_curves, plot_task_returns
        from mier_adapt.training.metrics import read_metrics

        labelled = group_by_configuration(self.runs)
        if self.kind == "learning":
            plot_learning_curves(
                {
                    label: [read_metrics(find_run(run)) for run in runs]
                    for label, (_, runs) in labelled.items()
                },
                self.out,
                over=self.over,
            )
        elif self.over == "time":
            raise ValueError("--over time is of --kind learning: returns by task have no time.")
        else:
            families = sorted({config.family for config, _ in labelled.values()})
            plot_task_returns(
                {
                    label: [read_evaluation(run) for run in runs]
                    for label, (_, runs) in labelled.items()
                },
                self.out,
                family=", ".join(families),
            )
        say(f"Figure: {self.out}")
        return 0


@dataclass
class Sweep:
    """Run a grid of runs; the same command goes on with what is left.

    Example: mier-adapt sweep grid.toml --out sweeps/mine --jobs 8
    """

    grid: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="GRID.toml")]
    """Presets, methods, seeds, and how their runs adapt."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Directory of the sweep; on a cluster, storage that all nodes share."""
    fast: _Switch = False
    """A few updates of each run, to see that it runs."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Jobs beside each other on this machine; 1, without Ray, if None."""
    address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Of a Ray cluster: auto, HOST:PORT, ray://HOST:PORT."""
    cpus: float = 1.0
    """Cores that Ray gives each job."""
    gpus: float = 0.0
    """GPUs, or a share of one, that Ray gives each job."""
    runtime_env: _File = None
    """Ray's runtime environment for the jobs, as JSON."""
    device: str = "cpu"
    """Where networks live and learn: cpu, cuda."""
    checkpoint_seconds: float = 120.0
    """Wall-clock seconds between a run's checkpoints."""
    threads: _Threads = None
    import_: _Imports = ()

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
        with run_lock(self.out), _stop_signals() as stopped, Progress() as progress:
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
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"Expected --jobs of at least 1, got {self.jobs}.")
        if self.cpus <= 0 or self.gpus < 0:
            raise UsageError(
                "Expected --cpus above 0 and --gpus of at least 0, got "
                f"{self.cpus} and {self.gpus}."
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


@dataclass
class Figures:
    """Draw the paper's figures of a sweep, as PNG and CSV.

    Example: mier-adapt figures sweeps/mine
    """

    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """What `mier-adapt sweep --out` was given, or a folder with its tables; they go to
    DIR/figures."""
    import_: _Imports = ()

    def run(self) -> int:
        """Draw, and say where and what is missing; 1 if there was nothing to draw."""
        from mier_adapt.sweeps.paper import write_figures

        written = write_figures(self.sweep)
        for line in written:
            say(line)
        return 0 if any(".png: " in line for line in written) else 1


@dataclass
class Export:
    """Make a small copy of a run, with a card of its returns.

    Example: mier-adapt export runs/smoke --name mine --out mine
    """

    run_directory: Annotated[Path, tyro.conf.Positional]
    """What `mier-adapt meta-train --out` was given."""
    name: str
    """The run's name on its card."""
    out: Path
    """Where it goes."""
    command: str | None = None
    """What made the run, if not a preset."""
    commit: str | None = None
    """Of the code that made it, if not this checkout's."""
    machine: str | None = None
    """Where it was made, if not here."""
    max_megabytes: float = 4.0
    """Experience is taken up to this size."""
    episodes: int = 4
    """Deterministic evaluation episodes for each task and context."""
    seeds: int = 3
    """Adaptation seeds of the evaluation."""
    device: str = "cpu"
    """Where networks live while they are evaluated: cpu, cuda."""
    threads: _Threads = None
    import_: _Imports = ()

    def run(self) -> int:
        """Export, and print the card's returns."""
        from mier_adapt.agents.pretrained import export_run

        with Progress() as progress:
            card = export_run(
                self.run_directory,
                self.out,
                name=self.name,
                command=self.command,
                commit=self.commit,
                machine=self.machine,
                max_megabytes=self.max_megabytes,
                seeds=self.seeds,
                episodes=self.episodes,
                device=self.device,
                on_stage=lambda stage: progress.show("export", stage),
            )
        console.print(cards_table([card]))
        say(f"Exported: {self.out}")
        return 0


@dataclass
class Pretrained:
    """List the pretrained runs, or print the card of one.

    Example: mier-adapt pretrained halfcheetah-negated-joints
    """

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Run whose card to print; all runs if not given."""
    import_: _Imports = ()

    def run(self) -> int:
        """Print a table or a card."""
        from mier_adapt.agents.pretrained import read_card
        from mier_adapt.agents.run import pretrained_names

        if self.name is not None:
            console.print_json(data=read_card(self.name))
        else:
            console.print(cards_table([read_card(name) for name in pretrained_names()]))
        return 0


@dataclass
class Tasks:
    """List families, or one family's task sets and tasks.

    Example: mier-adapt tasks HalfCheetahVel --set hard
    """

    family: Annotated[str | None, tyro.conf.Positional] = None
    """Family whose tasks to list; all families if not given."""
    set: str | None = None
    """Task set; the family's default one if not given."""
    import_: _Imports = ()

    def run(self) -> int:
        """Print a table."""
        if self.family is None:
            table = Table(
                "family", "varies", "task sets", caption="IDs: MIER/<family>-v0, or as said"
            )
            for family in mier_adapt_envs.families():
                env_id = mier_adapt_envs.env_class(family).env_id
                table.add_row(
                    family if env_id == f"MIER/{family}-v0" else f"{family}: {env_id}",
                    mier_adapt_envs.env_class(family).varies.replace("_", " "),
                    ", ".join(mier_adapt_envs.task_sets(family)),
                )
            console.print(table)
            return 0
        _require_family(self.family)
        tasks = mier_adapt_envs.task_set(self.family, self.set)
        table = Table(
            "index", "split", "task", title=f"{self.family} {tasks.name}, hash {tasks.hash[:16]}"
        )
        for index, task in enumerate(tasks):
            split = "meta-train" if index < len(tasks.meta_train) else "meta-test"
            table.add_row(str(index), split, str(task))
        console.print(table)
        return 0


@dataclass
class Doctor:
    """Test the installation, and say what would be slow.

    Example: mier-adapt doctor --out runs
    """

    out: Path | None = None
    """Where runs are to go, to test that disk; the temporary directory if not given."""
    import_: _Imports = ()

    def run(self) -> int:
        """Look, and print; 1 if something that the library needs does not work."""
        from mier_adapt.doctor import diagnose

        with console.status("loading") as status:
            diagnosis = diagnose(self.out, on_check=lambda name: status.update(f"testing: {name}"))
        table = Table("part", "found", show_header=False, box=None)
        for name, value in (*diagnosis.versions.items(), *diagnosis.machine.items()):
            table.add_row(name, value)
        console.print(table)
        table = Table("check", "", "result")
        for check in diagnosis.checks:
            failed = "failed" if check.required else "not here"
            table.add_row(check.name, "passed" if check.passed else failed, check.result)
        console.print(table)
        for line in diagnosis.slow or ("Nothing here would be slow.",):
            say(line)
        return 0 if diagnosis.healthy else 1


_COMMANDS: dict[str, Any] = {
    "quickstart": Quickstart,
    "meta-train": MetaTrain,
    "adapt": Adapt,
    "play": Play,
    "evaluate": Evaluate,
    "plot": Plot,
    "sweep": Sweep,
    "figures": Figures,
    "export": Export,
    "pretrained": Pretrained,
    "tasks": Tasks,
    "doctor": Doctor,
}


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    names: dict[str, str] = {}
    try:
        if arguments[:1] == ["--version"]:
            say(_versions())
            sys.exit(0)
        if not arguments or arguments[0].startswith("-"):
            tyro.extras.subcommand_cli_from_dict(
                _COMMANDS,
                prog="mier-adapt",
                description="Meta-train policies and adapt them to changed tasks. "
                "See also --version.",
            )
        name, *words = arguments
        require_known("subcommand", name, _COMMANDS)
        kind = _COMMANDS[name]
        names |= {each.name: _option(each.name) for each in dataclasses.fields(kind)}
        options = kind.options(words) if hasattr(kind, "options") else None
        _require_known_words(name, words, options.words if options else ())
        told, given = inspect.cleandoc(kind.__doc__), {}
        if options:
            names |= options.names
            told += f"\n\n{_HEADING}\n{options.listed()}"
            given, words = options.parse(words)
        command = tyro.cli(kind, prog=f"mier-adapt {name}", description=told, args=words)
        register_families(command.import_)
        with _threads_of_torch(command):
            sys.exit(command.run(options, given) if options else command.run())
    except (ValueError, OSError, FloatingPointError) as error:
        # What the user can act on; anything else is a fault of ours and keeps its traceback.
        told = str(error) if isinstance(error, UsageError) else in_shell_words(str(error), names)
        console_on("stderr").print(f"mier-adapt: {told}", soft_wrap=True)
        sys.exit(1)


def _versions() -> str:
    """Of this library and of those that a run's figures depend on, in a line."""
    from mier_adapt._storage.checkpoints import library_versions

    ours, *others = (f"{name} {version}" for name, version in library_versions().items())
    return f"{ours} ({', '.join(others)})"


@contextmanager
def _threads_of_torch(command: Any) -> Iterator[None]:
    """As many of torch's threads as a command is to compute on.

    Its networks are small, so that more threads than free cores wait for each other: one, unless
    someone says otherwise. Last bits depend on the number, and a run goes on with its own.
    """
    if not hasattr(command, "threads"):
        yield
        return
    import torch

    from mier_adapt.agents.run import MOST_THREADS, recorded_threads

    wanted = command.threads
    if wanted is None and isinstance(command, MetaTrain):
        wanted = recorded_threads(command.out)
    before = torch.get_num_threads()
    if wanted is None:
        wanted = before if "OMP_NUM_THREADS" in os.environ else 1
    if not 1 <= wanted <= MOST_THREADS:
        raise UsageError(f"Expected --threads from 1 to {MOST_THREADS}, got {wanted}.")
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _option(name: str) -> str:
    """A field's option."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _method_in(words: Sequence[str]) -> str:
    """Which method a command's words name, ours if none.

    Raises:
        UsageError: If there is no such method.
    """
    named = METHODS[0]
    for word, following in itertools.pairwise((*words, "")):
        option, equals, value = word.partition("=")
        if option == "--method":
            named = value if equals else following
    require_known("method", named, METHODS)
    return named


def _require_known_words(name: str, words: Sequence[str], more: Sequence[str]) -> None:
    """Check a subcommand's options. Tyro would list candidates of all subcommands, or none."""
    known = [*("-h", "--help"), *more]
    known += [_option(field.name) for field in dataclasses.fields(_COMMANDS[name])]
    told = f"option of {name}"
    if "--method" in known and (method := _method_in(words)) != METHODS[0]:
        told += f" --method {method}"
    for word in words:
        if word.startswith("--"):
            require_known(told, word.partition("=")[0].replace("_", "-"), known)


def _require_family(family: Any) -> None:
    try:
        require_known("family", str(family), mier_adapt_envs.families())
    except UsageError as error:
        raise UsageError(
            f"{error} One of your own: --import the module that registers it."
        ) from error


def _require_task(index: int, known: range, family: str) -> None:
    if index not in known:
        raise UsageError(
            f"Expected --task from {known[0]} to {known[-1]}, got {index}. "
            f"`mier-adapt tasks {family}` lists them."
        )


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that gets the number of the first SIGINT or SIGTERM; a second SIGINT kills."""
    received: list[int] = []

    def remember(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _adapt_to_each(
    agent: Any,
    tasks: dict[str, Any],
    config: Any,
    *,
    seeds: Any,
    out: Path,
    episodes: int,
    budget: int = 0,
    rounds: Any = None,
) -> Any:
    """Adapt to each task with each seed, showing progress; print the reports as they come."""
    from mier_adapt.adaptation.sweep import adapt_to_each

    with Progress() as progress:

        def show(name: str, seed: int, stage: str, done: float) -> None:
            progress.show(f"{name}, seed {seed}", stage, done)

        def print_report(name: str, seed: int, adaptation: Any) -> None:
            report = adaptation.report
            show(name, seed, f"kept {report.decision}", 1.0)
            progress.print(f"{name}: {report}\n")

        return adapt_to_each(
            agent,
            tasks,
            config,
            seeds=seeds,
            out=out,
            evaluation_episodes=episodes,
            budget=budget,
            rounds=rounds,
            on_stage=show,
            on_adapted=print_report,
        )
