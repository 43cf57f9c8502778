"""Runs of any method, as the command finds and groups them."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mier_adapt.agents.presets import preset_name
from mier_adapt.agents.run_file import OURS, find_run, method_of_run
from mier_adapt.baselines.presets import baseline_preset_name
from mier_adapt.sweeps.methods import run_file_of


def group_by_configuration(runs: Iterable[Path]) -> dict[str, tuple[Any, list[Path]]]:
    """Runs that differ in their seed alone, under their preset's name or the first one's own.

    Where any is not of our method, each has its method's name in front. A run whose seed is there
    already is under its own name: it is no other seed.

    Raises:
        FileNotFoundError: If one is no run.
        ValueError: If runs of different configurations have equal names.
    """
    groups: dict[tuple[str, Any, int], list[Path]] = {}
    seen: Counter[tuple[str, Any, int]] = Counter()
    for run in runs:
        directory = find_run(run)
        method, run_file = method_of_run(directory), run_file_of(directory)
        config = dataclasses.replace(run_file.config, updates=1)
        again = seen[method, config, run_file.seed]
        seen[method, config, run_file.seed] += 1
        groups.setdefault((method, config, again), []).append(run)
    several = any(method != OURS for method, _, _ in groups)
    labelled = {}
    for (method, config, again), paths in groups.items():
        preset = preset_name(config) if method == OURS else baseline_preset_name(method, config)
        name = paths[0].name if again else preset or paths[0].name
        labelled[f"{method}: {name}" if several else name] = (config, paths)
    if len(labelled) < len(groups):
        raise ValueError("Runs of different configurations have equal names. Rename one.")
    return labelled
