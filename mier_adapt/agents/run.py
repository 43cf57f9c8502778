"""Run: the parts of a meta-trained agent, built from a configuration or read from a directory."""

import contextlib
import dataclasses
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch

from mier_adapt._checks import Count, Device, checked
from mier_adapt._storage.checkpoints import (
    CHECKPOINT_FILE,
    PREVIOUS_FILE,
    library_versions,
    load_checkpoint,
)
from mier_adapt._storage.files import (
    FOREIGN_ERRORS,
    CheckpointError,
    read_bytes,
    read_json,
    replace_text,
    require_kinds,
)
from mier_adapt._storage.randomness import kept_global_generators
from mier_adapt._storage.trees import require_keys, require_like
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig, MetaTrainConfig, ModelConfig
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.new_task import NewTask
from mier_adapt.agents.packed_run import unpack_algorithm, unpack_replay
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
from mier_adapt_envs import Task, TaskSet, env_class, families, task_set

_logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
"""What a run is (configuration, seed, task set), in the run's directory."""
CARD_FILE = "card.json"
"""Beside it where the run was exported."""
OURS = "mier"
"""The method of a run whose file names none."""
MOST_THREADS = 1024
"""Of torch, that ``run.json`` or a command may ask for."""
PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Package data: a directory for each pretrained run."""


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


class UnknownFamilyError(CheckpointError):
    """A run whose family is not registered."""


class OtherMethodError(CheckpointError):
    """A run of another method than what was asked to read it."""


class RunFile(NamedTuple):
    """What ``run.json`` and a checkpoint's manifest say of a run."""

    config: MetaTrainConfig
    adapt_config: AdaptConfig
    seed: int
    task_set_hash: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, with the versions and torch's threads that work on the run."""
        return {
            "config": self.config.to_dict(),
            "adapt": self.adapt_config.to_dict(),
            "seed": self.seed,
            "task_set_hash": self.task_set_hash,
            **made_with(),
        }

    @classmethod
    def from_dict(cls, contents: Any) -> "RunFile":
        """What :meth:`to_dict` gave.

        Raises:
            OtherMethodError: If it is a run of another method.
            UnknownFamilyError: If nothing has registered its family.
            ValueError: If it was given by something else.
        """
        require_run(contents, OURS)
        try:
            config = dict(contents["config"])
            # Release 0.1 kept it with the configuration of meta-training.
            adapt = config.pop("adapt", None) or contents["adapt"]
            return cls(
                MetaTrainConfig.from_dict(config),
                AdaptConfig.from_dict(adapt),
                contents["seed"],
                contents["task_set_hash"],
            )
        except FOREIGN_ERRORS as error:
            raise ValueError(f"it holds no configurations: {error}") from error

    def require_same(self, other: "RunFile", where: str) -> None:
        """Check that both are of one run, perhaps with other ``updates`` or ways to adapt.

        Raises:
            ValueError: If they are not; the message names what differs.
        """
        require_same_run(self, other, where)


def made_with() -> dict[str, Any]:
    """What a run's file says of the process that works on it: versions, and torch's threads."""
    return {"versions": library_versions(), "threads": torch.get_num_threads()}


def require_run(contents: Any, method: str) -> None:
    """Check that a run's file is one of a method, of a family that is known.

    Raises:
        OtherMethodError: If it is a run of another method.
        UnknownFamilyError: If nothing has registered its family.
        ValueError: If it is something else.
    """
    require_kinds({"config": {"family": str}, "seed": int, "task_set_hash": str}, contents, "it")
    found = contents.get("method", OURS)
    if found != method:
        raise OtherMethodError(
            f"it is a run of method {found!r:.80}, not of {method!r}. Load it by that method, or "
            "choose another directory."
        )
    if (family := contents["config"]["family"]) not in families():
        raise UnknownFamilyError(
            f"family {family[:80]} is not known; --import the module that registers it (in "
            "Python, import it first)."
        )


def require_same_run(mine: Any, other: Any, where: str) -> None:
    """Check that two run files are of one run, perhaps with other ``updates``.

    Raises:
        ValueError: If they are not; the message names what differs.
    """
    wanted, found = (
        {**each.config.to_dict(), "seed": each.seed, "task_set_hash": each.task_set_hash}
        for each in (mine, other)
    )
    fields = [name for name in wanted if name != "updates" and wanted[name] != found[name]]
    if fields:
        raise ValueError(
            f"{where} is of another run: {', '.join(fields)} differ. Choose another directory, "
            "or the options and the seed of that run (see its run.json)."
        )


def write_run_file(directory: Path, run_file: Any) -> None:
    """Write ``run.json``, atomically, where it does not say the same already."""
    path, text = directory / RUN_FILE, json.dumps(run_file.to_dict(), indent=2) + "\n"
    with contextlib.suppress(OSError, CheckpointError):
        if read_bytes(path, most=len(text), follow=False) == text.encode():
            return
    replace_text(path, text)


def read_run_file(directory: Path, kind: Any = RunFile) -> Any:
    """What a directory's ``run.json`` says; where that is damaged or gone, what a checkpoint says.

    Args:
        directory: The run's.
        kind: Of the file: what ``from_dict`` is asked of, and gives.

    Raises:
        FileNotFoundError: If the directory holds no run.
        OtherMethodError: If it is a run of another method.
        UnknownFamilyError: If nothing has registered its family.
        CheckpointError: If ``run.json`` is not one of this version, and no checkpoint is whole.
    """
    path = directory / RUN_FILE
    try:
        return kind.from_dict(read_json(path))
    except OtherMethodError as error:
        raise OtherMethodError(f"{directory}: {error}") from error
    except (FileNotFoundError, ValueError) as error:
        try:
            checkpoint, tree = load_checkpoint(directory)
            found = kind.from_dict(tree["manifest"])
        except (OtherMethodError, UnknownFamilyError) as known:
            raise type(known)(f"{directory}: {known}") from error
        except (OSError, *FOREIGN_ERRORS):
            if isinstance(error, FileNotFoundError):
                raise error from None
            if isinstance(error, UnknownFamilyError):
                raise UnknownFamilyError(f"{directory}: {error}") from error
            raise CheckpointError(
                f"{path} does not describe a run of this version: {error}"
            ) from error
        _logger.warning(
            "%s is %s; going on from what %s says of the run (%s)",
            path,
            "missing" if isinstance(error, FileNotFoundError) else "damaged",
            checkpoint.name,
            error,
        )
        return found


def method_of_run(directory: Path) -> str:
    """By which method a directory's run was trained, as ``run.json`` says; ours if it does not."""
    try:
        said = read_json(directory / RUN_FILE)
    except (OSError, CheckpointError):
        return OURS
    method = said.get("method", OURS) if isinstance(said, dict) else OURS
    return str(method)


def recorded_threads(directory: Path) -> int | None:
    """How many of torch's threads a directory's run was last trained on, if ``run.json`` says."""
    try:
        threads = read_json(directory / RUN_FILE, {"threads": int})["threads"]
    except (OSError, CheckpointError):
        return None
    return int(threads) if 1 <= threads <= MOST_THREADS else None


def pretrained_names() -> list[str]:
    """Names of the pretrained runs that come with this installation."""
    return sorted(card.parent.name for card in PRETRAINED.glob(f"*/{CARD_FILE}"))


def find_run(run: Path | str) -> Path:
    """The directory of a run, given that or the name of a pretrained one.

    Raises:
        FileNotFoundError: If it is neither; the message lists the names.
    """
    if any((Path(run) / name).is_file() for name in (RUN_FILE, CHECKPOINT_FILE, PREVIOUS_FILE)):
        return Path(run)
    if str(run) in pretrained_names():
        return PRETRAINED / run
    raise FileNotFoundError(
        f"Expected a run directory, but {run} holds no {RUN_FILE}, or the name of a pretrained "
        f"run, one of {pretrained_names()}. `mier-adapt meta-train PRESET --out DIR` makes a run."
    )


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
    run_file = read_run_file(directory)
    config = run_file.config
    tasks = task_set(config.family, config.task_set)
    if tasks.hash != run_file.task_set_hash:
        raise CheckpointError(
            f"{directory} was trained on other tasks than this version's {config.family} "
            f"{config.task_set!r}: expected hash {run_file.task_set_hash}, got {tasks.hash}."
        )
    try:
        path, tree = load_checkpoint(directory)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{directory} holds no {CHECKPOINT_FILE} yet. Let `mier-adapt meta-train` go on."
        ) from error
    own_envs = FamilyEnvs(tasks) if envs is None else envs
    try:
        with kept_global_generators():
            run_file.require_same(RunFile.from_dict(tree["manifest"]), "it")
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
