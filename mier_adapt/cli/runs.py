"""Runs of any method, as the command finds and groups them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mier_adapt.agents.presets import preset_name
from mier_adapt.agents.run_file import OURS, find_run, method_of_run
from mier_adapt.baselines.presets import baseline_preset_name
from mier_adapt.sweeps.methods import config_of


def group_by_configuration(runs: Iterable[Path]) -> dict[str, tuple[Any, list[Path]]]:
    """Runs that differ in their seed alone, under their preset's name or the first one's own.

    Where any is not of our method, each has its method's name in front.

    Raises:
        FileNotFoundError: If one is no run.
        ValueError: If runs of different configurations have equal names.
    """
    groups: dict[tuple[str, Any], list[Path]] = {}
    for run in runs:
        directory = find_run(run)
        method = method_of_run(directory)
        config = config_of(directory)
        groups.setdefault((method, dataclasses.replace(config, updates=1)), []).append(run)
    several = any(method != OURS for method, _ in groups)
    labelled = {}
    for (method, config), paths in groups.items():
        preset = preset_name(config) if method == OURS else baseline_preset_name(method, config)
        name = preset or paths[0].name
        labelled[f"{method}: {name}" if several else name] = (config, paths)
    if len(labelled) < len(groups):
        raise ValueError("Runs of different configurations have equal names. Rename one.")
    return labelled
