"""``mier-adapt pretrained``: the runs that ship."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from mier_adapt.cli.arguments import Imports
from mier_adapt.cli.tables import cards_table
from mier_adapt.cli.terminal import console


@dataclass
class Pretrained:
    """List the pretrained runs, or print the card of one.

    Example: mier-adapt pretrained halfcheetah-negated-joints
    """

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Run whose card to print; all runs if not given."""
    import_: Imports = ()

    def run(self) -> int:
        """Print a table or a card."""
        from mier_adapt.agents.pretrained import read_card
        from mier_adapt.agents.run_file import pretrained_names

        if self.name is not None:
            console.print_json(data=read_card(self.name))
        else:
            console.print(cards_table([read_card(name) for name in pretrained_names()]))
        return 0
