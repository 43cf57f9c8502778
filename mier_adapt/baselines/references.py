"""References that methods are compared with, by the same rules: SAC without a context, and chance.

On all meta-training tasks SAC is the policy that knows no context, and on one task alone the oracle
of that task, which is told nothing but may practise it. Neither makes anything of what a new task
shows.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mier_adapt._checks import Count, Number, Positive, PositiveShare, Size, checked
from mier_adapt._typing import Float, Tensor
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.baselines.runs import (
    BaselineConfig,
    BaselineFile,
    BaselineMethod,
    BaselineTrainer,
)
from mier_adapt.integration import FastSAC, PolicyActor, build_sac, update
from mier_adapt.protocols import Actor
from mier_adapt.transitions import Transitions
from mier_adapt_envs import TaskSet


class UnadaptedPolicy:
    """A :class:`.MetaPolicy` that acts in every task as it does before it knows it."""

    def __init__(self, config: BaselineConfig, networks: Any) -> None:
        self.config = config
        self.networks = networks

    def initial_actor(self, num_tasks: int) -> Actor:
        """As :meth:`.MetaPolicy.initial_actor`."""
        return cast(Actor, self.networks.actor())

    @checked
    def adapt(self, transitions: Transitions) -> Actor:
        """As :meth:`.MetaPolicy.adapt`, whatever the transitions are."""
        return cast(Actor, self.networks.actor())


# SAC ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SacConfig(BaselineConfig):
    """A run of SAC without a context, with settings of ours."""

    task: Count | None = None
    """Index of the one task that it is trained and evaluated on, as `mier-adapt tasks` lists them;
    all meta-training tasks if None."""
    updates: Size = 160_000
    """Gradient steps of the whole run."""
    updates_per_iteration: Size = 2_000
    """Gradient steps after each collection."""
    episodes_per_iteration: Size = 50
    """Episodes of a collection, each in a task drawn with replacement."""
    initial_episodes: Size = 2
    """Episodes of every task before the first iteration."""
    exploration_episodes: Size = 1
    """Episodes that a new task is met with, of which nothing is made."""
    hidden_sizes: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics (ReLU)."""
    batch_size: Size = 256
    """Transitions of a gradient step, in equal shares from all tasks."""
    lr: Positive = 1e-3
    """Adam's step size for actor, critics and temperature."""
    gamma: PositiveShare = 0.99
    """Discount factor per environment step."""
    tau: PositiveShare = 0.005
    """Share of the critics that enters their targets with every step."""
    target_entropy: Number = -4.0
    """In nats; the temperature is learned."""
    replay_size: Size = 1_000_000
    """Transitions kept, in equal shares of all tasks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = len(super().tasks)
        if self.task is not None and self.task >= known:
            raise ValueError(
                f"SacConfig expected task from 0 to {known - 1}, got {self.task}. "
                f"`mier-adapt tasks {self.family} --set {self.task_set}` lists them."
            )

    @property
    def tasks(self) -> TaskSet:
        """The tasks of a run, as of every method; the one task alone, where it is one."""
        tasks = super().tasks
        if self.task is None:
            return tasks
        return TaskSet(tasks.family, tasks.name, tasks.env_id, (tasks[self.task],), ())


class SacNetworks(nn.Module):
    """All that a SAC learns: actor, critics and their targets, and a temperature.

    Initial weights come from torch's global generator.
    """

    def __init__(
        self, config: SacConfig, envs: FamilyEnvs, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        sac: Any = build_sac(
            envs.observation_space,
            envs.action_space,
            context_dim=0,
            hidden_sizes=config.hidden_sizes,
            lr=config.lr,
            gamma=config.gamma,
            tau=config.tau,
            target_entropy=config.target_entropy,
            device=device,
            algorithm_class=FastSAC,
        )
        self.policy, self.temperature = sac.policy, sac.alpha
        self.critics = nn.ModuleList([sac.critic, sac.critic2])
        self.target_critics = nn.ModuleList([sac.critic_old, sac.critic2_old])
        self._learner = (sac,)  # no module of this one, whose state has optimizers in it

    @property
    def algorithm(self) -> Any:
        """What updates them."""
        return self._learner[0]

    def actor(self) -> PolicyActor:
        """Acts by them."""
        return PolicyActor(self.policy, torch.zeros(0))


class SacTrainer(BaselineTrainer[SacConfig, SacNetworks, UnadaptedPolicy]):
    """A run of SAC in the making; a step of it is a gradient step, with a collection where due.

    Source:
        Haarnoja et al. (2018), arXiv:1812.05905, in Tianshou's form.
    """

    networks_class, policy_class = SacNetworks, UnadaptedPolicy
    measures = ("actor_loss", "critic1_loss", "critic2_loss", "alpha")

    def prepare(self) -> None:
        """SAC's own optimizers, and the replay."""
        sac = self.networks.algorithm
        self.optimizers = {
            "actor": sac.policy_optim._optim,
            "critic": sac.critic_optim._optim,
            "critic2": sac.critic2_optim._optim,
            "temperature": sac.alpha._optim,
        }
        share = -(-self.config.replay_size // len(self.envs.task_set.meta_train))
        self.replay = self.new_replay("replay", share)

    def update(self) -> Float[Tensor, " M"]:
        """One of SAC's own updates on transitions of all tasks."""
        config, num_tasks = self.config, self.replay.num_tasks
        if self.env_steps == 0:
            self._gather(np.arange(num_tasks).repeat(config.initial_episodes))
        if self.updates % config.updates_per_iteration == 0:
            self._gather(self.generator.integers(num_tasks, size=config.episodes_per_iteration))
        losses = update(self.networks.algorithm, self.replay, config.batch_size)
        return torch.tensor([losses[name] for name in self.measures], device=self.device)

    def _gather(self, tasks: NDArray[np.int_]) -> None:
        """Store an episode of each of these."""
        self.gather(tasks, self.networks.actor(), replays=[self.replay])


class _SacFile(BaselineFile):
    """What ``run.json`` says of a run of SAC."""

    method = "sac"
    config_class = SacConfig


class Sac(BaselineMethod):
    """SAC without a context, with one configuration, a :class:`.Method`.

    Args:
        config: A :class:`SacConfig`, what is trained.
        device: Where networks live and learn.
    """

    run_file = _SacFile
    trainer = SacTrainer


# Chance -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RandomConfig(BaselineConfig):
    """A run of random actions, in which nothing is learned and no environment step is taken."""

    updates: Size = 1
    """Steps of the run, which measure and change nothing."""
    exploration_episodes: Size = 1
    """Episodes that a new task is met with, of which nothing is made."""


class RandomActor:
    """Acts by chance, with uniform actions that torch's global generator draws."""

    def __init__(self, act_dim: int) -> None:
        self.act_dim = act_dim

    def act(
        self, obs: Float[NDArray[np.floating], "N O"], *, explore: bool
    ) -> Float[NDArray[np.floating], "N A"]:
        """As :meth:`.Actor.act`; there are no actions that are more probable than others."""
        drawn: NDArray[np.float32] = (2 * torch.rand(len(obs), self.act_dim) - 1).numpy()
        return drawn


class RandomNetworks(nn.Module):
    """No parameters at all."""

    def __init__(
        self, config: RandomConfig, envs: FamilyEnvs, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.act_dim = envs.action_space.shape[0]

    def actor(self) -> RandomActor:
        """Acts without them."""
        return RandomActor(self.act_dim)


class RandomTrainer(BaselineTrainer[RandomConfig, RandomNetworks, UnadaptedPolicy]):
    """A run in which nothing is learned."""

    networks_class, policy_class = RandomNetworks, UnadaptedPolicy
    measures = ()

    def update(self) -> Float[Tensor, " M"]:
        """Nothing."""
        return torch.zeros(0, device=self.device)


class _RandomFile(BaselineFile):
    """What ``run.json`` says of a run of random actions."""

    method = "random"
    config_class = RandomConfig


class Random(BaselineMethod):
    """Random actions, a :class:`.Method`, whose meta-training leaves a run to evaluate.

    Args:
        config: A :class:`RandomConfig`: which tasks, and how they are measured.
        device: Of no consequence here.
    """

    run_file = _RandomFile
    trainer = RandomTrainer
