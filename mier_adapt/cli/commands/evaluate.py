"""``mier-adapt evaluate``: a run's returns before and after adaptation."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mier_adapt._checks import Count, Size
from mier_adapt.cli.arguments import METHODS, Imports, Threads
from mier_adapt.cli.tables import evaluation_table
from mier_adapt.cli.terminal import Progress, console, say
from mier_adapt.cli.words import UsageError


@dataclass
class Evaluate:
    """Measure a run's tasks before and after adaptation.

    Example: mier-adapt evaluate runs/smoke --seeds 3
    """

    run_directory: Annotated[Path, tyro.conf.Positional]
    """A run directory, or the name of a pretrained run."""
    split: Literal["train", "test", "all"] = "all"
    """Which tasks."""
    episodes: Size = 4
    """Deterministic evaluation episodes for each task and context."""
    seeds: Size = 1
    """Adaptation seeds 0, 1, ...: each gathers its own transitions."""
    context_steps: Count | None = None
    """Context steps; as many as in meta-training if not given."""
    device: str = "cpu"
    """Where networks live: cpu, cuda."""
    threads: Threads = None
    import_: Imports = ()

    def run(self) -> int:
        """Evaluate and print a table."""
        from mier_adapt._storage.files import replace_text
        from mier_adapt.agents.pretrained import EVALUATION_FILE
        from mier_adapt.agents.run_file import find_run, method_of_run
        from mier_adapt.sweeps.methods import config_of, evaluate_run

        directory = find_run(self.run_directory)
        if (method := method_of_run(directory)) != METHODS[0] and self.context_steps is not None:
            raise UsageError(
                f"Expected no --context-steps for {directory}, a run of {method}, which takes "
                "no steps on a context."
            )
        config = config_of(directory)
        tasks = config.tasks
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
