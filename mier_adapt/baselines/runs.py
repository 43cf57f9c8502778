"""Runs of baselines: what their files say, how they are trained into a directory, and read."""

import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mier_adapt._checks import Device, NonNegative, Seed, Size, checked, checked_fields, shown
from mier_adapt._memory import keep_freed_memory
from mier_adapt._products import quick_products
from mier_adapt._storage.files import FOREIGN_ERRORS, CheckpointError
from mier_adapt._storage.randomness import (
    check_generator_state,
    check_global_generator_state,
    global_generator_state,
    kept_global_generators,
    seed_global_generators,
    set_global_generator_state,
)
from mier_adapt._storage.trees import require_keys, require_like, require_optimizer_state
from mier_adapt._typing import Float, Tensor
from mier_adapt.agents.configs import Split
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.rollouts import Rollout, collect_episodes
from mier_adapt.agents.run_file import load_run_files, made_with, require_run, require_same_run
from mier_adapt.baselines.presets import preset_settings
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt.protocols import Actor, MetaPolicy
from mier_adapt.training.metrics import Log, evaluated
from mier_adapt.training.running import entered, keep_training
from mier_adapt_envs import TaskSet, task_set

_Config = TypeVar("_Config", bound="BaselineConfig")
_Networks = TypeVar("_Networks", bound=nn.Module)
_Policy = TypeVar("_Policy", bound=MetaPolicy)


@dataclass(frozen=True)
class BaselineFile:
    """What ``run.json`` and a checkpoint's manifest say of a baseline's run."""

    method: ClassVar[str]
    """Its name there."""
    config_class: ClassVar[Any]
    """Of what is trained, which goes to plain values and comes from them."""

    config: Any
    """What is trained."""
    seed: int
    """Fixes the run."""
    task_set_hash: str
    """Of the tasks that it is trained on."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, with the versions and torch's threads that work on the run."""
        return {
            "method": self.method,
            "config": self.config.to_dict(),
            "seed": self.seed,
            "task_set_hash": self.task_set_hash,
            **made_with(),
        }

    @classmethod
    def from_dict(cls, contents: Any) -> Self:
        """What :meth:`to_dict` gave.

        Raises:
            OtherMethodError: If it is a run of another method.
            UnknownFamilyError: If nothing has registered its family.
            ValueError: If it was given by something else.
        """
        require_run(contents, cls.method)
        try:
            config = cls.config_class.from_dict(contents["config"])
        except FOREIGN_ERRORS as error:
            raise ValueError(f"it holds no configuration: {error}") from error
        return cls(config, contents["seed"], contents["task_set_hash"])

    def require_same(self, other: "BaselineFile", where: str) -> None:
        """Check that both are of one run, perhaps with other ``updates``.

        Raises:
            ValueError: If they are not; the message names what differs.
        """
        require_same_run(self, other, where)


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """What every method's configuration says; each adds its own and gives ``updates`` a default."""

    family: str
    """Family of tasks, as `mier-adapt tasks` lists them."""
    task_set: str = "standard"
    """Which of the family's task sets."""
    updates: Size
    """Gradient steps of the whole run."""
    updates_per_iteration: Size = 1
    """Those between two rows of measurements."""
    exploration_episodes: Size
    """Episodes that a new task is met with."""
    episode_steps: Size = 200
    """Environment steps of an episode."""
    evaluate_every: Size = 10
    """Iterations between evaluations."""
    evaluated_split: Split = "meta_train"
    """Which tasks are evaluated. Those of the meta-test split are for curves to report: settings
    that are chosen by them have seen them."""
    evaluated_tasks: Size = 10
    """How many of these tasks, the split's first ones."""

    def __post_init__(self) -> None:
        checked_fields(self)
        task_set(self.family, self.task_set)  # which says what there is, where there is none such

    @property
    def tasks(self) -> TaskSet:
        """The tasks of a run: those that it trains on, and those that are kept for evaluation."""
        return task_set(self.family, self.task_set)

    @property
    def adaptation_steps(self) -> int:
        """Environment steps that a new task is met with."""
        return self.exploration_episodes * self.episode_steps

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that :meth:`to_dict` gave.

        Raises:
            ValueError: If a field is unknown or out of range.
        """
        try:
            options: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in dict(values).items()
            }
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Not a configuration of this version: {error}") from error


class BaselineTrainer(ABC, Generic[_Config, _Networks, _Policy]):
    """A run in the making; :meth:`step` is one update with all that falls due at it.

    Between two calls the whole future of the run is a function of :meth:`state`. A method says what
    an update is; counting, measuring and the state are the same for all.

    Args:
        config: What to train.
        envs: The environments of the configuration's task set; only its meta-training tasks are
            run.
        seed: Fixes the run.
        device: Where networks live and learn.
    """

    measures: ClassVar[tuple[str, ...]]
    """Names of what an update measures."""
    networks_class: ClassVar[Any]
    """Makes the networks, from torch's global generator, of configuration, environments, device."""
    policy_class: ClassVar[Any]
    """Makes a :class:`.MetaPolicy` of configuration and networks, and of what else is kept."""

    def __init__(
        self,
        config: _Config,
        envs: FamilyEnvs,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        keep_freed_memory()
        seed_global_generators(seed)
        self.generator = np.random.default_rng(seed)
        self.config, self.envs, self.device = config, envs, torch.device(device)
        self.networks: _Networks = self.networks_class(config, envs, device)
        self.policy: _Policy = self.policy_class(config, self.networks)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.replays: dict[str, ContextReplayBuffer] = {}
        self.updates = 0
        self.env_steps = 0
        self.seconds = 0.0
        self._forget_measurements()
        self.prepare()

    def prepare(self) -> None:
        """Make what the method needs beside networks: optimizers, replays, what it counts."""

    @abstractmethod
    def update(self) -> Float[Tensor, " M"]:
        """Collect where that is due, and learn; what it :attr:`measures`."""

    def new_replay(self, name: str, size_per_task: int) -> ContextReplayBuffer:
        """A buffer of the meta-training tasks' transitions, which is part of the state."""
        self.replays[name] = empty_replay(self.envs, size_per_task, self.generator)
        return self.replays[name]

    def gather(
        self,
        tasks: NDArray[np.int_],
        actor: Actor,
        *,
        episodes: int = 1,
        replays: Sequence[ContextReplayBuffer] = (),
    ) -> list[Rollout]:
        """Run episodes of these meta-training tasks, and store them.

        Args:
            tasks: Indices, which may repeat.
            actor: Acts in all of them, and explores.
            episodes: Of each task.
            replays: Where they are stored.
        """
        steps = episodes * self.config.episode_steps
        rollouts = collect_episodes(
            self.envs.of_size,
            [self.envs.task_set.meta_train[task] for task in tasks],
            actor,
            steps=steps,
            episode_steps=self.config.episode_steps,
            generator=self.generator,
        )
        for task, rollout in zip(tasks, rollouts, strict=True):
            gathered, truncated = rollout.transitions.flatten(), rollout.truncated.reshape(-1)
            for replay in replays:
                replay.extend(task, gathered, truncated=truncated)
        self.env_steps += steps * len(tasks)
        return rollouts

    @classmethod
    def kept(cls, config: Any, envs: FamilyEnvs, state: Mapping[str, Any]) -> tuple[Any, ...]:
        """What :attr:`policy_class` takes of a :meth:`state` beside networks: mostly nothing."""
        return ()

    @property
    def finished(self) -> bool:
        """Whether all updates were taken."""
        return self.updates >= self.config.updates

    def step(self) -> dict[str, Any] | None:
        """Take one update.

        Returns:
            The measurements of an iteration that this step completed, or ``None``.

        Raises:
            FloatingPointError: If something stops being finite; names it and the step.
        """
        started = time.monotonic()
        self._sums += self.update().detach()  # which waits for no device
        self._summed += 1
        self.updates += 1
        row = None
        if self.updates % self.config.updates_per_iteration == 0 or self.finished:
            row = self._measure()
        self.seconds += time.monotonic() - started
        return row if row is None else {**row, "seconds": self.seconds}

    def _measure(self) -> dict[str, Any]:
        """Close an iteration: means since the last one, and an evaluation where it is due."""
        config = self.config
        means = dict(zip(self.measures, (self._sums / self._summed).tolist(), strict=True))
        for name, value in means.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The mean {name} is {value} over the updates up to {self.updates}. The "
                    "checkpoint before them is whole. Lower lr and start a new run."
                )
        self._forget_measurements()
        row = {"updates": self.updates, "env_steps": self.env_steps, **means}
        iteration = -(-self.updates // config.updates_per_iteration)
        if iteration % config.evaluate_every == 0 or self.finished:
            row |= evaluated(
                self.policy,
                self.envs,
                config.evaluated_split,
                config.evaluated_tasks,
                adaptation_steps=config.adaptation_steps,
                episode_steps=config.episode_steps,
            )
        return row

    def _forget_measurements(self) -> None:
        self._sums, self._summed = torch.zeros(len(self.measures), device=self.device), 0

    def state(self) -> dict[str, Any]:
        """All that :meth:`load_state` needs to go on as if nothing had happened."""
        return {
            "networks": dict(self.networks.state_dict()),
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.items()},
            "replays": {name: each.state() for name, each in self.replays.items()},
            **self._counts(),
            "generator": self.generator.bit_generator.state,
            "global_generators": global_generator_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave in a run of the same configuration.

        Raises:
            ValueError: If it does not fit; nothing is changed then.
        """
        self._check_state(state)
        self.networks.load_state_dict(state["networks"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, replay in self.replays.items():
            replay.load_state(state["replays"][name])
        self.updates, self.env_steps = state["updates"], state["env_steps"]
        self.seconds, self._summed = state["seconds"], state["summed"]
        self._sums = state["sums"].to(self.device)
        self.generator.bit_generator.state = state["generator"]
        set_global_generator_state(state["global_generators"])

    def _counts(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "env_steps": self.env_steps,
            "seconds": self.seconds,
            "summed": self._summed,
            "sums": self._sums.cpu(),
        }

    def _check_state(self, state: Any) -> None:
        require_keys(self.state(), state, "state")
        require_like(dict(self.networks.state_dict()), state["networks"], "networks")
        require_keys(self.optimizers, state["optimizers"], "optimizers")
        for name, optimizer in self.optimizers.items():
            require_optimizer_state(optimizer, state["optimizers"][name], f"optimizers/{name}")
        require_keys(self.replays, state["replays"], "replays")
        for name, replay in self.replays.items():
            replay.check_state(state["replays"][name])
        for name, own in self._counts().items():
            require_like(own, state[name], name)
            if name != "sums" and state[name] < 0:
                raise ValueError(f"{name}: expected a count, got {state[name]}.")
        check_generator_state(self.generator, state["generator"])
        check_global_generator_state(state["global_generators"])


def descend(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    """A step of an optimizer; what else the loss passes through gets no gradient."""
    optimizer.zero_grad()
    loss.backward(inputs=optimizer.param_groups[0]["params"])  # type: ignore[no-untyped-call]
    optimizer.step()


def empty_replay(
    envs: FamilyEnvs, size_per_task: int, generator: np.random.Generator
) -> ContextReplayBuffer:
    """A buffer for transitions of the meta-training tasks, without contexts."""
    return ContextReplayBuffer(
        len(envs.task_set.meta_train),
        size_per_task,
        obs_dim=envs.observation_space.shape[0],
        act_dim=envs.action_space.shape[0],
        context_dim=0,
        generator=generator,
    )


def load_policy(
    kind: type[BaselineFile],
    trainer: type[BaselineTrainer[Any, Any, _Policy]],
    directory: Path,
    *,
    device: torch.device | str,
) -> _Policy:
    """The policy of a run's newest whole checkpoint: its networks, and what else it keeps.

    Args:
        kind: Of the run's file.
        trainer: Made the run.
        directory: The run's.
        device: Where the networks go.

    Leaves torch's generator of the CPU as it was.

    Raises:
        FileNotFoundError: If there is no run or no checkpoint yet.
        OtherMethodError: If it is a run of another method.
        CheckpointError: If a file is damaged, or the tasks are not those of the run.
    """
    run_file, path, tree = load_run_files(directory, kind)
    config = run_file.config
    try:
        with kept_global_generators(), FamilyEnvs(config.tasks) as envs:
            build = trainer.networks_class
            _require_fitting(lambda: build(config, envs, "meta"), tree["networks"])
            networks = build(config, envs, device)
            networks.load_state_dict(tree["networks"])
            kept = trainer.kept(config, envs, tree)
    except FOREIGN_ERRORS as error:
        raise CheckpointError(f"{path} does not fit its run: {error}") from error
    policy: _Policy = trainer.policy_class(config, networks.requires_grad_(False), *kept)
    return policy


def _require_fitting(build: Callable[[], nn.Module], given: Mapping[str, Any]) -> None:
    """Check shapes before anything takes memory: files may ask for networks of any size."""
    try:
        with torch.device("meta"):  # where tensors have shapes and no memory
            expected = dict(build().state_dict())
    except RuntimeError as error:
        raise ValueError(f"there can be no networks of such sizes: {error}") from error
    require_like(expected, given, "networks")


@dataclass(frozen=True, kw_only=True)
class BaselineMethod:
    """A baseline with one configuration, a :class:`.Method`."""

    config: Any
    """What is trained."""
    device: Device = "cpu"
    """Where networks live and learn."""

    run_file: ClassVar[type[BaselineFile]]
    """What its runs' files say."""
    trainer: ClassVar[type[BaselineTrainer[Any, Any, Any]]]
    """Makes a run in its beginnings of a configuration and environments."""

    def __post_init__(self) -> None:
        checked_fields(self)
        if not isinstance(self.config, self.run_file.config_class):
            raise TypeError(
                f"{type(self).__name__} expected config to be a "
                f"{self.run_file.config_class.__name__}, got {shown(self.config)}."
            )

    @classmethod
    @checked
    def of_preset(cls, name: str, *, device: Device = "cpu", **changes: Any) -> Self:
        """With the settings of a preset, as `mier-adapt meta-train NAME --method` takes them.

        Args:
            name: One of our presets, for settings that fit it; with ``-paper`` behind, for those
                that were published for its tasks.
            device: Where networks live and learn.
            **changes: Fields of the configuration that are to be different.

        Raises:
            ValueError: If the method has no such preset, or no such field.
        """
        settings = {**preset_settings(cls.run_file.method, name), **changes}
        return cls(config=cls.run_file.config_class.from_dict(settings), device=device)

    @checked
    @torch.inference_mode(False)
    @quick_products()
    def meta_train(
        self,
        directory: Path,
        *,
        seed: Seed,
        should_stop: Callable[[], bool] = lambda: False,
        checkpoint_seconds: NonNegative = 120.0,
        log: Log = "tensorboard",
        on_step: Callable[[Any, dict[str, Any] | None], None] = lambda trainer, row: None,
    ) -> bool:
        """As :meth:`.Method.meta_train`; files and errors are those of :func:`.meta_train`.

        Args:
            directory: Gets the run, or holds it.
            seed: Fixes it.
            should_stop: Asked after every step; True saves a checkpoint and leaves.
            checkpoint_seconds: Wall-clock time between checkpoints.
            log: Where measurements go besides ``metrics.jsonl``.
            on_step: Called after every step, with an iteration's measurements when one ends.
        """
        config = self.config
        run_file = self.run_file(config, seed, config.tasks.hash)
        with entered(directory, run_file, log=log), FamilyEnvs(config.tasks) as envs:
            return keep_training(
                self.trainer(config, envs, seed=seed, device=self.device),
                directory,
                run_file,
                checkpoint_seconds=checkpoint_seconds,
                log=log,
                should_stop=should_stop,
                on_step=on_step,
            )

    @checked
    def load(self, directory: Path) -> Any:
        """As :meth:`.Method.load`; the configuration is that of the run."""
        return self.policy_of(directory, device=self.device)

    @classmethod
    def policy_of(cls, directory: Path, *, device: torch.device | str) -> Any:
        """What a run has learned, a :class:`.MetaPolicy`; errors are those of :func:`.load_run`."""
        return load_policy(cls.run_file, cls.trainer, directory, device=device)
