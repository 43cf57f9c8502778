"""MQL: TD3 under a context that a GRU makes of the last steps, and meta-training's replay at test.

In the order of Fakoor et al. (2020), arXiv:1910.00125; what is the released code's is marked so.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mier_adapt._checks import Count, NonNegative, Positive, PositiveShare, Size, checked
from mier_adapt._typing import Bool, Float, Tensor
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.baselines.density_ratio import effective_sample_size, log_ratio
from mier_adapt.baselines.memory import MemoryActor
from mier_adapt.baselines.networks import perceptron
from mier_adapt.baselines.references import RandomActor
from mier_adapt.baselines.runs import (
    BaselineConfig,
    BaselineFile,
    BaselineMethod,
    BaselineTrainer,
    descend,
    empty_replay,
)
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt.transitions import Transitions

_LEAST_WEIGHT = 0.1
"""Of a transition of meta-training, below which it does not count (released code)."""


@dataclass(frozen=True, kw_only=True)
class MqlConfig(BaselineConfig):
    """A meta-training run of MQL, and how its policy adapts.

    Steps of the released code are whole episodes of ``episode_steps`` here; its settings differ
    from task to task.
    """

    updates: Size = 1_000_000
    """Gradient steps of the whole run (ours; released code: about as many as environment steps,
    until there are 5,000,000)."""
    updates_per_iteration: Size = 1_000
    """Gradient steps after each collection (released code: 200 to 1000)."""
    tasks_per_iteration: Size = 5
    """Tasks collected in an iteration, an episode of each, drawn with replacement (released code:
    1 to 5)."""
    initial_episodes: Size = 5
    """Episodes of every task before the first iteration, with uniform actions (released code: 500
    to 2000 steps)."""
    exploration_episodes: Size = 1
    """Episodes that a new task is met with (released code)."""
    episode_steps: Size = 200
    """Environment steps of an episode (released code)."""
    history: Size = 20
    """Steps that a context is made of, all of one episode (released code: 10 to 40)."""
    context_dim: Size = 30
    """Units of each GRU (released code: 15 to 30)."""
    hidden_sizes: tuple[Size, ...] = (300, 300)
    """Widths of the hidden layers of policy and critics (released code)."""
    batch_size: Size = 256
    """Transitions of a gradient step, in equal shares of all tasks (released code)."""
    lr: Positive = 3e-4
    """Adam's step size for policy and critics (released code: 3e-4 to 1e-3)."""
    gamma: PositiveShare = 0.99
    """Discount factor per environment step (released code)."""
    tau: PositiveShare = 0.005
    """Share of the networks that enters their targets with every step of the policy (released
    code)."""
    exploration_noise: NonNegative = 0.2
    """Standard deviation of what is added to actions in [-1, 1] while exploring (released code:
    0.2 or 0.3)."""
    target_noise: NonNegative = 0.3
    """Standard deviation of what is added to the target policy's actions (released code: 0.2 to
    0.4)."""
    target_noise_bound: NonNegative = 0.5
    """What that noise is cut to (released code)."""
    steps_per_policy_step: Size = 2
    """Steps of the critics to one of the policy (released code: 2 to 4)."""
    replay_per_task: Size = 10_000
    """Transitions kept of each task, which the policy takes along (released code: 1,000,000 of all
    tasks)."""
    likelihood_weight: Positive = 0.1
    """Of the propensity score's likelihood, summed over transitions, against half its squared
    slope (released code: lam_csc, 0.05 to 0.5)."""
    most_log_weight: Positive = 1.0
    """Bound of a transition's log-weight from above (released code: beta_clip, 1 to 2)."""
    own_updates: Count = 10
    """Gradient steps on the new task's own transitions, all of them each time (released code: 5 or
    10)."""
    replay_updates: Count = 100
    """Gradient steps on weighted transitions of meta-training (released code: 15 to 400)."""
    replay_batch_size: Size = 1280
    """Transitions of each of those (released code: 256 to 2560)."""
    adaptation_lr: Positive = 1e-3
    """Adam's step size for both (released code)."""


# The context (section 3.1) ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Steps:
    """N transitions with what came before them in their episodes."""

    transitions: Transitions
    """``(N, ...)``."""
    history: Float[Tensor, "N H I"]
    """Action, reward and observation of the steps before each, zeros before an episode's first."""
    history_next: Float[Tensor, "N H I"]
    """The same at the next observation: it ends with the transition's own."""


def steps_of(stretches: Transitions) -> Steps:
    """The last transition of each stretch ``(N, H + 1, ...)``, with those of its episode before."""
    same_episode = stretches.follows.int().flip(1).cumprod(1).flip(1)
    seen = torch.cat((stretches.act, stretches.rew.unsqueeze(-1), stretches.obs), -1)
    history = torch.where(same_episode.unsqueeze(-1) > 0, seen[:, :-1], 0.0)
    return Steps(
        transitions=stretches._map(lambda each: each[:, -1]),
        history=history,
        history_next=torch.cat((history[:, 1:], seen[:, -1:]), 1),
    )


class Context(nn.Module):
    """The last state of a GRU that goes through a history.

    Args:
        obs_dim: Dimensions of an observation.
        act_dim: Dimensions of an action.
        context_dim: Units.
    """

    def __init__(self, obs_dim: int, act_dim: int, context_dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(act_dim + 1 + obs_dim, context_dim, batch_first=True)

    def forward(self, history: Float[Tensor, "N H I"]) -> Float[Tensor, "N C"]:
        """Contexts."""
        _, last = self.gru(history)
        context: Tensor = last.squeeze(0)
        return context


# Networks, and how they act -----------------------------------------------------------------


class ContextPolicy(nn.Module):
    """A deterministic policy on ``[obs, context]``, with a context of its own (released code)."""

    def __init__(self, obs_dim: int, act_dim: int, config: MqlConfig) -> None:
        super().__init__()
        self.context = Context(obs_dim, act_dim, config.context_dim)
        self.layers = perceptron(obs_dim + config.context_dim, act_dim, config.hidden_sizes)

    def forward(
        self, obs: Float[Tensor, "N O"], history: Float[Tensor, "N H I"]
    ) -> Float[Tensor, "N A"]:
        """Actions in [-1, 1]."""
        return torch.tanh(self.layers(torch.cat((obs, self.context(history)), -1)))


class ContextCritics(nn.Module):
    """Two critics on ``[obs, act, context]``, whose context is their own (released code)."""

    def __init__(self, obs_dim: int, act_dim: int, config: MqlConfig) -> None:
        super().__init__()
        self.context = Context(obs_dim, act_dim, config.context_dim)
        input_dim = obs_dim + act_dim + config.context_dim
        self.critics = nn.ModuleList(
            [perceptron(input_dim, 1, config.hidden_sizes) for _ in range(2)]
        )

    def forward(
        self,
        obs: Float[Tensor, "N O"],
        act: Float[Tensor, "N A"],
        history: Float[Tensor, "N H I"],
    ) -> Float[Tensor, "2 N"]:
        """Values by both."""
        inputs = torch.cat((obs, act, self.context(history)), -1)
        return torch.stack([critic(inputs).squeeze(-1) for critic in self.critics])


class MqlNetworks(nn.Module):
    """Policy, critics, and the targets of both.

    Initial weights come from torch's global generator.
    """

    def __init__(
        self, config: MqlConfig, envs: FamilyEnvs, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        dims = envs.observation_space.shape[0], envs.action_space.shape[0]
        self.policy = ContextPolicy(*dims, config)
        self.critics = ContextCritics(*dims, config)
        self.target_policy = copy.deepcopy(self.policy)
        self.target_critics = copy.deepcopy(self.critics)
        self.to(device)


class HistoryActor(MemoryActor):
    """Policies that act under a context of what has happened in the running episode.

    Args:
        policies: One for each of T tasks, or a single one for all.
        config: Length of a history, and the noise of exploration.
    """

    def __init__(self, policies: Sequence[ContextPolicy], config: MqlConfig) -> None:
        gru = policies[0].context.gru
        weights = next(gru.parameters())
        super().__init__(
            history=weights.new_zeros(len(policies), config.history, gru.input_size),
            obs=weights.new_zeros(len(policies), 0),
        )
        self.policies, self.config = list(policies), config

    def begin(self, starting: Bool[Tensor, " N"]) -> None:
        """Forget what happened in these slots."""
        self.memory["history"] = torch.where(starting[:, None, None], 0.0, self.memory["history"])

    def choose(self, obs: Float[Tensor, "N O"], *, explore: bool) -> Float[Tensor, "N A"]:
        """With Gaussian noise where it explores."""
        self.memory["obs"] = obs
        parts = (torch.tensor_split(each, len(self.policies)) for each in self.memory.values())
        act = torch.cat(
            [
                policy(seen, history)
                for policy, history, seen in zip(self.policies, *parts, strict=True)
            ]
        )
        if explore:
            act = act + self.config.exploration_noise * torch.randn_like(act)
        return act.clamp(-1, 1)

    def keep(self, act: Float[Tensor, "N A"], rew: Float[Tensor, " N"]) -> None:
        """It is the newest step of each history."""
        step = torch.cat((act, rew.unsqueeze(-1), self.memory["obs"]), -1)
        self.memory["history"] = torch.cat((self.memory["history"][:, 1:], step.unsqueeze(1)), 1)


# TD3 on many tasks (section 3.2) ------------------------------------------------------------


def critic_loss(
    networks: MqlNetworks, batch: Steps, config: MqlConfig, weight: Float[Tensor, " N"] | None
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    r"""Squared temporal differences of both critics, added, and their mean value.

    $$y = r + \gamma \min_i Q_i'(s', \mathrm{clip}(u'(s') + \epsilon)), \quad
    L = \frac1N \sum \beta \sum_i (Q_i(s, a) - y)^2,$$

    where ``weight`` is beta, 1 if None.

    Source:
        Fujimoto et al. (2018), arXiv:1802.09477, Algorithm 1.
    """
    now = batch.transitions
    with torch.no_grad():
        noise = config.target_noise * torch.randn_like(now.act)
        noise = noise.clamp(-config.target_noise_bound, config.target_noise_bound)
        act_next = networks.target_policy(now.obs_next, batch.history_next) + noise
        values = networks.target_critics(now.obs_next, act_next.clamp(-1, 1), batch.history_next)
        target = now.rew + config.gamma * (~now.terminated).to(now.rew) * values.amin(0)
    values = networks.critics(now.obs, now.act, batch.history)
    errors = (values - target).square().sum(0)
    return (errors if weight is None else weight * errors).mean(), values.detach().mean()


def policy_loss(
    networks: MqlNetworks, batch: Steps, weight: Float[Tensor, " N"] | None
) -> Float[Tensor, ""]:
    """What the first critic says of the policy's actions, to be less of."""
    obs = batch.transitions.obs
    values: Tensor = networks.critics(obs, networks.policy(obs, batch.history), batch.history)[0]
    return -(values if weight is None else weight * values).mean()


class Td3:
    """Networks and their optimizers, which take steps of TD3.

    Args:
        networks: Are changed.
        config: How.
        lr: Adam's step size.
    """

    def __init__(self, networks: MqlNetworks, config: MqlConfig, *, lr: float) -> None:
        self.networks, self.config = networks, config
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(getattr(networks, name).parameters(), lr=lr, fused=True)
            for name in ("critics", "policy")
        }

    def step(
        self,
        batch: Steps,
        number: int,
        *,
        weight: Float[Tensor, " N"] | None = None,
        penalty: Callable[[str], Tensor | float] = lambda name: 0.0,
    ) -> Float[Tensor, " 2"]:
        """A step of the critics and, where its number says so, of policy and targets.

        Args:
            batch: What it is on.
            number: Of the step.
            weight: Of each transition; 1 if None.
            penalty: What is added to the loss of ``"critics"`` and of ``"policy"``.

        Returns:
            The critics' loss without the penalty, and their mean value.
        """
        networks, config = self.networks, self.config
        loss, value = critic_loss(networks, batch, config, weight)
        descend(self.optimizers["critics"], loss + penalty("critics"))
        if number % config.steps_per_policy_step == 0:
            descend(
                self.optimizers["policy"], policy_loss(networks, batch, weight) + penalty("policy")
            )
            with torch.no_grad():
                for name in self.optimizers:
                    torch._foreach_lerp_(
                        list(getattr(networks, f"target_{name}").parameters()),
                        list(getattr(networks, name).parameters()),
                        config.tau,
                    )
        return torch.stack((loss.detach(), value))


# Adaptation (sections 2.3 and 3.3) ----------------------------------------------------------


def proximal(module: nn.Module, start: nn.Module) -> Float[Tensor, ""]:
    """Squared distance of the weights from those that they started from."""
    pairs = zip(module.parameters(), start.parameters(), strict=True)
    return torch.stack([(now - then.detach()).square().sum() for now, then in pairs]).sum()


def adapted(
    networks: MqlNetworks,
    own: ContextReplayBuffer,
    known: ContextReplayBuffer,
    config: MqlConfig,
    generator: np.random.Generator,
) -> tuple[MqlNetworks, float]:
    """New networks for one task, and the effective sample size that held them to the old ones.

    Steps on the task's own transitions come first, then those on transitions of meta-training, by
    how much they are like the task's. Both losses hold the weights to meta-training's by

    (1 - ESS) |theta - theta_meta|^2.

    Args:
        networks: Meta-training's; not changed.
        own: The task's transitions.
        known: Meta-training's.
        config: How.
        generator: Draws from both.

    Source:
        Section 3.3. Ours: contexts that weights are estimated from are those of meta-training's
        policy all the time, and the effective sample size is estimated once, from as many
        transitions of meta-training as there are of the task. In the released code the first steps
        are held by nothing.
    """
    device = next(networks.parameters()).device
    stored = known.stored_indices()

    def drawn(replay: ContextReplayBuffer, indices: NDArray[np.int_]) -> Steps:
        return steps_of(replay.stretches(indices, config.history + 1).to(device))

    def contexts(steps: Steps) -> Float[Tensor, "N C"]:
        with torch.no_grad():
            context: Tensor = networks.policy.context(steps.history)
        return context

    steps = drawn(own, own.stored_indices())
    others = drawn(known, generator.choice(stored, len(own)))
    slope, offset = log_ratio(
        contexts(steps), contexts(others), likelihood_weight=config.likelihood_weight
    )

    def weights(steps: Steps) -> Float[Tensor, " N"]:
        weight = (contexts(steps) @ slope + offset).clamp(max=config.most_log_weight).exp()
        return torch.where(weight < _LEAST_WEIGHT, 0.0, weight)

    ess = effective_sample_size(weights(others))
    new = copy.deepcopy(networks).requires_grad_(True)
    learner = Td3(new, config, lr=config.adaptation_lr)

    def penalty(name: str) -> Float[Tensor, ""]:
        return (1 - ess) * proximal(getattr(new, name), getattr(networks, name))

    for number in range(config.own_updates):
        learner.step(steps, number, penalty=penalty)
    for number in range(config.replay_updates):
        batch = drawn(known, generator.choice(stored, config.replay_batch_size))
        learner.step(batch, number, weight=weights(batch), penalty=penalty)
    return new.requires_grad_(False), ess


class MqlPolicy:
    """What MQL ends with, a :class:`.MetaPolicy`: networks, and the experience of meta-training.

    Args:
        config: How it adapts.
        networks: Meta-training's.
        replay: Transitions of the meta-training tasks, which adapting to others draws from.
    """

    def __init__(
        self,
        config: MqlConfig,
        networks: MqlNetworks,
        replay: ContextReplayBuffer | None = None,
    ) -> None:
        self.config, self.networks, self.replay = config, networks, replay

    def initial_actor(self, num_tasks: int) -> HistoryActor:
        """As :meth:`.MetaPolicy.initial_actor`: meta-training's policy, in any task."""
        return HistoryActor([self.networks.policy], self.config)

    @checked
    def adapt(self, transitions: Transitions) -> HistoryActor:
        """As :meth:`.MetaPolicy.adapt`: with weights for each task. Changes nothing of its own.

        Args:
            transitions: Of each task, in the order in which they were gathered. An episode begins
                after a termination, and where an observation is not the one that the transition
                before it led to.

        Raises:
            ValueError: If meta-training has gathered nothing yet.
        """
        if self.replay is None or not len(self.replay):
            raise ValueError(
                "MqlPolicy.adapt expected meta-training's transitions to draw from, got none. Let "
                "meta-training take a step."
            )
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        policies = []
        with torch.enable_grad():
            for task in range(len(transitions)):
                own = ContextReplayBuffer.of([transitions[task]], generator=generator)
                new, _ = adapted(self.networks, own, self.replay, self.config, generator)
                policies.append(new.policy)
        return HistoryActor(policies, self.config)


# Meta-training (Algorithm 1) ----------------------------------------------------------------


class MqlTrainer(BaselineTrainer[MqlConfig, MqlNetworks, MqlPolicy]):
    """A run in the making; a step of it is a gradient step, with a collection where one is due.

    Args:
        config: What to train.
        envs: The environments of ``config.task_set``; only its meta-training tasks are run.
        seed: Fixes the run.
        device: Where networks live and learn.

    Source:
        Fakoor et al. (2020), arXiv:1910.00125, Algorithm 1.
    """

    networks_class, policy_class = MqlNetworks, MqlPolicy
    measures = ("critic_loss", "value")

    def prepare(self) -> None:
        """TD3, and the replay, which is the policy's as well."""
        config = self.config
        self.learner = Td3(self.networks, config, lr=config.lr)
        self.optimizers = self.learner.optimizers
        self.replay = self.new_replay("replay", config.replay_per_task)
        self.policy.replay = self.replay

    @classmethod
    def kept(
        cls, config: Any, envs: FamilyEnvs, state: Mapping[str, Any]
    ) -> tuple[ContextReplayBuffer]:
        """The replay, which takes no more room than what is stored in it."""
        stored = state["replays"]["replay"]
        size = min(config.replay_per_task, max(1, len(stored["columns"]["rew"])))
        replay = empty_replay(envs, size, np.random.default_rng(0))
        replay.load_state(stored)
        return (replay,)

    def update(self) -> Float[Tensor, " M"]:
        """One step of TD3 on transitions of all tasks."""
        config = self.config
        everything = np.arange(self.replay.num_tasks)
        if self.env_steps == 0:
            act_dim = self.envs.action_space.shape[0]
            for _ in range(config.initial_episodes):
                self.gather(everything, RandomActor(act_dim), replays=[self.replay])
        if self.updates % config.updates_per_iteration == 0:
            tasks = self.generator.integers(len(everything), size=config.tasks_per_iteration)
            actor = self.policy.initial_actor(len(tasks))
            self.gather(tasks, actor, replays=[self.replay])
        indices = self.replay.sample_indices(config.batch_size)
        stretches = self.replay.stretches(indices, config.history + 1)
        return self.learner.step(steps_of(stretches.to(self.device)), self.updates)


# The method ---------------------------------------------------------------------------------


class _MqlFile(BaselineFile):
    """What ``run.json`` says of a run of MQL."""

    method = "mql"
    config_class = MqlConfig


class Mql(BaselineMethod):
    """MQL with one configuration, a :class:`.Method`.

    Args:
        config: A :class:`MqlConfig`, what is trained.
        device: Where networks live and learn.

    Source:
        Fakoor et al. (2020), arXiv:1910.00125, Algorithm 1.
    """

    run_file = _MqlFile
    trainer = MqlTrainer
