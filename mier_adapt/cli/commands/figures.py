"""``mier-adapt figures``: the paper's figures of a sweep."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mier_adapt.cli.arguments import Imports
from mier_adapt.cli.terminal import say


@dataclass
class Figures:
    """Draw the paper's figures of a sweep, as PNG and CSV.

    Example: mier-adapt figures sweeps/mine
    """

    sweep: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """What `mier-adapt sweep --out` was given, or a folder with its tables; they go to
    DIR/figures."""
    import_: Imports = ()

    def run(self) -> int:
        """Draw, and say where and what is missing; 1 if there was nothing to draw."""
        from mier_adapt.sweeps.paper import write_figures

        written = write_figures(self.sweep)
        for line in written:
            say(line)
        return 0 if any(".png: " in line for line in written) else 1
