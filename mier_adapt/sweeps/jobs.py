"""Jobs: runs, and adaptations of runs. What lies in a job's directory says how far it is."""

import contextlib
import dataclasses
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mier_adapt._storage.files import CheckpointError, read_json, replace_text, require_kinds
from mier_adapt._storage.locks import LOCK_FILE, run_lock
from mier_adapt.adaptation.sweep import adapt_to_each
from mier_adapt.agents.configs import AdaptConfig, ContinueConfig
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.pretrained import EVALUATION, SWEEP_EVALUATION_FILE
from mier_adapt.agents.run import load_run
from mier_adapt.sweeps.methods import DIFFICULTY, config_of, evaluate_run, harder_tasks
from mier_adapt.sweeps.methods import training as training_of
from mier_adapt.training.metrics import read_metrics

SWEEP_FILE = "sweep.json"
"""What a sweep consists of, in its directory. What of it is done, the jobs' directories say."""

ORACLE = "oracle"
"""What directories and results call runs on one task alone."""

NAME = r"\w[\w.+-]{0,63}"
"""What may be the name of a directory within a sweep's."""
_REPORT = {"task": str, "decision": str, "returns": {str: [float]}, "continued": [{str: object}]}
"""What is read of an adaptation's report."""


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """A piece of a sweep. It goes on where an earlier process left it."""

    plain: ClassVar[dict[str, Any]] = {
        **{"preset": str, "method": str, "seed": int, "episodes": int},
        "settings": {str: object},
    }
    """What a file has to say of one, as :func:`.require_kinds` takes it."""

    preset: str
    """Whose tasks and settings it has."""
    method: str
    """How its run is meta-trained."""
    seed: int
    """Of the run."""
    settings: dict[str, Any]
    """By field, whole."""
    episodes: int
    """Deterministic episodes of each evaluation."""

    @property
    def run_name(self) -> str:
        """Its run's name, and directory within the sweep's."""
        return f"{self.preset}/{self.method}/seed-{self.seed}"

    @property
    @abstractmethod
    def name(self) -> str:
        """Its own name, and directory within the sweep's."""

    @abstractmethod
    def done(self, out: Path) -> bool:
        """Whether all that it gives is in the sweep's directory."""

    @abstractmethod
    def state(self, out: Path) -> tuple[float, str]:
        """Which share of it is done, from 0 to 1, and how it stands in words."""

    @abstractmethod
    def work(
        self, out: Path, *, device: str, checkpoint_seconds: float, should_stop: Callable[[], bool]
    ) -> bool:
        """Do what is left of it; whether nothing is left.

        Args:
            out: The sweep's directory.
            device: Where networks live and learn.
            checkpoint_seconds: Wall-clock time between checkpoints.
            should_stop: Asked often; True leaves, and loses as little as it can.
        """

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        kind = next(name for name, each in _KINDS.items() if each is type(self))
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"kind": kind, **values}


@dataclass(frozen=True, kw_only=True)
class Training(Job):
    """A run: meta-trained, and evaluated on its family's tasks."""

    plain: ClassVar = {
        **{**Job.plain, "settings": {"updates": int}},
        **{"evaluation_seeds": int, "evaluation_tasks": (int, type(None))},
    }

    evaluation_seeds: int
    """Adaptation seeds of the evaluation."""
    evaluation_tasks: int | None
    """Of each split as many, from the first; None is all."""

    @property
    def name(self) -> str:
        """As its run."""
        return self.run_name

    def done(self, out: Path) -> bool:
        """The evaluation is its last part."""
        return (out / self.name / SWEEP_EVALUATION_FILE).is_file()

    def state(self, out: Path) -> tuple[float, str]:
        """By the updates that it measured last."""
        total, rows = self.settings["updates"], read_metrics(out / self.name)
        updates = rows[-1]["updates"] if rows else 0
        told = f"{updates:,} of {total:,} updates"
        returned = [row["return_adapted"] for row in rows if "return_adapted" in row]
        if returned:
            told += f", return {returned[-1]:.0f}"
        return (1.0 if self.done(out) else min(0.99, updates / total)), told

    def work(
        self, out: Path, *, device: str, checkpoint_seconds: float, should_stop: Callable[[], bool]
    ) -> bool:
        """Meta-train, and evaluate."""
        directory = out / self.name
        _, _, train = training_of(self.method, self.settings, device=device)
        if not train(
            directory,
            seed=self.seed,
            checkpoint_seconds=checkpoint_seconds,
            should_stop=should_stop,
        ):
            return False
        tasks = config_of(directory).tasks
        splits = {
            "train": tasks.meta_train,
            "test": tasks.meta_test,
            DIFFICULTY: harder_tasks(tasks),
        }
        with _leaving_where(should_stop) as look:
            record = evaluate_run(
                directory,
                {name: split[: self.evaluation_tasks] for name, split in splits.items() if split},
                seeds=self.evaluation_seeds,
                episodes=self.episodes,
                device=device,
                on_stage=look,
            )
            replace_text(directory / SWEEP_EVALUATION_FILE, json.dumps(record, indent=2) + "\n")
            return True
        return False

    def evaluation(self, out: Path) -> dict[str, Any]:
        """What it returned, as :func:`.evaluate_run` gives it."""
        path = out / self.name / SWEEP_EVALUATION_FILE
        record: dict[str, Any] = read_json(path, EVALUATION)
        return record

    def metrics(self, out: Path) -> list[dict[str, Any]]:
        """What it measured, as :func:`.read_metrics` gives it."""
        return read_metrics(out / self.name)


@dataclass(frozen=True, kw_only=True)
class Oracle(Training):
    """A run on one meta-test task alone, which shows what could be reached there."""

    plain: ClassVar = {**Training.plain, "task": int}

    task: int
    """By number among the meta-test tasks."""

    @property
    def run_name(self) -> str:
        """Beside the methods' runs."""
        return f"{self.preset}/{ORACLE}/task-{self.task}-seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Adapting(Job):
    """Adaptations of a run to its meta-test tasks, with one seed and by one arm's settings."""

    plain: ClassVar = {
        **Job.plain,
        **{"arm": str, "adaptation_seed": int, "tasks": [int], "budget": int},
        "rounds": {str: object},
    }

    arm: str
    """Which settings, by name."""
    adaptation_seed: int
    """Of the adaptations."""
    tasks: list[int]
    """By index in the task set."""
    budget: int
    """Further real transitions of each, to go on adapting."""
    rounds: dict[str, Any]
    """How these are spent, by field."""

    @property
    def name(self) -> str:
        """Below its run."""
        return f"{self.run_name}/adapt/{self.arm}/seed-{self.adaptation_seed}"

    def _report(self, out: Path, task: int) -> Path:
        return out / self.name / f"task-{task}-seed-{self.adaptation_seed}.json"

    def _left(self, out: Path) -> list[int]:
        if not (out / self.name).is_dir():  # one look, not one for each task
            return self.tasks
        return [task for task in self.tasks if not self._report(out, task).is_file()]

    def done(self, out: Path) -> bool:
        """Every task has its report."""
        return not self._left(out)

    def state(self, out: Path) -> tuple[float, str]:
        """By the tasks that have their reports."""
        reported = len(self.tasks) - len(self._left(out))
        return reported / len(self.tasks), f"{reported} of {len(self.tasks)} tasks"

    def work(
        self, out: Path, *, device: str, checkpoint_seconds: float, should_stop: Callable[[], bool]
    ) -> bool:
        """Adapt to each task that has no report yet; its real transitions are kept as they come."""
        directory, run_directory = out / self.name, out / self.run_name
        tasks = config_of(run_directory).tasks
        config, rounds = AdaptConfig.from_dict(self.settings), ContinueConfig(**self.rounds)
        directory.mkdir(parents=True, exist_ok=True)
        with run_lock(directory), FamilyEnvs(tasks) as envs, _leaving_where(should_stop) as look:
            run = load_run(run_directory, envs, device=device)
            for task in self._left(out):
                adapt_to_each(
                    run,
                    {f"task-{task}": run.new_task(envs, tasks[task])},
                    config,
                    seeds=(self.adaptation_seed,),
                    out=directory,
                    evaluation_episodes=self.episodes,
                    budget=self.budget,
                    rounds=rounds,
                    on_stage=look,
                )
            return True
        return False

    def reports(self, out: Path) -> list[dict[str, Any]]:
        """What it did, task by task, as :meth:`.AdaptationReport.to_dict` gives it."""
        return [read_json(self._report(out, task), _REPORT) for task in self.tasks]


class _StoppedError(Exception):
    """Leaves what can be left only by an error."""


@contextlib.contextmanager
def _leaving_where(should_stop: Callable[[], bool]) -> Iterator[Callable[..., None]]:
    """A block that is left where what it gives, told of every stage, finds that it should be."""

    def look(*_: object) -> None:
        if should_stop():
            raise _StoppedError

    with contextlib.suppress(_StoppedError):
        yield look


_KINDS: dict[str, type[Job]] = {"training": Training, "oracle": Oracle, "adapting": Adapting}


def write_jobs(jobs: list[Job], out: Path) -> None:
    """Make a directory a sweep's of these jobs, or give the sweep that it holds further ones.

    Within its lock.

    Raises:
        ValueError: If the directory holds something else, or a sweep with a job that is not among
            them or was another.
    """
    given = {job.name: job.to_dict() for job in jobs}
    remedy = f"Choose another directory, or the grid that {out} was made with and more of it."
    try:
        held = {job.name: job.to_dict() for job in read_jobs(out)}
    except FileNotFoundError as error:
        if any(not each.name.startswith((SWEEP_FILE, LOCK_FILE)) for each in out.iterdir()):
            raise ValueError(
                f"Expected an empty directory or one with a sweep, but {out} holds other files. "
                "Choose another one."
            ) from error
        held = {}
    for name, job in held.items():
        if name not in given:
            raise ValueError(f"{out} holds a sweep of another grid, with {name}. {remedy}")
        if given[name] != job:
            differ = [key for key in job if job[key] != given[name].get(key)]
            if differ == ["settings"]:
                differ = _different(job["settings"], given[name]["settings"])
            raise ValueError(
                f"{out} holds a sweep of another grid: {', '.join(differ)} of {name} differ(s). "
                f"{remedy}"
            )
    if held != given:
        contents = {"jobs": list(given.values())}
        replace_text(out / SWEEP_FILE, json.dumps(contents, indent=1) + "\n")


def read_jobs(out: Path) -> list[Job]:
    """The jobs of the sweep that a directory holds, each after those that it needs.

    Raises:
        FileNotFoundError: If it holds none.
        CheckpointError: If its file is damaged.
    """
    path = out / SWEEP_FILE
    try:
        found = read_json(path, {"jobs": [{"kind": str}]})["jobs"]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{out} holds no {SWEEP_FILE}. `mier-adapt sweep GRID.toml --out DIR` makes a sweep."
        ) from error
    try:
        jobs = []
        for values in found:
            kind = _KINDS[values.pop("kind")]
            require_kinds(kind.plain, values, "it")
            for key in ("preset", "method", "arm"):
                if not re.fullmatch(NAME, values.get(key, key)):
                    raise ValueError(f"{key} is {values[key]!r:.80}")
            jobs.append(kind(**values))
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not as this version writes it: {error}") from error
    return jobs


def _different(one: dict[str, Any], other: dict[str, Any], at: str = "") -> list[str]:
    """Fields, by their path, that two settings have different."""
    found = []
    for key in {**one, **other}:
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _different(a, b, f"{at}{key}.")
        elif a != b:
            found.append(f"{at}{key}")
    return found
