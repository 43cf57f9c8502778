"""Pretrained runs: meta-trained runs that are small enough to ship, each with a card."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mier_adapt._storage.checkpoints import (
    CHECKPOINT_FILE,
    PREVIOUS_FILE,
    load_checkpoint,
    save_tree,
)
from mier_adapt._storage.files import (
    read_bytes,
    read_json,
    replace_text,
    replacing,
    require_kinds,
    require_no_link,
)
from mier_adapt._storage.locks import run_lock
from mier_adapt.agents.configs import MetaTrainConfig
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.evaluation import evaluation_record
from mier_adapt.agents.packed_run import pack_algorithm, pack_replay
from mier_adapt.agents.presets import preset_name
from mier_adapt.agents.run import Run, load_run
from mier_adapt.agents.run_file import (
    CARD_FILE,
    PRETRAINED,
    RUN_FILE,
    find_run,
    pretrained_names,
    read_run_file,
    write_run_file,
)
from mier_adapt.integration.algorithms import forget_optimizers

METRICS_FILE = "metrics.jsonl"
"""A run's measurements, a JSON object a line, in the run's directory."""
MOST_METRICS = 2**25
"""Bytes of these. A long run's take hundreds of kilobytes."""
EVALUATION_FILE = "evaluation.json"
"""What ``mier-adapt evaluate`` writes."""
SWEEP_EVALUATION_FILE = "sweep_evaluation.json"
"""What ``mier-adapt sweep`` writes of a run of its own; a run that has it is done."""

_RETURNS = {"return_initial": [float], "return_adapted": [float]}
_LOSSES = {"loss_initial": [float], "loss_adapted": [float]}
EVALUATION = {"splits": {str: [{"task": str, "parameters": [float], **_RETURNS}]}}
"""What is read of a file of returns."""
_CARD = {
    **{"name": str, "updates": int},
    "evaluation": {"splits": {str: [{**_RETURNS, **_LOSSES}]}},
}
"""What is read of a card, beyond showing it."""
_TRAINED = {
    **{"updates": int, "env_steps": int, "seconds": float},
    "manifest": {"versions": {str: str}},
}
"""What a card says of a checkpoint."""


def read_card(name: str) -> dict[str, Any]:
    """What a pretrained run's card says: how it was made, what it achieved, and its files.

    Raises:
        ValueError: If there is none of this name; the message lists the names.
        CheckpointError: If it is damaged.
    """
    if name not in pretrained_names():
        raise ValueError(f"Expected name of a run, one of {pretrained_names()}, got {name!r}.")
    card: dict[str, Any] = read_json(PRETRAINED / name / CARD_FILE, _CARD)
    return card


def read_evaluation(run: Path) -> dict[str, Any]:
    """What ``mier-adapt evaluate`` last wrote of a run, or else its sweep, or its card.

    Raises:
        FileNotFoundError: If there is no run, or it was not evaluated.
        CheckpointError: If the file was written by something else.
    """
    for path in (run / EVALUATION_FILE, run / SWEEP_EVALUATION_FILE):
        if path.is_file():
            return dict(read_json(path, EVALUATION))
    if (find_run(run) / CARD_FILE).is_file():
        return dict(read_json(find_run(run) / CARD_FILE, {"evaluation": EVALUATION})["evaluation"])
    raise FileNotFoundError(
        f"{run} holds no {EVALUATION_FILE} yet: run `mier-adapt evaluate {run}` first."
    )


def export_run(
    directory: Path,
    out: Path,
    *,
    name: str,
    command: str | None = None,
    commit: str | None = None,
    machine: str | None = None,
    max_megabytes: float = 4.0,
    seeds: int = 3,
    episodes: int = 4,
    device: str = "cpu",
    on_stage: Callable[[str], None] = lambda stage: None,
) -> dict[str, Any]:
    """Write a run without its optimizers and with a share of its experience, and its card.

    Experience is written in 16 bits a number, between the extremes of its dimension; critics
    without the targets that lag behind them, which begin anew where the critics are. What is
    written is a run directory for everything but more meta-training. The returns on its card are
    measured on what was written.

    Args:
        directory: The run's; not changed.
        out: Where it goes; made if needed. What an earlier export left there is replaced.
        name: The run's name on its card.
        command: What made the run; ``mier-adapt meta-train`` with its preset if not given.
        commit: Of the code that trained it; this checkout's if not given, or ``unknown`` where this
            is none.
        machine: What it was trained on, in words; this machine's cores if not given.
        max_megabytes: Largest size of the checkpoint, in millions of bytes; as many episodes as
            fit are taken, at least two of each task.
        seeds: Adaptation seeds of the returns.
        episodes: Deterministic episodes of each.
        device: Where networks live while they are evaluated.
        on_stage: Told what is being done.

    Returns:
        The card, as ``card.json`` holds it.

    Raises:
        ValueError: If the run was exported already, the place is another run's, it does not fit
            into the size, or a command is needed.
        CheckpointError: If a file of the run is damaged, or a link: nothing from elsewhere is
            handed on.
        FileNotFoundError: If there is no run or no checkpoint.
        RunLockedError: If the run is being trained.
    """
    directory = find_run(directory)
    for each in (RUN_FILE, CHECKPOINT_FILE, PREVIOUS_FILE, METRICS_FILE):
        require_no_link(directory / each)
    run_file = read_run_file(directory)
    config, seed = run_file.config, run_file.seed
    if (directory / CARD_FILE).exists():
        raise ValueError(f"{directory} holds an exported run; export the run that it came from.")
    if (out / RUN_FILE).exists() and not (out / CARD_FILE).exists():
        raise ValueError(f"{out} holds a run that is not an export. Choose another place.")
    card = {
        "name": name,
        "family": config.family,
        "task_set": config.task_set,
        "commit": commit or _commit(),
        "machine": machine or f"{os.cpu_count()} {platform.machine()} cores",
        "seed": seed,
    }
    out.mkdir(parents=True, exist_ok=True)
    on_stage("reading")
    with run_lock(directory):
        path, tree = load_checkpoint(directory)
        require_kinds(_TRAINED, tree, str(path))
        updates = tree["updates"]
        trained_with = tree["manifest"]["versions"]
        card["command"] = command or _command(config, seed, updates, name)
        card |= {key: tree[key] for key in ("updates", "env_steps", "seconds")}
        del tree
        run = load_run(directory)
    on_stage("writing")
    kept = _save(out, run_file.to_dict(), run, int(1e6 * max_megabytes))
    write_run_file(out, run_file)
    if (directory / METRICS_FILE).is_file():
        measured = read_bytes(directory / METRICS_FILE, most=MOST_METRICS, follow=False)
        with replacing(out / METRICS_FILE) as file:
            file.write(measured)
    with FamilyEnvs(run.task_set) as envs:
        exported = load_run(out, envs, device=device)
        card["replay"] = {"transitions": len(exported.replay), "episodes_per_task": kept}
        splits = {"train": run.task_set.meta_train, "test": run.task_set.meta_test}
        card["evaluation"] = evaluation_record(
            exported,
            envs,
            splits,
            seeds=seeds,
            episodes=episodes,
            adaptation_steps=run.adapt_config.adaptation_steps,
            episode_steps=config.episode_steps,
            on_stage=lambda stage, done: on_stage(f"evaluating {stage}"),
        )
    card["versions"] = trained_with
    card["sha256"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.iterdir())
        if path.name in (CHECKPOINT_FILE, METRICS_FILE, RUN_FILE)
    }
    replace_text(out / CARD_FILE, json.dumps(card, indent=2) + "\n")
    return card


def _save(out: Path, manifest: dict[str, Any], run: Run, max_bytes: int) -> int:
    """Write the checkpoint with as much experience as fits; the episodes kept of each task."""
    forget_optimizers(run.algorithm)
    path, steps = out / CHECKPOINT_FILE, run.config.episode_steps
    state = run.state()
    state["algorithm"] = pack_algorithm(state["algorithm"])
    row = run.model.obs_dim + run.model.act_dim
    fitting = max_bytes // (run.replay.num_tasks * steps * row * 2)
    for episodes in range(min(run.config.replay_per_task // steps, fitting), 1, -1):
        state["replay"] = pack_replay(run.replay, episodes=episodes, episode_steps=steps)
        save_tree(path, {"manifest": manifest, "run": state})
        if path.stat().st_size <= max_bytes:
            return episodes
    path.unlink(missing_ok=True)
    raise ValueError(
        f"The run's networks and two episodes of each of its {run.replay.num_tasks} tasks do not "
        f"fit into {max_bytes / 1e6:g} MB, or it has no two episodes yet. Raise max_megabytes."
    )


def _command(config: MetaTrainConfig, seed: int, updates: int, name: str) -> str:
    """The command that makes such a run."""
    preset = preset_name(config)
    if preset is None:
        raise ValueError(
            "export expected command to be given, got a run whose configuration is that of no "
            "preset. Say what made it."
        )
    return f"mier-adapt meta-train {preset} --seed {seed} --updates {updates} --out runs/{name}"


def _commit() -> str:
    """The commit of this package, where it is a part of a checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD", "HEAD:./__init__.py"],
            cwd=PRETRAINED.parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # an installed release, say, whose version is on the card
    return result.stdout.split()[0]
