"""A grid's file, with the errors that it may have."""

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

from mier_adapt.agents.configs import AdaptConfig, ContinueConfig, MetaTrainConfig
from mier_adapt.agents.run_file import OURS
from mier_adapt.baselines import BASELINES
from mier_adapt.cli.options import Options, read_toml
from mier_adapt.cli.words import UsageError, in_shell_words, require_known
from mier_adapt.sweeps.grid import Adaptations, Evaluation, Grid, Oracles, Runs, expand
from mier_adapt.sweeps.jobs import NAME, Job
from mier_adapt.sweeps.methods import presets_of

_ADAPT = {"": AdaptConfig, "rounds": ContinueConfig}


def read_grid(path: Path, *, fast: bool = False) -> list[Job]:
    """The jobs of a grid's file, each after those that it needs.

    Args:
        path: A TOML file.
        fast: As for :func:`.expand`.

    Raises:
        UsageError: If it is no TOML, or no grid; the message says where.
    """
    try:
        return expand(_grid(read_toml(path), path), fast=fast)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {in_shell_words(str(error.__cause__ or error), {})}") from error


def _grid(values: dict[str, Any], path: Path) -> Grid:
    _require_keys(Grid, values, "", path)
    tables = values.get("runs")
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise UsageError(f"{path} expected runs to be tables, each under [[runs]].")
    adapt = None
    if "adapt" in values:
        adapt = Adaptations(**_lists(Adaptations, values["adapt"], "adapt", path))
        for arm, changes in adapt.arms.items():
            if not re.fullmatch(NAME, arm) or not isinstance(changes, dict):
                raise UsageError(
                    f"{path} expected each arm to be a table, [adapt.arms.NAME], with a name of "
                    f"letters, digits, '-', '_', '+' and '.', got {arm!r:.80}."
                )
            changes.update(Options(_ADAPT).checked(changes, path))
    oracle = None
    if "oracle" in values:
        oracle = Oracles(**_lists(Oracles, values["oracle"], "oracle", path))
        config = {"": BASELINES["sac"].run_file.config_class}
        oracle = dataclasses.replace(oracle, changes=Options(config).checked(oracle.changes, path))
    return Grid(
        runs=tuple(_runs(each, path) for each in tables),
        evaluate=Evaluation(**_lists(Evaluation, values.get("evaluate", {}), "evaluate", path)),
        adapt=adapt,
        oracle=oracle,
    )


def _runs(values: dict[str, Any], path: Path) -> Runs:
    runs = Runs(**_lists(Runs, values, "runs", path))
    for method in runs.methods:
        require_known(f"method of {path}", method, (OURS, *BASELINES))
        for preset in runs.presets:
            told = "preset" if method == OURS else f"preset of {method}"
            require_known(f"{told} in {path}", preset, presets_of(method))
        config = {"": MetaTrainConfig, "adapt": AdaptConfig}
        if method in BASELINES:
            config = {"": BASELINES[method].run_file.config_class}
        changes = Options(config).checked(runs.changes, path)
    return dataclasses.replace(runs, changes=changes)


def _lists(kind: type, values: Any, name: str, path: Path) -> dict[str, Any]:
    """The values of a table, its lists as the tuples that ``kind`` takes."""
    _require_keys(kind, values, name, path)
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if typing.get_origin(hints[key]) is tuple and not isinstance(value, list):
            raise UsageError(f"{path} expected {name}.{key} to be a list, got {value!r:.80}.")
        if value in ([], {}) and key != "changes":
            raise UsageError(f"{path} expected {name}.{key} to hold something. Or leave it out.")
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def _require_keys(kind: Any, values: Any, name: str, path: Path) -> None:
    if not isinstance(values, dict):
        raise UsageError(f"{path} expected {name} to be a table, [{name}].")
    fields = dataclasses.fields(kind)
    known = [each.name for each in fields]
    for key in values:
        require_known(f"key of {name or 'a grid'} in {path}", key, known)
    nothing = dataclasses.MISSING
    for each in fields:
        if each.default is each.default_factory is nothing and each.name not in values:
            raise UsageError(f"{path} expected {f'{name}.' if name else ''}{each.name}.")
