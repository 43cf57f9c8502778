"""Run: the parts of a meta-trained agent, built from a configuration or read from a directory."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch

from mier_adapt._checks import Count, Device, checked
from mier_adapt._storage.files import FOREIGN_ERRORS, CheckpointError, require_kinds
from mier_adapt._storage.randomness import kept_global_generators
from mier_adapt._storage.trees import require_keys, require_like
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig, MetaTrainConfig, ModelConfig
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.new_task import NewTask
from mier_adapt.agents.packed_run import unpack_algorithm, unpack_replay
from mier_adapt.agents.run_file import RUN_FILE, find_run, load_run_files
from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.context_model import ContextModel
from mier_adapt.integration import (
    ContextReplayBuffer,
    FastSAC,
    algorithm_state,
    build_sac,
    load_algorithm_state,
)
from mier_adapt.integration.algorithm_state import check_algorithm_state
from mier_adapt.protocols import Varies
from mier_adapt_envs import Task, TaskSet, env_class


def build_adapter(
    config: ModelConfig,
    obs_dim: int,
    act_dim: int,
    *,
    varies: Varies,
    device: torch.device | str,
    generator: torch.Generator | None = None,
) -> GradientContextAdapter:
    """A new context model, and what identifies tasks with it.

    Args:
        config: Their shape and step sizes.
        obs_dim: Dimensions of an observation.
        act_dim: Dimensions of an action.
        varies: As :class:`.ContextModel`'s.
        device: Where the model goes.
        generator: Draws the initial weights; torch's global one when ``None``.
    """
    model = ContextModel(
        obs_dim,
        act_dim,
        config.context_dim,
        hidden_sizes=config.hidden_sizes,
        varies=varies,
        learn_initial_context=config.learn_initial_context,
        generator=generator,
    ).to(device)
    return GradientContextAdapter(
        model,
        steps=config.inner_steps,
        lr=config.inner_lr,
        max_grad_norm=config.max_inner_grad_norm,
    )


@dataclass(eq=False, kw_only=True)
class Run(Agent):
    """A meta-trained agent: a SAC that is conditioned on its model's context.

    The replay holds a buffer for each meta-training task, in the task set's order.
    """

    config: MetaTrainConfig
    """What the run was built from."""
    adapt_config: AdaptConfig = dataclasses.field(default_factory=AdaptConfig)
    """How it meets new tasks."""
    task_set: TaskSet
    """Its tasks, meta-training and meta-test."""

    @property
    def task_names(self) -> Sequence[str]:
        """As :attr:`.Agent.task_names`: the tasks as they print."""
        return [str(task) for task in self.task_set.meta_train]

    @classmethod
    @checked
    def build(
        cls,
        config: MetaTrainConfig,
        envs: FamilyEnvs,
        *,
        adapt_config: AdaptConfig,
        generator: np.random.Generator,
        device: Device = "cpu",
    ) -> Self:
        """A new agent. Initial weights come from torch's global generator.

        Args:
            config: What to build.
            envs: The family's environments, for their spaces.
            adapt_config: How the run will meet new tasks.
            generator: Draws the samples of the run's replay.
            device: Where networks live.
        """
        obs_dim, act_dim = envs.observation_space.shape[0], envs.action_space.shape[0]
        return cls(
            config=config,
            adapt_config=adapt_config,
            task_set=envs.task_set,
            adapter=build_adapter(
                config.model,
                obs_dim,
                act_dim,
                varies=env_class(config.family).varies,
                device=device,
            ),
            algorithm=_build_algorithm(config, envs, device),
            replay=ContextReplayBuffer(
                len(envs.task_set.meta_train),
                config.replay_per_task,
                obs_dim=obs_dim,
                act_dim=act_dim,
                context_dim=config.model.context_dim,
                generator=generator,
            ),
        )

    @checked
    def new_task(self, envs: FamilyEnvs, task: Task) -> NewTask:
        """One of the family's tasks, to adapt to.

        Raises:
            ValueError: If it is of another family.
        """
        return NewTask.of_family(envs, task, episode_steps=self.config.episode_steps)

    @checked
    def with_context_steps(self, steps: Count) -> Self:
        """The same run, identifying tasks by another number of context steps."""
        adapter = self.adapter.with_steps(steps, later_lr=self.adapt_config.later_context_lr)
        return dataclasses.replace(self, adapter=adapter)

    @property
    def context_model(self) -> ContextModel:
        """The model, which in a run is the library's own."""
        return cast(ContextModel, self.model)

    def state(self) -> dict[str, Any]:
        """All parameters, optimizers of the algorithm, and experience, as a tree."""
        return {
            "model": dict(self.context_model.state_dict()),
            "algorithm": algorithm_state(self.algorithm),
            "replay": self.replay.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` gave, into a run of the same configuration.

        Raises:
            ValueError: If it does not fit; nothing is changed then.
        """
        self.check_state(state)
        self.context_model.load_state_dict(state["model"])
        load_algorithm_state(self.algorithm, state["algorithm"])
        self.replay.load_state(state["replay"])

    def check_state(self, state: Any) -> None:
        """Check that :meth:`load_state` would take this state.

        Raises:
            ValueError: If it would not; the message says why.
        """
        require_keys(dict.fromkeys(("model", "algorithm", "replay")), state, "run")
        require_like(dict(self.context_model.state_dict()), state["model"], "run/model")
        check_algorithm_state(self.algorithm, state["algorithm"])
        self.replay.check_state(state["replay"])


def _build_algorithm(config: MetaTrainConfig, envs: FamilyEnvs, device: torch.device | str) -> Any:
    return build_sac(
        envs.observation_space,
        envs.action_space,
        config.model.context_dim,
        hidden_sizes=config.policy.hidden_sizes,
        lr=config.policy.lr,
        gamma=config.policy.gamma,
        tau=config.policy.tau,
        target_entropy=config.policy.target_entropy,
        device=device,
        algorithm_class=FastSAC,
    )


def _check_sizes_state(config: MetaTrainConfig, envs: FamilyEnvs, state: Any) -> None:
    """Check that a state is of a configuration's sizes, before anything of these is made.

    Raises:
        ValueError: If it is not.
    """
    require_kinds([int], state["replay"]["lengths"], "replay/lengths")
    input_dim = envs.observation_space.shape[0] + envs.action_space.shape[0]
    sizes = (input_dim + config.model.context_dim, *config.model.hidden_sizes)
    for number, (size_in, size_out) in enumerate(itertools.pairwise(sizes)):
        name = f"layers.{number}.weight"
        found = tuple(state["model"][name].shape)
        if found != (size_out, size_in):
            raise ValueError(f"run/model/{name} is of {found}, not of {(size_out, size_in)}")
    tensors = state["algorithm"]["algorithm"]
    if len(config.policy.hidden_sizes) > len(tensors):
        raise ValueError(f"run/algorithm has {len(tensors)} tensors for more hidden layers")
    try:
        with torch.device("meta"):  # where tensors have shapes and no memory
            algorithm = _build_algorithm(config, envs, "meta")
    except RuntimeError as error:
        raise ValueError(f"there can be no networks of such sizes: {error}") from error
    check_algorithm_state(algorithm, state["algorithm"])


@checked
def load_run(run: Path | str, envs: FamilyEnvs | None = None, *, device: Device = "cpu") -> Run:
    """Read the newest whole checkpoint of a run, for evaluation or adaptation.

    Example:
        >>> run = load_run("halfcheetah-negated-joints")
        >>> run.replay.num_tasks, str(run.task_set.meta_test[0])
        (10, 'negated joints 1,2,6')

    Args:
        run: What ``mier-adapt meta-train --out`` was given, or the name of a pretrained run, as
            ``mier-adapt pretrained`` lists them.
        envs: The family's environments, to share them; otherwise made for the moment.
        device: Where the networks go.

    Leaves the global generators of the CPU as they were. Takes no more memory than the files are
    long, whatever they say.

    Raises:
        FileNotFoundError: If there is no run or no checkpoint yet.
        CheckpointError: If a file is damaged, or the tasks are not those of the run.
    """
    directory = find_run(run)
    run_file, path, tree = load_run_files(directory)
    config = run_file.config
    own_envs = FamilyEnvs(config.tasks) if envs is None else envs
    try:
        with kept_global_generators():
            state = tree["run"]
            state["algorithm"] = unpack_algorithm(state["algorithm"])
            _check_sizes_state(config, own_envs, state)
            state["replay"] = unpack_replay(state["replay"])
            # Replay memory is filled from the checkpoint and not added to: give it no more room.
            rows = len(state["replay"]["columns"]["rew"])
            held = min(max(state["replay"]["lengths"]), rows, config.replay_per_task)
            loaded = Run.build(
                dataclasses.replace(config, replay_per_task=max(1, held)),
                own_envs,
                adapt_config=run_file.adapt_config,
                generator=np.random.default_rng(run_file.seed),
                device=device,
            )
            loaded.load_state(state)
    except FOREIGN_ERRORS as error:
        raise CheckpointError(f"{path} does not fit {directory / RUN_FILE}: {error}") from error
    finally:
        if envs is None:
            own_envs.close()
    return loaded
