"""``mier-adapt plot``: figures of runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mier_adapt.cli.arguments import Imports
from mier_adapt.cli.terminal import say


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
    import_: Imports = ()

    def run(self) -> int:
        """Draw, and say where."""
        from mier_adapt.agents.pretrained import read_evaluation
        from mier_adapt.agents.run_file import find_run
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
