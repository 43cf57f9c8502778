"""A look at the machine: versions, devices, threads, a self-test, and what would be slow."""

import dataclasses
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mier_adapt._storage.checkpoints import library_versions, load_tree, save_tree
from mier_adapt._storage.randomness import forked_global_generators
from mier_adapt._storage.trees import Pieces
from mier_adapt.agents.configs import MetaTrainConfig
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.films import find_gl_backend
from mier_adapt.agents.presets import preset
from mier_adapt.training.meta_training import MetaTrainer
from mier_adapt_envs import task_set

_PRESET = "halfcheetah-negated-joints"
_SLOTS = 10
_SIMULATED_STEPS = 200
_UPDATES = 60
_TRAINING_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One part of the self-test."""

    name: str
    """What was tested."""
    result: str
    """What was measured, or what went wrong."""
    passed: bool
    """Whether it worked."""
    required: bool = True
    """Whether the library cannot work without it."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What :func:`examine` found."""

    versions: dict[str, str]
    """Versions of Python and of the libraries that this one stands on, by name."""
    machine: dict[str, str]
    """Processor, devices, threads, disk."""
    checks: tuple[Check, ...]
    """The self-test, in the order in which it ran."""
    slow: tuple[str, ...]
    """What would be slow here, and what to do about it."""

    @property
    def healthy(self) -> bool:
        """Whether every required check passed."""
        return all(check.passed for check in self.checks if check.required)


def examine(
    directory: Path | None = None, *, on_check: Callable[[str], None] = lambda name: None
) -> Examination:
    """Look at this machine, and try every part of the library for about 20 seconds in all.

    Args:
        directory: Where runs are to go, for the disk's speed and room; the system's temporary
            directory when ``None``. Nothing is left there.
        on_check: Told the name of each check before it begins.
    """
    checks: list[Check] = []
    slow: list[str] = []

    def attempt(name: str, function: Callable[[], str], *, required: bool = True) -> None:
        on_check(name)
        try:
            result, passed = function(), True
        except Exception as error:  # a check that fails is an answer, whatever it fails with
            result, passed = f"{type(error).__name__}: {error}", False
        checks.append(Check(name=name, result=result, passed=passed, required=required))

    where = Path(tempfile.gettempdir()) if directory is None else directory
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    attempt("simulate", lambda: _simulate(slow))
    for device in devices:
        attempt(f"train on {device}", lambda device=device: _train(device, slow))  # type: ignore[misc]
    attempt("same seed, same figures", _repeat)
    attempt("save and load", lambda: _save_and_load(where, slow))
    attempt("render", _render, required=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cores == 1:
        slow.append("One core: nothing runs side by side. Give the process two or more.")
    if torch.get_num_threads() > (cores or 1):
        slow.append(
            f"torch uses {torch.get_num_threads()} threads on {cores} cores: use fewer (--threads)."
        )
    return Examination(
        versions={"python": platform.python_version(), **library_versions()},
        machine={
            "system": platform.platform(),
            "cores": str(cores),
            "torch threads": f"{torch.get_num_threads()} within, "
            f"{torch.get_num_interop_threads()} between operations",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
            "MUJOCO_GL": os.environ.get("MUJOCO_GL", "not set"),
            "devices": ", ".join(
                ["cpu"] + [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
            ),
            "free disk": f"{shutil.disk_usage(where).free / 2**30:.1f} GiB at {where}",
        },
        checks=tuple(checks),
        slow=tuple(slow),
    )


def _simulate(slow: list[str]) -> str:
    tasks = task_set("HalfCheetahNegatedJoints")
    generator = np.random.default_rng(0)
    with FamilyEnvs(tasks) as envs:
        env = envs.of_size(_SLOTS)
        env.reset(seed=0)
        shape = (_SIMULATED_STEPS, _SLOTS, *envs.action_space.shape)
        actions = generator.uniform(-1, 1, shape)
        started = time.perf_counter()
        for action in actions:
            env.step(action)
        rate = _SIMULATED_STEPS * _SLOTS / (time.perf_counter() - started)
    if rate < 2_000:
        slow.append(f"Simulation: {rate:,.0f} steps/s. Other processes may keep the cores busy.")
    return f"{rate:,.0f} environment steps/s, {_SLOTS} side by side"


def _train(device: str, slow: list[str]) -> str:
    with forked_global_generators(0), FamilyEnvs(task_set(*_family(_PRESET))) as envs:
        trainer = MetaTrainer(_shortened(_PRESET), envs, seed=0, device=device)
        # The first ones collect and load libraries.
        warm_up = trainer.config.model.pretrain_steps + trainer.config.policy.updates_per_model_step
        for _ in range(warm_up):
            trainer.step()
        started = time.perf_counter()
        while trainer.updates < _UPDATES and time.perf_counter() - started < _TRAINING_SECONDS:
            for _ in range(trainer.config.policy.updates_per_model_step):
                trainer.step()
        each = (time.perf_counter() - started) / (
            trainer.updates - trainer.config.policy.updates_per_model_step
        )
    hours = each * preset(_PRESET).meta_train.updates / 3600
    if hours > 12:
        slow.append(
            f"Meta-training on {device}: {1000 * each:.0f} ms for an update, about {hours:.0f} h "
            f"for the preset {_PRESET}. Use a faster machine, or fewer --updates."
        )
    return (
        f"{1000 * each:.1f} ms for a SAC update with its share of a meta-step; "
        f"about {hours:.1f} h for {_PRESET}, collection aside"
    )


def _repeat() -> str:
    trees = [_short_run() for _ in range(2)]
    if not _same(*trees):
        raise RuntimeError("two runs with one seed ended with different parameters")
    return "two short runs ended bit-identical"


def _short_run() -> Any:
    with forked_global_generators(0), FamilyEnvs(task_set(*_family("smoke"))) as envs:
        trainer = MetaTrainer(_shortened("smoke"), envs, seed=0)
        for _ in range(6):
            trainer.step()
        return {**trainer.state(), "seconds": 0.0}


def _family(name: str) -> tuple[str, str]:
    config = preset(name).meta_train
    return config.family, config.task_set


def _shortened(name: str) -> MetaTrainConfig:
    """A preset with its networks and batches, and little collection."""
    config = preset(name).meta_train
    return dataclasses.replace(
        config,
        initial_episodes=1,
        adaptation_episodes=1,
        evaluation_episodes=1,
        episode_steps=50,
        tasks_per_iteration=2,
        replay_per_task=500,
        model=dataclasses.replace(config.model, pretrain_steps=2),
    )


def _save_and_load(where: Path, slow: list[str]) -> str:
    tree = {**_short_run(), "ballast": torch.zeros(2**24)}
    with tempfile.TemporaryDirectory(prefix="mier-adapt-doctor-", dir=where) as directory:
        path = Path(directory) / "checkpoint.safetensors"
        started = time.perf_counter()
        save_tree(path, tree)
        saving = time.perf_counter() - started
        size = path.stat().st_size / 2**20
        if not _same(tree, load_tree(path)):
            raise RuntimeError(f"a checkpoint in {where} was not read as it was written")
    if size / saving < 20:
        slow.append(
            f"Checkpoints: {size / saving:.0f} MiB/s at {where}, and a full replay takes 300 MiB. "
            "Put --out on a local disk, or raise --checkpoint-seconds."
        )
    return f"{size / saving:,.0f} MiB/s, read back the same"


def _render() -> str:
    return f"works with MUJOCO_GL={find_gl_backend()}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Pieces):
        one = one.joined()
    if isinstance(other, Pieces):
        other = other.joined()
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(_same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, (list, tuple)):
        return (
            type(one) is type(other)
            and len(one) == len(other)
            and all(_same(*pair) for pair in zip(one, other, strict=True))
        )
    return bool(one == other)
