"""Families, for the command: those of one's own, and names and indices that are none."""

import importlib
import importlib.metadata
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mier_adapt_envs
from mier_adapt.cli.words import UsageError, require_known

_logger = logging.getLogger(__name__)

GROUP = "mier_adapt.families"
"""Entry points of installed packages: modules that call :func:`mier_adapt_envs.register`."""


def register_families(modules: Sequence[str]) -> None:
    """Import modules, and what installed packages have under :data:`GROUP`.

    Modules are looked for in the current directory first, as ``python -m`` does.

    Raises:
        UsageError: If a module is not there or fails. An installed package that fails is left out
            with a warning, since it may have nothing to do with what is asked for.
    """
    if modules and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # of anyone's module, whatever that raises
            raise UsageError(f"--import {module} failed: {_told(error)}") from error
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        try:
            entry_point.load()
        except Exception as error:
            package = entry_point.dist.name if entry_point.dist else entry_point.name
            _logger.warning("The families of %s are left out: %s.", package, _told(error))


def require_family(family: Any) -> None:
    """Raise a UsageError that suggests the nearest family if there is no such one."""
    try:
        require_known("family", str(family), mier_adapt_envs.families())
    except UsageError as error:
        raise UsageError(
            f"{error} One of your own: --import the module that registers it."
        ) from error


def require_task(index: int, known: range, family: str) -> None:
    """Raise a UsageError if a family has no task of this index."""
    if index not in known:
        raise UsageError(
            f"Expected --task from {known[0]} to {known[-1]}, got {index}. "
            f"`mier-adapt tasks {family}` lists them."
        )


def _told(error: Exception) -> str:
    """What went wrong, and where that is in someone's file."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if "importlib" in frame.filename else f" ({frame.filename}, line {frame.lineno})"
    return f"{type(error).__name__}: {error}{place}"
