"""Run: the parts of a meta-trained agent, built from a configuration or read from a directory."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mier_adapt._checks import require_device, require_seed, require_type, require_types
from mier_adapt._state import require_keys, require_like
from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.context_model import ContextModel
from mier_adapt.integration import (
    ContextReplayBuffer,
    FastSAC,
    algorithm_state,
    build_sac,
    load_algorithm_state,
)
from mier_adapt.integration.algorithms import check_algorithm_state
from mier_adapt.workflows.agents import Agent
from mier_adapt.workflows.checkpoints import (
    CHECKPOINT_FILE,
    CheckpointError,
    library_versions,
    load_checkpoint,
)
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.files import replace_text
from mier_adapt.workflows.packed_replay import unpack_replay
from mier_adapt.workflows.presets import MetaTrainConfig
from mier_adapt_envs import TaskSet, task_set, varies

__all__ = [
    "CARD_FILE",
    "RUN_FILE",
    "Run",
    "load_run",
    "read_run_file",
    "require_same_run",
    "run_manifest",
    "write_run_file",
]

RUN_FILE = "run.json"
"""What a run is (configuration, seed, task set), in the run's directory."""
CARD_FILE = "card.json"
"""Beside it where the run was exported."""


@dataclass(eq=False, kw_only=True)
class Run(Agent):
    """A meta-trained agent: a SAC that is conditioned on its model's context.

    The replay holds a buffer for each meta-training task, in the task set's order.
    """

    config: MetaTrainConfig
    """What the run was built from."""
    task_set: TaskSet
    """Its tasks, meta-training and meta-test."""

    @classmethod
    def build(
        cls,
        config: MetaTrainConfig,
        envs: TaskEnvs,
        *,
        generator: np.random.Generator,
        device: torch.device | str = "cpu",
    ) -> "Run":
        """A new agent. Initial weights come from torch's global generator.

        Args:
            config: What to build.
            envs: The family's environments, for their spaces.
            generator: Draws the samples of the run's replay.
            device: Where networks live.
        """
        require_types(
            "Run.build",
            config=(config, MetaTrainConfig),
            envs=(envs, TaskEnvs),
            generator=(generator, np.random.Generator),
        )
        device = require_device("Run.build", device)
        model_config, policy_config = config.model, config.policy
        observation_space, action_space = envs.observation_space, envs.action_space
        obs_dim, act_dim = observation_space.shape[0], action_space.shape[0]
        model = ContextModel(
            obs_dim,
            act_dim,
            model_config.context_dim,
            hidden_sizes=model_config.hidden_sizes,
            varies=varies(config.family),
            learn_initial_context=model_config.learn_initial_context,
        ).to(device)
        return cls(
            config=config,
            task_set=envs.task_set,
            model=model,
            adapter=GradientContextAdapter(
                model,
                steps=model_config.inner_steps,
                lr=(model_config.inner_lr,) * model_config.inner_steps
                + (config.adapt.later_context_lr,),
                max_grad_norm=model_config.max_inner_grad_norm,
            ),
            algorithm=build_sac(
                observation_space,
                action_space,
                model_config.context_dim,
                hidden_sizes=policy_config.hidden_sizes,
                critic_layer_norm=policy_config.critic_layer_norm,
                lr=policy_config.lr,
                gamma=policy_config.gamma,
                tau=policy_config.tau,
                target_entropy=policy_config.target_entropy,
                device=device,
                algorithm_class=FastSAC,
            ),
            replay=ContextReplayBuffer(
                len(envs.task_set.meta_train),
                config.replay_per_task,
                obs_dim=obs_dim,
                act_dim=act_dim,
                context_dim=model_config.context_dim,
                generator=generator,
            ),
            device=device,
        )

    def state(self) -> dict[str, Any]:
        """All parameters, optimizers of the algorithm, and experience, as a tree."""
        return {
            "model": dict(self.model.state_dict()),
            "algorithm": algorithm_state(self.algorithm),
            "replay": self.replay.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` gave, into a run of the same configuration.

        Raises:
            ValueError: If it does not fit; nothing is changed then.
        """
        self.check_state(state)
        self.model.load_state_dict(state["model"])
        load_algorithm_state(self.algorithm, state["algorithm"])
        self.replay.load_state(state["replay"])

    def check_state(self, state: Any) -> None:
        """Check that :meth:`load_state` would take this state.

        Raises:
            ValueError: If it would not; the message says why.
        """
        require_keys(dict.fromkeys(("model", "algorithm", "replay")), state, "run")
        require_like(dict(self.model.state_dict()), state["model"], "run/model")
        check_algorithm_state(self.algorithm, state["algorithm"])
        self.replay.check_state(state["replay"])


def run_manifest(config: MetaTrainConfig, seed: int, tasks: TaskSet) -> dict[str, Any]:
    """What a run is: configuration, seed, tasks, and the versions that work on it."""
    require_types("run_manifest", config=(config, MetaTrainConfig), tasks=(tasks, TaskSet))
    require_seed("run_manifest", seed)
    return {
        "config": config.to_dict(),
        "seed": seed,
        "task_set_hash": tasks.hash,
        "versions": library_versions(),
    }


def write_run_file(directory: Path, manifest: dict[str, Any]) -> None:
    """Write :func:`run_manifest` to ``run.json``, atomically."""
    require_types("write_run_file", directory=(directory, Path), manifest=(manifest, dict))
    replace_text(directory / RUN_FILE, json.dumps(manifest, indent=2) + "\n")


def require_same_run(directory: Path, manifest: dict[str, Any]) -> None:
    """Check that a directory's run is this one, perhaps with other ``updates``.

    Neither does it matter how the run adapts: ``config.adapt`` may be changed in ``run.json``.

    Raises:
        ValueError: If it is not; the message names what differs.
        CheckpointError: If ``run.json`` is not one of this version.
    """
    require_type("require_same_run", "manifest", manifest, dict)
    if missing := {"config", "seed", "task_set_hash"} - manifest.keys():
        raise ValueError(f"require_same_run expected a manifest with {sorted(missing)}.")
    found_config, found_seed, found_tasks = read_run_file(directory)
    found, wanted = found_config.to_dict(), manifest["config"]
    fields = [
        name for name in wanted if name not in ("updates", "adapt") and wanted[name] != found[name]
    ]
    if fields:
        raise ValueError(
            f"{directory} holds a run of another configuration: {', '.join(fields)} differ. "
            "Choose another directory, or the options of that run (see its run.json)."
        )
    seed, tasks = manifest["seed"], manifest["task_set_hash"]
    if (found_seed, found_tasks) != (seed, tasks):
        raise ValueError(
            f"{directory} holds a run with seed {found_seed} and tasks {found_tasks[:12]}, not "
            f"seed {seed} and tasks {tasks[:12]}. Choose another directory, or that seed."
        )


def read_run_file(directory: Path) -> tuple[MetaTrainConfig, int, str]:
    """Configuration, seed and task-set hash of a run.

    Raises:
        FileNotFoundError: If the directory holds no run.
        CheckpointError: If ``run.json`` is not one of this version.
    """
    require_type("read_run_file", "directory", directory, Path)
    path = directory / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a run directory, but {directory} holds no {RUN_FILE}. "
            "`mier-adapt meta-train PRESET --out DIR` makes one."
        )
    try:
        contents = json.loads(path.read_text())
        config = MetaTrainConfig.from_dict(contents["config"])
        return config, int(contents["seed"]), str(contents["task_set_hash"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not describe a run of this version: {error}") from error


def load_run(directory: Path, envs: TaskEnvs | None = None, *, device: str = "cpu") -> Run:
    """Read the newest whole checkpoint of a run, for evaluation or adaptation.

    Args:
        directory: What ``mier-adapt meta-train --out`` was given.
        envs: The family's environments, to share them; otherwise made for the moment.
        device: Where the networks go.

    Raises:
        FileNotFoundError: If there is no run or no checkpoint yet.
        CheckpointError: If a file is damaged, or the tasks are not those of the run.
    """
    require_type("load_run", "envs", envs, (TaskEnvs, type(None)))
    config, seed, task_set_hash = read_run_file(directory)
    tasks = task_set(config.family, config.task_set)
    if tasks.hash != task_set_hash:
        raise CheckpointError(
            f"{directory} was trained on other tasks than this version's {config.family} "
            f"{config.task_set!r}: expected hash {task_set_hash}, got {tasks.hash}."
        )
    try:
        path, tree = load_checkpoint(directory)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{directory} holds no {CHECKPOINT_FILE} yet. Let `mier-adapt meta-train` go on."
        ) from error
    try:
        require_same_manifest(config, seed, task_set_hash, tree)
        tree["run"]["replay"] = unpack_replay(tree["run"]["replay"])
        # Replay memory is filled from the checkpoint and not added to: give it no more room.
        held = min(max(tree["run"]["replay"]["lengths"]), config.replay_per_task)
        config = dataclasses.replace(config, replay_per_task=max(1, held))
    except (ValueError, TypeError, LookupError) as error:
        raise CheckpointError(f"{path} does not fit {directory / RUN_FILE}: {error}") from error
    own_envs = TaskEnvs(tasks) if envs is None else envs
    try:
        run = Run.build(config, own_envs, generator=np.random.default_rng(seed), device=device)
    finally:
        if envs is None:
            own_envs.close()
    try:
        run.load_state(tree["run"])
    except ValueError as error:
        raise CheckpointError(f"{path} does not fit {directory / RUN_FILE}: {error}") from error
    return run


def require_same_manifest(
    config: MetaTrainConfig, seed: int, task_set_hash: str, tree: Any
) -> None:
    """Check that a checkpoint is of the run that its directory's ``run.json`` describes.

    Raises:
        ValueError: If it is not.
    """
    manifest = tree["manifest"]
    found = MetaTrainConfig.from_dict(manifest["config"])
    for name, same in (
        (
            "configuration",
            dataclasses.replace(found, updates=config.updates, adapt=config.adapt) == config,
        ),
        ("seed", manifest["seed"] == seed),
        ("task set", manifest["task_set_hash"] == task_set_hash),
    ):
        if not same:
            raise ValueError(f"it is of a run with another {name}")
