"""Arguments that subcommands share."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from mier_adapt.cli.words import require_known

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Config = Annotated[
    Path | None, tyro.conf.arg(metavar="FILE", help="Configuration from a TOML file.")
]
DryRun = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Print the configuration, and stop."),
]
Imports = Annotated[
    tuple[str, ...],
    tyro.conf.UseAppendAction,
    tyro.conf.arg(name="import", metavar="NAME", help="A module, imported first: of your family."),
]
Threads = Annotated[
    int | None,
    tyro.conf.arg(metavar="N", help="Of torch: OMP_NUM_THREADS or 1 if None."),
]

METHODS = ("mier", "grbal", "maml", "mql", "pearl", "promp", "random", "rl2", "sac")
"""Ways to meta-train, ours first."""


def method_in(words: Sequence[str]) -> str:
    """Which method a command's words name, ours if none.

    Raises:
        UsageError: If there is no such method.
    """
    named = METHODS[0]
    for word, following in itertools.pairwise((*words, "")):
        option, equals, value = word.partition("=")
        if option == "--method":
            named = value if equals else following
    require_known("method", named, METHODS)
    return named
