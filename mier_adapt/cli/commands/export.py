"""``mier-adapt export``: a small copy of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mier_adapt._checks import Positive, Size
from mier_adapt.cli.arguments import Imports, Threads
from mier_adapt.cli.tables import cards_table
from mier_adapt.cli.terminal import Progress, console, say


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
    max_megabytes: Positive = 4.0
    """Experience is taken up to this size."""
    episodes: Size = 4
    """Deterministic evaluation episodes for each task and context."""
    seeds: Size = 3
    """Adaptation seeds of the evaluation."""
    device: str = "cpu"
    """Where networks live while they are evaluated: cpu, cuda."""
    threads: Threads = None
    import_: Imports = ()

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
