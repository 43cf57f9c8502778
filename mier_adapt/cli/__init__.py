"""The ``mier-adapt`` command: its subcommands, their options, and what they show."""

from mier_adapt.cli.entry import main as main

__all__: list[str] = []  # a command has users in shells
