"""The ``mier-adapt`` command: which subcommand, with which options, and what its errors say."""

import dataclasses
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tyro

from mier_adapt._checks import checked_fields
from mier_adapt.cli.arguments import METHODS, method_in
from mier_adapt.cli.commands import COMMANDS
from mier_adapt.cli.commands.meta_train import MetaTrain
from mier_adapt.cli.families import register_families
from mier_adapt.cli.terminal import console_on, say
from mier_adapt.cli.words import UsageError, in_shell_words, require_known

_HEADING = "Configuration: --NAME VALUE. --dry-run shows their values, and what they mean."


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    names: dict[str, str] = {}
    try:
        if arguments[:1] == ["--version"]:
            say(_versions())
            sys.exit(0)
        if not arguments or arguments[0].startswith("-"):
            tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="mier-adapt",
                description="Meta-train policies and adapt them to changed tasks. "
                "See also --version.",
            )
        name, *words = arguments
        require_known("subcommand", name, COMMANDS)
        kind = COMMANDS[name]
        names |= {each.name: _option(each.name) for each in dataclasses.fields(kind)}
        options = kind.options(words) if hasattr(kind, "options") else None
        _require_known_words(name, words, options.words if options else ())
        told, given = inspect.cleandoc(kind.__doc__), {}
        if options:
            names |= options.names
            told += f"\n\n{_HEADING}\n{options.listed()}"
            given, words = options.parse(words)
        command = tyro.cli(kind, prog=f"mier-adapt {name}", description=told, args=words)
        checked_fields(command)
        register_families(command.import_)
        with _threads_of_torch(command):
            sys.exit(command.run(options, given) if options else command.run())
    except (ValueError, OSError, FloatingPointError) as error:
        # What the user can act on; anything else is a fault of ours and keeps its traceback.
        told = str(error) if isinstance(error, UsageError) else in_shell_words(str(error), names)
        console_on("stderr").print(f"mier-adapt: {told}", soft_wrap=True)
        sys.exit(1)


def _versions() -> str:
    """Of this library and of those that a run's figures depend on, in a line."""
    from mier_adapt._storage.checkpoints import library_versions

    ours, *others = (f"{name} {version}" for name, version in library_versions().items())
    return f"{ours} ({', '.join(others)})"


@contextmanager
def _threads_of_torch(command: Any) -> Iterator[None]:
    """As many of torch's threads as a command is to compute on.

    Its networks are small, so that more threads than free cores wait for each other: one, unless
    someone says otherwise. Last bits depend on the number, and a run goes on with its own.
    """
    if not hasattr(command, "threads"):
        yield
        return
    import torch

    from mier_adapt.agents.run_file import MOST_THREADS, recorded_threads

    wanted = command.threads
    if wanted is None and isinstance(command, MetaTrain):
        wanted = recorded_threads(command.out)
    before = torch.get_num_threads()
    if wanted is None:
        wanted = before if "OMP_NUM_THREADS" in os.environ else 1
    if not 1 <= wanted <= MOST_THREADS:
        raise UsageError(f"Expected --threads from 1 to {MOST_THREADS}, got {wanted}.")
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _option(name: str) -> str:
    """A field's option."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _require_known_words(name: str, words: Sequence[str], more: Sequence[str]) -> None:
    """Check a subcommand's options. Tyro would list candidates of all subcommands, or none."""
    known = [*("-h", "--help"), *more]
    known += [_option(field.name) for field in dataclasses.fields(COMMANDS[name])]
    told = f"option of {name}"
    if "--method" in known and (method := method_in(words)) != METHODS[0]:
        told += f" --method {method}"
    for word in words:
        if word.startswith("--"):
            require_known(told, word.partition("=")[0].replace("_", "-"), known)
