"""RL²: a recurrent policy that learns to learn, its memory kept over the episodes of a task.

In the order of Duan et al. (2016), arXiv:1611.02779, whose TRPO is PPO here (Schulman et al., 2017,
arXiv:1707.06347), as in the code that Rothfuss et al. (2019), arXiv:1810.06784, released: that is
the "released code" below.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mier_adapt._checks import (
    Positive,
    PositiveShare,
    Share,
    Size,
    checked,
)
from mier_adapt._typing import Bool, Float, Tensor
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.baselines.memory import MemoryActor
from mier_adapt.baselines.policy_gradients import Gaussian, clipped_objective, discounted
from mier_adapt.baselines.runs import (
    BaselineConfig,
    BaselineFile,
    BaselineMethod,
    BaselineTrainer,
    descend,
)
from mier_adapt.transitions import Transitions

_LEAST_SCALE = 1e-3
"""Of returns, below which they are taken as they are all the same."""


@dataclass(frozen=True, kw_only=True)
class Rl2Config(BaselineConfig):
    """A meta-training run of RL².

    An update is one of PPO: it gathers new trials, and takes several passes over them.
    """

    updates: Size = 500
    """Updates of the whole run (released code: 501)."""
    trials_per_update: Size = 100
    """Trials that an update gathers, in tasks drawn with replacement (released code)."""
    exploration_episodes: Size = 1
    """Episodes of a trial before its last one, and those that a new task is met with (released
    code)."""
    episode_steps: Size = 200
    """Environment steps of an episode (released code)."""
    hidden_size: Size = 64
    """Units of each GRU (released code; paper: 256)."""
    initial_std: Positive = 1.0
    """Standard deviation of actions, which lie in [-1, 1], at first (released code)."""
    epochs: Size = 5
    """Passes over the trials of an update (released code)."""
    trials_per_minibatch: Size = 25
    """Trials of a gradient step, whole ones (ours, to fit the values; released code: all)."""
    clip_ratio: Positive = 0.2
    """How far ratios of probabilities may leave 1 to any gain (released code)."""
    lr: Positive = 1e-3
    """Adam's step size for policy and values (released code)."""
    gamma: PositiveShare = 0.99
    """Discount factor per environment step, through the ends of episodes (paper, released code)."""
    gae_lambda: Share = 1.0
    """Of generalised advantage estimation (released code; paper: 0.3)."""

    @property
    def trial_steps(self) -> int:
        """Environment steps of a trial."""
        return self.adaptation_steps + self.episode_steps


# What policy and values see (section 2.2) ---------------------------------------------------


def seen_in(trials: Transitions) -> Float[Tensor, "T B I"]:
    """What is seen at each step of T trials: observation, last action, last reward, and a flag.

    The flag says that an episode begins: at the start, and where one does not follow (see
    :attr:`.Transitions.follows`).

    Departs from the paper: the flag is up at a trial's first step, too.
    """
    begins = F.pad((~trials.follows).to(trials.rew), (1, 0), value=1.0)
    last_act = F.pad(trials.act[:, :-1], (0, 0, 1, 0))
    last_rew = F.pad(trials.rew[:, :-1], (1, 0))
    return torch.cat((trials.obs, last_act, last_rew.unsqueeze(-1), begins.unsqueeze(-1)), -1)


# Networks -----------------------------------------------------------------------------------


class RecurrentPolicy(nn.Module):
    """A GRU, a mean that is linear in its state, and a standard deviation that depends on nothing.

    Actions are the Gaussian's, cut to [-1, 1].

    Args:
        input_dim: Dimensions of what is seen at a step.
        act_dim: Dimensions of an action.
        config: Size of the state, and the first standard deviation.
    """

    def __init__(self, input_dim: int, act_dim: int, config: Rl2Config) -> None:
        super().__init__()
        self.gru = nn.GRU(input_dim, config.hidden_size, batch_first=True)
        self.mean = nn.Linear(config.hidden_size, act_dim)
        self.log_std = nn.Parameter(torch.full((act_dim,), math.log(config.initial_std)))

    def forward(
        self, seen: Float[Tensor, "T B I"], hidden: Float[Tensor, "1 T H"] | None = None
    ) -> tuple[Float[Tensor, "T B A"], Float[Tensor, "1 T H"]]:
        """Means of actions, and the last state; ``hidden`` is the one before, zeros when None."""
        states, last = self.gru(seen, hidden)
        return self.mean(states), last


class RecurrentValue(nn.Module):
    """What the rest of a trial returns, by a GRU of its own.

    It learns in units of the returns' standard deviation, so that no reward's size is a matter of
    the step size.

    Args:
        input_dim: Dimensions of what is seen at a step.
        config: Size of the state.

    Source:
        Duan et al. (2016), arXiv:1611.02779, section 2.3. The released code fits a linear function
        of observations and time, which cannot know the task. The units are ours.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, input_dim: int, config: Rl2Config) -> None:
        super().__init__()
        self.gru = nn.GRU(input_dim, config.hidden_size, batch_first=True)
        self.head = nn.Linear(config.hidden_size, 1)
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, seen: Float[Tensor, "T B I"]) -> Float[Tensor, "T B"]:
        """Values."""
        scaled: Tensor = self.head(self.gru(seen)[0]).squeeze(-1)
        return self.center + self.scale * scaled

    def measure(self, returns: Float[Tensor, "T B"]) -> None:
        """Take the units of these returns, which it is going to learn."""
        self.center.copy_(returns.mean())
        self.scale.copy_(returns.std().clamp(min=_LEAST_SCALE))

    def loss(
        self, seen: Float[Tensor, "T B I"], returns: Float[Tensor, "T B"]
    ) -> Float[Tensor, ""]:
        """Mean squared error in these units: 1 for who knows no more than the mean."""
        error: Tensor = (self(seen) - returns) / self.scale
        return error.square().mean()


class Rl2Networks(nn.Module):
    """Policy and values. Initial weights come from torch's global generator."""

    def __init__(
        self, config: Rl2Config, envs: FamilyEnvs, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        act_dim = envs.action_space.shape[0]
        input_dim = envs.observation_space.shape[0] + act_dim + 2
        self.policy = RecurrentPolicy(input_dim, act_dim, config)
        self.value = RecurrentValue(input_dim, config)
        self.to(device)


# How it acts, and remembers -----------------------------------------------------------------


class RememberingActor(MemoryActor):
    """The policy in T tasks, with a memory of its trial in each that grows while it acts.

    Its episodes in a task follow each other.

    Args:
        policy: Acts on what is seen and its state: a GRU with a standard deviation.
        hidden: Its state in each task.
        last: The last step's action, reward, and whether that ended the episode.
    """

    def __init__(
        self, policy: Any, hidden: Float[Tensor, "T H"], last: Float[Tensor, "T L"]
    ) -> None:
        super().__init__(hidden=hidden, last=last)
        self.policy = policy

    def begin(self, starting: Bool[Tensor, " N"]) -> None:
        """Note that episodes begin; no memory ends with one."""
        *others, flag = self.memory["last"].unbind(-1)
        self.memory["last"] = torch.stack((*others, torch.where(starting, 1.0, flag)), -1)

    def choose(self, obs: Float[Tensor, "N O"], *, explore: bool) -> Float[Tensor, "N A"]:
        """Without exploration the most probable actions."""
        seen = torch.cat((obs, self.memory["last"]), -1).unsqueeze(1)
        mean, hidden = self.policy(seen, self.memory["hidden"].unsqueeze(0))
        self.memory["hidden"] = hidden.squeeze(0)
        act: Tensor = mean.squeeze(1)
        if explore:
            act = act + self.policy.log_std.exp() * torch.randn_like(act)
        return act.clamp(-1, 1)

    def keep(self, act: Float[Tensor, "N A"], rew: Float[Tensor, " N"]) -> None:
        """It is seen with the next observation."""
        rew = rew.unsqueeze(-1)
        self.memory["last"] = torch.cat((act, rew, torch.zeros_like(rew)), -1)


class Rl2Policy:
    """What RL² ends with, a :class:`.MetaPolicy`: networks, and no experience."""

    def __init__(self, config: Rl2Config, networks: Rl2Networks) -> None:
        self.config = config
        self.networks = networks

    def initial_actor(self, num_tasks: int) -> RememberingActor:
        """As :meth:`.MetaPolicy.initial_actor`: with nothing to remember."""
        policy = self.networks.policy
        hidden = policy.log_std.new_zeros(num_tasks, policy.gru.hidden_size)
        return RememberingActor(
            policy, hidden, hidden.new_zeros(num_tasks, len(policy.log_std) + 2)
        )

    @checked
    @torch.no_grad()
    def adapt(self, transitions: Transitions) -> RememberingActor:
        """As :meth:`.MetaPolicy.adapt`: it remembers the transitions as if it had made them.

        Args:
            transitions: Of each task, in the order in which they were gathered. An episode begins
                after a termination, and where an observation is not the one that the transition
                before it led to.
        """
        policy = self.networks.policy
        trials = transitions.to(policy.log_std.device)
        _, hidden = policy(seen_in(trials))
        rew, ended = trials.rew[:, -1:], trials.terminated[:, -1:].to(trials.rew)
        last = torch.cat((trials.act[:, -1], rew, ended), -1)
        return RememberingActor(policy, hidden.squeeze(0), last)


# PPO on whole trials (section 2.3) ----------------------------------------------------------


def advantages(
    rew: Float[Tensor, "T B"], value: Float[Tensor, "T B"], *, gamma: float, gae_lambda: float
) -> Float[Tensor, "T B"]:
    r"""Generalised advantage estimates of trials, which their episodes do not divide.

    $$A_t = \sum_k (\gamma \lambda)^k \delta_{t+k}, \quad
    \delta_t = r_t + \gamma V_{t+1} - V_t,$$

    with a value of 0 after a trial's last step: what counts is all that a trial returns.

    Source:
        Schulman et al. (2016), arXiv:1506.02438, equation 16.
    """
    difference = rew + gamma * F.pad(value[:, 1:], (0, 1)) - value
    return discounted(difference, torch.zeros_like(rew, dtype=torch.bool), gamma * gae_lambda)


def log_prob(
    act: Float[Tensor, "*axes A"], mean: Float[Tensor, "*axes A"], log_std: Float[Tensor, " A"]
) -> Float[Tensor, "*axes"]:
    """Log-probability of actions that are a Gaussian's, cut to [-1, 1].

    A component at a bound is as probable as all that lies beyond it.

    Source:
        Fujita and Maeda (2018), arXiv:1802.07564. The released code takes the density of what was
        drawn, which no transition tells.
    """
    std = log_std.exp()
    within = -0.5 * ((act - mean) / std).square() - log_std - 0.5 * math.log(2 * math.pi)
    below, above = (torch.special.log_ndtr((sign * mean - 1) / std) for sign in (-1, 1))
    return torch.where(act >= 1, above, torch.where(act <= -1, below, within)).sum(-1)


class Rl2Trainer(BaselineTrainer[Rl2Config, Rl2Networks, Rl2Policy]):
    """A run in the making; a step of it is one update of PPO. It keeps no experience.

    Args:
        config: What to train.
        envs: The environments of ``config.task_set``; only its meta-training tasks are run.
        seed: Fixes the run.
        device: Where networks live and learn.

    Source:
        Duan et al. (2016), arXiv:1611.02779, section 2. Advantages are normalised, as in the
        released code.
    """

    networks_class, policy_class = Rl2Networks, Rl2Policy
    measures = ("policy_loss", "value_loss", "entropy", "kl", "episode_return")

    def prepare(self) -> None:
        """An optimizer each for policy and values."""
        for name in ("policy", "value"):
            parameters = list(getattr(self.networks, name).parameters())
            self.optimizers[name] = torch.optim.Adam(parameters, lr=self.config.lr, fused=True)

    def update(self) -> Float[Tensor, " M"]:
        """Gather trials, and take several passes over them."""
        config, policy, value = self.config, self.networks.policy, self.networks.value
        trials = self._gather()
        seen, act = seen_in(trials), trials.act
        with torch.no_grad():
            mean_before, log_std_before = policy(seen)[0], policy.log_std.clone()
            log_prob_before = log_prob(act, mean_before, log_std_before)
            values = value(seen)
            advantage = advantages(
                trials.rew, values, gamma=config.gamma, gae_lambda=config.gae_lambda
            )
            returns = advantage + values
            advantage = (advantage - advantage.mean()) / advantage.std().clamp(min=_LEAST_SCALE)
            value.measure(returns)
        losses = []
        for _ in range(config.epochs):
            order = torch.from_numpy(self.generator.permutation(len(trials))).to(self.device)
            for some in torch.split(order, config.trials_per_minibatch):
                log_ratio = log_prob(act[some], policy(seen[some])[0], policy.log_std)
                log_ratio = log_ratio - log_prob_before[some]
                policy_loss = -clipped_objective(log_ratio, advantage[some], config.clip_ratio)
                descend(self.optimizers["policy"], policy_loss)
                value_loss = value.loss(seen[some], returns[some])
                descend(self.optimizers["value"], value_loss)
                losses.append(torch.stack((policy_loss, value_loss)).detach())
        with torch.no_grad():
            before, after = (
                Gaussian(mean_before, log_std_before),
                Gaussian(policy(seen)[0], policy.log_std),
            )
            entropy = (policy.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()
            episode_return = trials.rew.sum(1).mean() / (config.exploration_episodes + 1)
            return torch.cat(
                (
                    torch.stack(losses).mean(0),
                    torch.stack((entropy, before.divergence(after).mean(), episode_return)),
                )
            )

    def _gather(self) -> Transitions:
        """One trial in each of some tasks, ``(T, B, ...)``, from an empty memory."""
        config = self.config
        drawn = self.generator.integers(
            len(self.envs.task_set.meta_train), size=config.trials_per_update
        )
        rollouts = self.gather(
            drawn,
            self.policy.initial_actor(len(drawn)),
            episodes=config.trial_steps // config.episode_steps,
        )
        trials = Transitions.stack([rollout.transitions.flatten() for rollout in rollouts])
        return trials.to(self.device)


# The method ---------------------------------------------------------------------------------


class _Rl2File(BaselineFile):
    """What ``run.json`` says of a run of RL²."""

    method = "rl2"
    config_class = Rl2Config


class Rl2(BaselineMethod):
    """RL² with one configuration, a :class:`.Method`.

    Args:
        config: A :class:`Rl2Config`, what is trained.
        device: Where networks live and learn.

    Source:
        Duan et al. (2016), arXiv:1611.02779.
    """

    run_file = _Rl2File
    trainer = Rl2Trainer
