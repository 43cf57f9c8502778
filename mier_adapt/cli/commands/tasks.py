"""``mier-adapt tasks``: families, their task sets, their tasks."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.table import Table

import mier_adapt_envs
from mier_adapt.cli.arguments import Imports
from mier_adapt.cli.families import require_family
from mier_adapt.cli.terminal import console


@dataclass
class Tasks:
    """List families, or one family's task sets and tasks.

    Example: mier-adapt tasks HalfCheetahVel --set hard
    """

    family: Annotated[str | None, tyro.conf.Positional] = None
    """Family whose tasks to list; all families if not given."""
    set: str | None = None
    """Task set; the family's default one if not given."""
    import_: Imports = ()

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
        require_family(self.family)
        tasks = mier_adapt_envs.task_set(self.family, self.set)
        table = Table(
            "index", "split", "task", title=f"{self.family} {tasks.name}, hash {tasks.hash[:16]}"
        )
        for index, task in enumerate(tasks):
            split = "meta-train" if index < len(tasks.meta_train) else "meta-test"
            table.add_row(str(index), split, str(task))
        console.print(table)
        return 0
