"""The subcommands, a file each: their options as fields, and what they do."""

from typing import Any

from mier_adapt.cli.commands.adapt import Adapt
from mier_adapt.cli.commands.doctor import Doctor
from mier_adapt.cli.commands.evaluate import Evaluate
from mier_adapt.cli.commands.export import Export
from mier_adapt.cli.commands.figures import Figures
from mier_adapt.cli.commands.meta_train import MetaTrain
from mier_adapt.cli.commands.play import Play
from mier_adapt.cli.commands.plot import Plot
from mier_adapt.cli.commands.pretrained import Pretrained
from mier_adapt.cli.commands.quickstart import Quickstart
from mier_adapt.cli.commands.sweep import Sweep
from mier_adapt.cli.commands.tasks import Tasks

__all__: list[str] = []  # a command has users in shells

COMMANDS: dict[str, Any] = {
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
"""In the order of the help."""
