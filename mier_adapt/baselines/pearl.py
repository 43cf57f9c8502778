"""PEARL: a probabilistic embedding of the task, inferred from its transitions, in front of SAC.

In the order of Rakelly et al. (2019), arXiv:1903.08254; what is the released code's is marked so.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from mier_adapt._checks import (
    Count,
    NonNegative,
    Positive,
    PositiveShare,
    Size,
    checked,
)
from mier_adapt._typing import Bool, Float, Tensor
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.baselines.networks import perceptron
from mier_adapt.baselines.runs import (
    BaselineConfig,
    BaselineFile,
    BaselineMethod,
    BaselineTrainer,
    descend,
)
from mier_adapt.integration import build_sac
from mier_adapt.integration.actors import act
from mier_adapt.transitions import Transitions

_LEAST_VARIANCE = 1e-7
"""Of a factor, so that no precision overflows (released code)."""


@dataclass(frozen=True, kw_only=True)
class PearlConfig(BaselineConfig):
    """A meta-training run of PEARL.

    Steps of the released code are whole episodes of ``episode_steps`` here.
    """

    updates: Size = 1_000_000
    """Gradient steps of the whole run (released code: 500 iterations of 2000)."""
    updates_per_iteration: Size = 2_000
    """Gradient steps after each collection (released code; 4000 for ants)."""
    tasks_per_iteration: Size = 5
    """Tasks collected in an iteration, drawn with replacement (released code)."""
    initial_episodes: Size = 10
    """Episodes of every task before the first iteration, from the prior (released code)."""
    prior_episodes: Size = 2
    """Episodes of each task with z from the prior, for encoder and policy (released code)."""
    posterior_episodes: Count = 0
    """Episodes with z from the posterior, for encoder and policy (released code)."""
    extra_episodes: Count = 2
    """Episodes with z from the posterior, for the policy alone (released code; 3 for ants)."""
    exploration_episodes: Size = 2
    """Episodes with z from the prior that a new task is inferred from (released code: 1 or 2)."""
    episode_steps: Size = 200
    """Environment steps of an episode (released code)."""
    latent_dim: Size = 5
    """Dimensions of z (released code)."""
    kl_weight: NonNegative = 0.1
    """Weight of the KL divergence from the prior, summed over the tasks of a batch (released
    code: kl_lambda)."""
    next_obs_in_context: bool = False
    """Show the encoder next observations, too, where they tell tasks apart (released code)."""
    encoder_hidden_sizes: tuple[Size, ...] = (200, 200, 200)
    """Widths of the encoder's hidden layers (released code)."""
    hidden_sizes: tuple[Size, ...] = (300, 300, 300)
    """Widths of the hidden layers of actor and critics (released code)."""
    tasks_per_batch: Size = 16
    """Tasks of a gradient step, drawn with replacement (released code)."""
    batch_size: Size = 256
    """Transitions of each task for actor and critics (released code)."""
    context_size: Size = 64
    """Transitions of each task that z is inferred from in a gradient step (released code: 64 to
    256)."""
    reward_scale: Positive = 5.0
    """Factor on rewards, which weighs them against entropy: 5 at the temperature of 1 that holds
    here is 0.2 on raw rewards (released code)."""
    lr: Positive = 3e-4
    """Adam's step size for encoder, actor and critics (released code)."""
    gamma: PositiveShare = 0.99
    """Discount factor per environment step (released code)."""
    tau: PositiveShare = 0.005
    """Share of the critics that enters their targets with every step (released code)."""
    replay_per_task: Size = 100_000
    """Transitions kept of each task (released code: 1,000,000)."""


# Inference (section 4.1) --------------------------------------------------------------------


def product_of_gaussians(
    mean: Float[Tensor, "*axes B Z"], var: Float[Tensor, "*axes B Z"]
) -> tuple[Float[Tensor, "*axes Z"], Float[Tensor, "*axes Z"]]:
    r"""Mean and variance of the normalised product of B independent Gaussians.

    $$\sigma^{-2} = \sum_b \sigma_b^{-2}, \quad \mu = \sigma^2 \sum_b \mu_b \sigma_b^{-2}$$

    The order of the factors is of no consequence.
    """
    precision = var.clamp(min=_LEAST_VARIANCE).reciprocal()
    product_var = precision.sum(-2).reciprocal()
    return product_var * (mean * precision).sum(-2), product_var


def kl_from_unit(
    mean: Float[Tensor, "*axes Z"], var: Float[Tensor, "*axes Z"]
) -> Float[Tensor, "*axes"]:
    """KL divergence of Gaussians with independent components from the unit one, in nats."""
    return 0.5 * (var + mean.square() - 1 - var.log()).sum(-1)


def draw_latent(
    mean: Float[Tensor, "*axes Z"], var: Float[Tensor, "*axes Z"]
) -> Float[Tensor, "*axes Z"]:
    """A sample that gradients pass through, by torch's global generator."""
    noise = torch.randn_like(mean)
    return mean + var.sqrt() * noise


class Encoder(nn.Module):
    """q(z | context): each transition gives one Gaussian factor, the posterior is their product.

    Args:
        input_dim: Dimensions of what is seen of a transition.
        latent_dim: Dimensions of z.
        hidden_sizes: Widths of the hidden layers (ReLU).
        next_obs: Whether next observations are seen.

    Source:
        Rakelly et al. (2019), arXiv:1903.08254, section 4.1; variances by softplus, and no factor
        of the prior, as in the released code.
    """

    def __init__(
        self, input_dim: int, latent_dim: int, *, hidden_sizes: Sequence[int], next_obs: bool
    ) -> None:
        super().__init__()
        self.layers = perceptron(input_dim, 2 * latent_dim, hidden_sizes)
        self.next_obs = next_obs

    def forward(
        self, context: Transitions
    ) -> tuple[Float[Tensor, "*axes Z"], Float[Tensor, "*axes Z"]]:
        """Posterior mean and variance, ``(T, Z)``, of tasks with contexts ``(T, B, ...)``."""
        seen = [context.obs, context.act, context.rew.unsqueeze(-1)]
        if self.next_obs:
            seen.append(context.obs_next)
        mean, unbounded = self.layers(torch.cat(seen, -1)).chunk(2, -1)
        return product_of_gaussians(mean, F.softplus(unbounded))


# Networks, and how they act -----------------------------------------------------------------


class PearlNetworks(nn.Module):
    """Encoder, actor and critics, the latter of Tianshou's SAC on ``[obs, z]``.

    Initial weights come from torch's global generator.
    """

    def __init__(
        self, config: PearlConfig, envs: FamilyEnvs, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        observation_space, action_space = envs.observation_space, envs.action_space
        obs_dim, act_dim = observation_space.shape[0], action_space.shape[0]
        self.encoder = Encoder(
            obs_dim * (1 + config.next_obs_in_context) + act_dim + 1,
            config.latent_dim,
            hidden_sizes=config.encoder_hidden_sizes,
            next_obs=config.next_obs_in_context,
        )
        sac = build_sac(
            observation_space,
            action_space,
            config.latent_dim,
            hidden_sizes=config.hidden_sizes,
            device=device,
        )
        self.policy = sac.policy
        self.critics = nn.ModuleList([sac.critic, sac.critic2])
        self.target_critics = copy.deepcopy(self.critics)
        self.to(device)

    def sample(self, inputs: Float[Tensor, "N I"]) -> tuple[Tensor, Tensor]:
        """Actions ``(N, A)`` in [-1, 1] that gradients pass through, and their log-probabilities.

        log(1 - tanh(u)^2) is written 2 (log 2 - u - softplus(-2u)), which never is log 0.
        """
        (loc, scale), _ = self.policy.actor(inputs)
        noise = torch.randn_like(loc)
        unbounded = loc + scale * noise
        log_prob = -0.5 * noise.square() - scale.log() - 0.5 * math.log(2 * math.pi)
        slope = 2 * (math.log(2) - unbounded - F.softplus(-2 * unbounded))
        return torch.tanh(unbounded), (log_prob - slope).sum(-1)


def smaller_value(
    critics: nn.ModuleList, inputs: Float[Tensor, "N I"], action: Float[Tensor, "N A"]
) -> Float[Tensor, " N"]:
    """The lower of two critics' values."""
    first, second = (critic(inputs, action) for critic in critics)
    smaller: Tensor = torch.min(first, second).squeeze(-1)
    return smaller


class LatentActor:
    """The policy in T tasks, with a z for every episode that is drawn from what is known of them.

    Args:
        policy: Acts on ``[obs, z]``.
        mean: Of z in each task.
        var: Its variance.

    Source:
        Rakelly et al. (2019), arXiv:1903.08254, section 4.2: posterior sampling. The released code
        also evaluates with a sample of z, from which its policy acts deterministically.
    """

    def __init__(self, policy: Any, mean: Float[Tensor, "T Z"], var: Float[Tensor, "T Z"]) -> None:
        self.policy = policy
        self.mean, self.var = mean.detach().cpu(), var.detach().cpu()
        self._latents = np.empty((0, mean.shape[-1]), dtype=np.float32)

    def start_episodes(self, starting: Bool[NDArray[np.bool_], " N"]) -> None:
        """Draw a new z for these slots, of which each task has as many."""
        each = len(starting) // len(self.mean)
        mean, var = (one.repeat_interleave(each, 0) for one in (self.mean, self.var))
        drawn = draw_latent(mean, var).numpy()
        if len(self._latents) != len(starting):
            self._latents = drawn
        self._latents = np.where(starting[:, None], drawn, self._latents)

    def act(
        self, obs: Float[NDArray[np.floating], "N O"], *, explore: bool
    ) -> Float[NDArray[np.floating], "N A"]:
        """As :meth:`.Actor.act`; without exploration the most probable action under z."""
        if len(self._latents) != len(obs):
            self.start_episodes(np.ones(len(obs), dtype=bool))
        inputs = np.concatenate((obs, self._latents), -1, dtype=np.float32)
        return act(self.policy, inputs, explore=explore)


class PearlPolicy:
    """What PEARL ends with, a :class:`.MetaPolicy`: encoder and policy, and no experience."""

    def __init__(self, config: PearlConfig, networks: PearlNetworks) -> None:
        self.config = config
        self.networks = networks

    def initial_actor(self, num_tasks: int) -> LatentActor:
        """As :meth:`.MetaPolicy.initial_actor`: z from the prior."""
        shape = (num_tasks, self.config.latent_dim)
        return LatentActor(self.networks.policy, torch.zeros(shape), torch.ones(shape))

    @checked
    @torch.no_grad()
    def adapt(self, transitions: Transitions) -> LatentActor:
        """As :meth:`.MetaPolicy.adapt`: z from the posterior of all of a task's transitions."""
        device = next(self.networks.parameters()).device
        return LatentActor(self.networks.policy, *self.networks.encoder(transitions.to(device)))


# Losses (section 5) -------------------------------------------------------------------------


def conditioned(obs: Float[Tensor, "T B O"], latent: Float[Tensor, "T Z"]) -> Float[Tensor, "TB I"]:
    """What actor and critics see: every observation with its task's z behind it."""
    latent_TBZ = latent.unsqueeze(1).expand(-1, obs.shape[1], -1)
    return torch.cat((obs, latent_TBZ), -1).flatten(0, 1)


def critic_loss(
    networks: PearlNetworks,
    batch: Transitions,
    latent: Float[Tensor, "T Z"],
    config: PearlConfig,
) -> Float[Tensor, ""]:
    """Squared temporal differences of both critics; its gradient reaches z, but not by the targets.

    Departs from paper and released code: two target critics instead of a value network, as SAC has
    had since its second version.
    """
    with torch.no_grad():
        inputs = conditioned(batch.obs_next, latent)
        action, log_prob = networks.sample(inputs)
        value = smaller_value(networks.target_critics, inputs, action) - log_prob
        lasting = (~batch.terminated).flatten().to(value)
        target = config.reward_scale * batch.rew.flatten() + config.gamma * lasting * value
    inputs, action = conditioned(batch.obs, latent), batch.act.flatten(0, 1)
    losses = [F.mse_loss(critic(inputs, action).squeeze(-1), target) for critic in networks.critics]
    return torch.stack(losses).sum()


def actor_loss(
    networks: PearlNetworks, batch: Transitions, latent: Float[Tensor, "T Z"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """SAC's loss of the actor, for whom z is a constant, and the mean log-probability.

    Departs from the released code: the outputs of the actor are not regularised.
    """
    inputs = conditioned(batch.obs, latent.detach())
    action, log_prob = networks.sample(inputs)
    loss = (log_prob - smaller_value(networks.critics, inputs, action)).mean()
    return loss, log_prob.mean()


# Meta-training (Algorithm 1) ----------------------------------------------------------------


class PearlTrainer(BaselineTrainer[PearlConfig, PearlNetworks, PearlPolicy]):
    """A run in the making; a step of it is a gradient step, with a collection where one is due.

    Args:
        config: What to train.
        envs: The environments of ``config.task_set``; only its meta-training tasks are run.
        seed: Fixes the run.
        device: Where networks live and learn.

    Source:
        Rakelly et al. (2019), arXiv:1903.08254, Algorithm 1. Ours: posteriors that data are
        gathered with are those of all transitions of this collection, as at meta-test; in the
        released code they are of ``context_size`` of them, and of none in the first episode.
    """

    networks_class, policy_class = PearlNetworks, PearlPolicy
    measures = ("critic_loss", "kl", "actor_loss", "log_prob", "posterior_variance")

    def prepare(self) -> None:
        """Optimizers, the replay, and that of the encoder."""
        config = self.config
        networks = self.networks
        for name, learned in (
            ("critics_and_encoder", (networks.critics, networks.encoder)),
            ("actor", (networks.policy,)),
        ):
            parameters = [parameter for each in learned for parameter in each.parameters()]
            self.optimizers[name] = torch.optim.Adam(parameters, lr=config.lr, fused=True)
        self._lagging: list[list[Tensor]] = [
            list(each.parameters()) for each in (networks.target_critics, networks.critics)
        ]
        self.replay = self.new_replay("replay", config.replay_per_task)
        # The encoder sees what was gathered last, and nothing of the policy's extra episodes. A
        # ring of just that size forgets what came before it (released code: cleared each time).
        encoder_episodes = config.prior_episodes + config.posterior_episodes
        self.encoder_replay = self.new_replay(
            "encoder_replay", encoder_episodes * config.episode_steps
        )

    def update(self) -> Float[Tensor, " M"]:
        """One step of critics and encoder, and one of the actor, on a batch of tasks."""
        config, networks = self.config, self.networks
        if self.env_steps == 0:
            everything = np.arange(self.replay.num_tasks)
            for _ in range(config.initial_episodes):
                self._gather(everything, self.policy.initial_actor(len(everything)), episodes=1)
        if self.updates % config.updates_per_iteration == 0:
            self._collect()
        tasks = self._draw_tasks(config.tasks_per_batch)
        context, batch = (
            replay.sample_transitions(tasks, size, adaptation=False).to(self.device)
            for replay, size in (
                (self.encoder_replay, config.context_size),
                (self.replay, config.batch_size),
            )
        )
        mean, var = networks.encoder(context)
        latent = draw_latent(mean, var)

        differences = critic_loss(networks, batch, latent, config)
        kl = kl_from_unit(mean, var).sum()
        descend(self.optimizers["critics_and_encoder"], differences + config.kl_weight * kl)

        loss, log_prob = actor_loss(networks, batch, latent)
        descend(self.optimizers["actor"], loss)

        with torch.no_grad():
            lagging, leading = self._lagging
            torch._foreach_lerp_(lagging, leading, config.tau)
        return torch.stack((differences, kl / len(tasks), loss, log_prob, var.mean()))

    def _collect(self) -> None:
        """Episodes with z from the prior, then from the posterior of what they tell.

        Tasks that were drawn twice are two tasks.
        """
        config = self.config
        tasks = self._draw_tasks(config.tasks_per_iteration)
        known = self._gather(
            tasks, self.policy.initial_actor(len(tasks)), episodes=config.prior_episodes
        )
        if config.posterior_episodes:
            more = self._gather(tasks, self.policy.adapt(known), episodes=config.posterior_episodes)
            known = Transitions.stack(
                [Transitions.cat((known[task], more[task])) for task in range(len(tasks))]
            )
        if config.extra_episodes:
            self._gather(
                tasks,
                self.policy.adapt(known),
                episodes=config.extra_episodes,
                for_encoder=False,
            )

    def _gather(
        self,
        tasks: NDArray[np.int_],
        actor: LatentActor,
        *,
        episodes: int,
        for_encoder: bool = True,
    ) -> Transitions:
        """Collect and store episodes of each task; give them back as ``(T, B, ...)``."""
        replays = [self.replay, self.encoder_replay] if for_encoder else [self.replay]
        rollouts = self.gather(tasks, actor, episodes=episodes, replays=replays)
        return Transitions.stack([rollout.transitions.flatten() for rollout in rollouts])

    def _draw_tasks(self, count: int) -> NDArray[np.int_]:
        return self.generator.integers(self.replay.num_tasks, size=count)


# The method ---------------------------------------------------------------------------------


class _PearlFile(BaselineFile):
    """What ``run.json`` says of a run of PEARL."""

    method = "pearl"
    config_class = PearlConfig


class Pearl(BaselineMethod):
    """PEARL with one configuration, a :class:`.Method`.

    Args:
        config: A :class:`PearlConfig`, what is trained.
        device: Where networks live and learn.

    Source:
        Rakelly et al. (2019), arXiv:1903.08254, Algorithms 1 and 2.
    """

    run_file = _PearlFile
    trainer = PearlTrainer
