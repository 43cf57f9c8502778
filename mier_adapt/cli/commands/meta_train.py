"""``mier-adapt meta-train``: a run, from its start or its last checkpoint."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import mier_adapt_envs
from mier_adapt._checks import NonNegative, Seed
from mier_adapt.cli.arguments import METHODS, Config, DryRun, Imports, Threads, method_in
from mier_adapt.cli.families import require_family
from mier_adapt.cli.signals import stop_signals
from mier_adapt.cli.tables import evaluation_line, status_line
from mier_adapt.cli.terminal import Progress, say
from mier_adapt.cli.words import UsageError, require_known


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
    seed: Seed = 0
    """Fixes the run, with which it is also resumed."""
    device: str = "cpu"
    """Where networks live and learn: cpu, cuda."""
    checkpoint_seconds: NonNegative = 120.0
    """Wall-clock seconds between checkpoints."""
    log: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where else measurements go."""
    threads: Threads = None
    import_: Imports = ()
    config: Config = None
    dry_run: DryRun = False

    @staticmethod
    def options(words: Sequence[str] = ()) -> Any:
        """What else is an option with these words, as :class:`.options.Options`."""
        from mier_adapt.agents.configs import AdaptConfig, MetaTrainConfig
        from mier_adapt.baselines import BASELINES
        from mier_adapt.cli.options import Options

        if (method := method_in(words)) in BASELINES:
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
            require_family(values["family"])
            resolved, total, train = training(self.method, values, device=self.device)
        if self.dry_run:
            say(options.to_toml(resolved))
            return 0
        if self.log == "wandb":
            try:
                import_wandb()
            except ImportError as error:
                raise UsageError(f"{error}") from error
        with Progress() as progress, stop_signals() as stopped:
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
        require_family(family)
        default = mier_adapt_envs.task_sets(family)[0]
        found = family_preset(family, asked.get("task_set", default))
        return usual_settings(self.method, found)
