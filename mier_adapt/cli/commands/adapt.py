"""``mier-adapt adapt``: a run, to new tasks."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from mier_adapt._checks import Count, Seed
from mier_adapt.cli.arguments import Config, DryRun, Imports, Switch, Threads
from mier_adapt.cli.families import require_task
from mier_adapt.cli.tables import comparison_table
from mier_adapt.cli.terminal import Progress, console, say
from mier_adapt.cli.words import UsageError

OPTIONS_FILE = "config.toml"
"""What ``adapt`` used, beside its reports."""


@dataclass
class Adapt:
    """Adapt a run to new tasks; show what each stage achieved.

    Example: mier-adapt adapt runs/smoke --task 12 15
    """

    run_directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run directory, or a pretrained run's name."""
    task: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Tasks by index, see `mier-adapt tasks FAMILY`."""
    all_ood: Switch = False
    """All meta-test tasks."""
    seed: Annotated[tuple[Seed, ...], tyro.conf.arg(metavar="N ...")] = (0,)
    """One adaptation of each task for each seed."""
    compare: Switch = False
    """Run all stages, also those not needed."""
    budget: Count = 0
    """Further real transitions, to go on adapting."""
    episodes: Count = 4
    """Evaluation episodes after each stage."""
    device: str = "cpu"
    """Where networks live and learn: cpu, cuda."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """For files; RUN/adapt if None."""
    threads: Threads = None
    import_: Imports = ()
    config: Config = None
    dry_run: DryRun = False

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
        from mier_adapt.agents.run import load_run
        from mier_adapt.agents.run_file import find_run, read_run_file

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
        tasks = trained.tasks
        if bool(self.task) == self.all_ood or not self.seed:
            raise UsageError("Expected --task INDEX ... or --all-ood, and at least one --seed.")
        first = len(tasks.meta_train)
        indices = tuple(range(first, len(tasks))) if self.all_ood else self.task
        for index in indices:
            require_task(index, range(len(tasks)), trained.family)
        if len(set(self.seed)) < len(self.seed):
            raise UsageError(f"Expected each --seed once, got {' '.join(map(str, self.seed))}.")
        first_of: dict[Any, int] = {}
        for index in indices:
            if (same := first_of.setdefault(tasks[index], index)) != index:
                raise UsageError(
                    f"Expected different tasks, but --task {same} and {index} are one."
                )
        out = self.out or self.run_directory / "adapt"
        if self.out is None:
            require_no_link(out)
        with FamilyEnvs(tasks) as envs:
            run = load_run(directory, envs, device=self.device)
            out.mkdir(parents=True, exist_ok=True)
            replace_text(out / OPTIONS_FILE, resolved)
            adaptations = adapt_showing(
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


def adapt_showing(
    agent: Any,
    tasks: dict[str, Any],
    config: Any,
    *,
    seeds: Any,
    out: Path,
    episodes: int,
    budget: Count = 0,
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
