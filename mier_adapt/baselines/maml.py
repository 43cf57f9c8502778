"""MAML for reinforcement learning: initial weights that one step up a policy gradient adapts.

In the order of Finn et al. (2017), arXiv:1703.03400, section 5.2 and Algorithm 3. "Released code"
is ProMP's, with which its authors ran MAML, too.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mier_adapt._checks import (
    NonNegative,
    Positive,
    PositiveShare,
    Share,
    Size,
    checked,
)
from mier_adapt._typing import Bool, Float, Tensor
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.baselines.policy_gradients import Gaussian, discounted
from mier_adapt.baselines.runs import (
    BaselineConfig,
    BaselineFile,
    BaselineMethod,
    BaselineTrainer,
)
from mier_adapt.transitions import Transitions

_Config = TypeVar("_Config", bound="InnerStepConfig")
Weights = dict[str, Tensor]
"""A policy's, or with a leading axis those of T tasks' policies."""

_MOST_ACT = 1 - 1e-6
"""Beyond it tanh cannot be undone in single precision."""
_OBS_BOUND = 10.0
"""Of the baseline's features (released code)."""
_RIDGE = 1e-5
"""Of the baseline's regression (released code)."""
_BACKTRACK, _MOST_BACKTRACKS = 0.8, 15
"""Of the line search (released code)."""


@dataclass(frozen=True, kw_only=True)
class InnerStepConfig(BaselineConfig):
    """What runs of MAML and of ProMP have in common."""

    updates: Size = 1_000
    """Outer steps of the whole run (released code)."""
    tasks_per_batch: Size = 40
    """Tasks of an outer step, drawn with replacement (released code)."""
    episodes_per_task: Size = 20
    """Episodes of each before, and as many after its inner step (paper and released code)."""
    episode_steps: Size = 200
    """Environment steps of an episode (paper)."""
    exploration_episodes: Size = 20
    """Episodes of a new task that the inner step is taken from (paper)."""
    hidden_sizes: tuple[Size, ...] = (64, 64)
    """Widths of the policy's hidden layers (tanh; released code; paper: 100)."""
    inner_lr: Positive = 0.1
    """Size of the inner step (paper and released code)."""
    inner_steps: Size = 1
    """Inner steps, all from the same episodes (paper: 1)."""
    initial_std: Positive = 1.0
    """Of the actions before they are squashed (released code)."""
    least_std: Positive = 1e-6
    """Below which it does not fall (released code)."""
    gamma: PositiveShare = 0.99
    """Discount factor per environment step (released code)."""
    gae_lambda: Share = 1.0
    """Of generalised advantage estimates (released code)."""


@dataclass(frozen=True, kw_only=True)
class MamlConfig(InnerStepConfig):
    """A meta-training run of MAML, whose outer step is TRPO's."""

    max_kl: Positive = 0.01
    """TRPO's bound on the adapted policies' mean divergence, in nats (paper and released code)."""
    cg_steps: Size = 10
    """Of conjugate gradients (released code)."""
    cg_damping: NonNegative = 1e-5
    """Added to the curvature (released code)."""


# The policy ---------------------------------------------------------------------------------


class GaussianPolicy(nn.Module):
    """A network of tanh layers that gives means, and log-deviations that depend on nothing.

    Initial weights come from torch's global generator.
    """

    def __init__(
        self, config: InnerStepConfig, envs: FamilyEnvs, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        obs_dim, act_dim = envs.observation_space.shape[0], envs.action_space.shape[0]
        widths = (obs_dim, *config.hidden_sizes, act_dim)
        self.depth, self.least_log_std = len(widths) - 1, math.log(config.least_std)
        for number in range(self.depth):
            weight = torch.empty(widths[number], widths[number + 1])
            self.register_parameter(
                f"weight_{number}", nn.Parameter(nn.init.xavier_uniform_(weight))
            )
            bias = nn.Parameter(torch.zeros(widths[number + 1]))
            self.register_parameter(f"bias_{number}", bias)
        log_std = torch.full((act_dim,), math.log(config.initial_std))
        self.log_std = nn.Parameter(log_std)
        self.to(device)

    def weights(self, num_tasks: int) -> Weights:
        """The initial ones, once for each of T tasks."""
        return {
            name: each.unsqueeze(0).expand(num_tasks, *each.shape)
            for name, each in self.named_parameters()
        }

    def actions(self, weights: Weights, obs: Float[Tensor, "T B O"]) -> Gaussian:
        """What policies with these weights, of T tasks, do."""
        hidden = obs
        for number in range(self.depth):
            bias = weights[f"bias_{number}"].unsqueeze(1)
            hidden = torch.baddbmm(bias, hidden, weights[f"weight_{number}"])
            if number < self.depth - 1:
                hidden = hidden.tanh()
        log_std = weights["log_std"].clamp_min(self.least_log_std).unsqueeze(1)
        return Gaussian(hidden, log_std)


class WeightsActor:
    """Policies of T tasks, each with weights of its own."""

    def __init__(self, policy: GaussianPolicy, weights: Weights) -> None:
        self.policy = policy
        self.weights = {name: each.detach() for name, each in weights.items()}

    @torch.no_grad()
    def act(
        self, obs: Float[NDArray[np.floating], "N O"], *, explore: bool
    ) -> Float[NDArray[np.floating], "N A"]:
        """As :meth:`.Actor.act`; without exploration the most probable action before tanh."""
        log_std = self.weights["log_std"]
        seen = torch.as_tensor(obs, dtype=torch.float32, device=log_std.device)
        actions = self.policy.actions(self.weights, seen.reshape(len(log_std), -1, obs.shape[-1]))
        unbounded = actions.loc
        if explore:
            unbounded = unbounded + actions.log_std.exp() * torch.randn_like(unbounded)
        chosen: NDArray[np.floating] = unbounded.tanh().flatten(0, 1).cpu().numpy()
        return chosen


# Advantages ---------------------------------------------------------------------------------


class Experience(NamedTuple):
    """What T tasks' policies did in E episodes' slots of S steps, and what it was worth."""

    obs: Float[Tensor, "T ES O"]
    unbounded: Float[Tensor, "T ES A"]
    """Actions before tanh."""
    advantage: Float[Tensor, "T ES"]
    """Of zero mean and unit deviation in each task."""
    returns: Float[Tensor, " T"]
    """Mean undiscounted reward of a slot, before any inner step was taken from it."""


def experience_of(
    transitions: Transitions, ended: Bool[Tensor, "T E S"], *, gamma: float, gae_lambda: float
) -> Experience:
    """Advantages over a linear baseline that each task fits to its own episodes.

    Args:
        transitions: ``(T, E, S, ...)``, each slot's in order.
        ended: After which of them another episode began, or none was recorded.
        gamma: Discount factor.
        gae_lambda: Of generalised advantage estimates (Schulman et al. 2016, arXiv:1506.02438,
            equation 16). What follows an episode that was cut by its time limit counts nothing
            (released code).
    """
    rew = transitions.rew
    returns = discounted(rew, ended, gamma)
    value = baseline_of(transitions.obs, ended, returns)
    value_next = torch.zeros_like(value)
    value_next[..., :-1] = value[..., 1:]
    difference = rew + gamma * value_next.masked_fill(ended, 0.0) - value
    advantage = discounted(difference, ended, gamma * gae_lambda).flatten(1)
    std, mean = torch.std_mean(advantage, dim=1, keepdim=True, correction=0)
    return Experience(
        obs=transitions.obs.flatten(1, 2),
        unbounded=torch.atanh(transitions.act.clamp(-_MOST_ACT, _MOST_ACT)).flatten(1, 2),
        advantage=(advantage - mean) / (std + 1e-8),
        returns=rew.sum(-1).mean(-1),
    )


def baseline_of(
    obs: Float[Tensor, "T E S O"], ended: Bool[Tensor, "T E S"], returns: Float[Tensor, "T E S"]
) -> Float[Tensor, "T E S"]:
    """Each task's regression of returns on observations, their squares and powers of time.

    Source:
        Duan et al. (2016), arXiv:1604.06778, section 5; released code.
    """
    clipped = obs.double().clamp(-_OBS_BOUND, _OBS_BOUND)
    time = torch.zeros_like(returns, dtype=torch.float64)
    for step in range(1, time.shape[-1]):
        time[..., step] = (time[..., step - 1] + 1).masked_fill(ended[..., step - 1], 0.0)
    time = time.unsqueeze(-1) / 100
    features = torch.cat(
        (clipped, clipped.square(), time, time**2, time**3, torch.ones_like(time)), -1
    ).flatten(1, 2)
    products = features.mT @ features + _RIDGE * torch.eye(features.shape[-1]).to(features)
    moments = features.mT @ returns.double().flatten(1).unsqueeze(-1)
    fitted: Tensor = features @ torch.linalg.solve(products, moments)
    return fitted.reshape(returns.shape).to(returns)


# The inner step (Algorithm 3, line 7) -------------------------------------------------------


def inner_loss(
    policy: GaussianPolicy, weights: Weights, experience: Experience
) -> Float[Tensor, " T"]:
    """L = -mean(log pi(a | s) A) of each task, whose gradient is the policy gradient's negative."""
    log_prob = policy.actions(weights, experience.obs).log_prob(experience.unbounded)
    loss: Tensor = -(log_prob * experience.advantage).mean(-1)
    return loss


def adapted(
    weights: Weights,
    loss: Callable[[Weights], Float[Tensor, " T"]],
    *,
    lr: float | Tensor,
    steps: int,
    create_graph: bool,
) -> Weights:
    """Weights of T tasks after steps down a loss, through which gradients pass if asked."""
    for _ in range(steps):
        gradients = torch.autograd.grad(
            loss(weights).sum(), list(weights.values()), create_graph=create_graph
        )
        weights = {
            name: each - lr * gradient
            for (name, each), gradient in zip(weights.items(), gradients, strict=True)
        }
    return weights


class InnerStepPolicy:
    """What is ended with, a :class:`.MetaPolicy`: initial weights, and how they are adapted."""

    def __init__(self, config: InnerStepConfig, networks: GaussianPolicy) -> None:
        self.config = config
        self.networks = networks

    def initial_actor(self, num_tasks: int) -> WeightsActor:
        """As :meth:`.MetaPolicy.initial_actor`."""
        return WeightsActor(self.networks, self.networks.weights(num_tasks))

    @checked
    def adapt(self, transitions: Transitions) -> WeightsActor:
        """As :meth:`.MetaPolicy.adapt`, by inner steps from what the initial actor did.

        Args:
            transitions: ``(T, B, ...)`` in order, episode by episode, each of ``episode_steps`` or
                ended by its environment; a last one may be cut short.
        """
        experience = self._experience(transitions.to(self.networks.log_std.device))
        with torch.enable_grad():
            weights = {
                name: each.detach().requires_grad_()
                for name, each in self.networks.weights(len(transitions)).items()
            }
            new = self.adapted(weights, experience, create_graph=False)
        return WeightsActor(self.networks, new)

    def adapted(self, weights: Weights, experience: Experience, *, create_graph: bool) -> Weights:
        """Weights of T tasks after the inner steps, through which gradients pass if asked."""
        return adapted(
            weights,
            lambda now: inner_loss(self.networks, now, experience),
            lr=self.config.inner_lr,
            steps=self.config.inner_steps,
            create_graph=create_graph,
        )

    def _experience(self, transitions: Transitions) -> Experience:
        ended = transitions.terminated.clone()
        ended[:, :-1] |= ~transitions.follows
        ended[:, -1] = True
        for each in ended:  # those of full length that go on as if nothing had happened
            start = 0
            while start + self.config.episode_steps < len(each):
                end = start + self.config.episode_steps - 1
                each[end] |= not each[start:end].any()
                start += int(each[start:].int().argmax()) + 1
        one_slot = [transitions[task : task + 1] for task in range(len(transitions))]
        return experience_of(
            Transitions.stack(one_slot),
            ended.unsqueeze(1),
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
        )


# Meta-training (Algorithm 3) ----------------------------------------------------------------


class InnerStepTrainer(BaselineTrainer[_Config, GaussianPolicy, InnerStepPolicy]):
    """A run in the making; a step of it is an outer step, with the episodes that it needs.

    Args:
        config: What to train.
        envs: The environments of ``config.task_set``; only its meta-training tasks are run.
        seed: Fixes the run.
        device: Where networks live and learn.
    """

    networks_class, policy_class = GaussianPolicy, InnerStepPolicy
    measures = ("return_before", "return_after", "kl", "gain")

    @abstractmethod
    def outer_step(self, before: Experience, after: Experience) -> tuple[Tensor, Tensor]:
        """Move the initial weights, given episodes of T tasks before and after their inner steps.

        Returns:
            How far that moved adapted policies, in nats, and what it gained by its own measure.
        """

    def update(self) -> Float[Tensor, " M"]:
        """Episodes, an inner step of each task, episodes of what that gave, and an outer step."""
        train = self.envs.task_set.meta_train
        drawn = self.generator.integers(len(train), size=self.config.tasks_per_batch)
        weights = self.networks.weights(len(drawn))
        before = self._experience(drawn, weights)
        new = self.policy.adapted(weights, before, create_graph=False)
        after = self._experience(drawn, new)
        kl, gain = self.outer_step(before, after)
        return torch.stack((before.returns.mean(), after.returns.mean(), kl, gain))

    def moved(
        self,
        before: Experience,
        after: Experience,
        loss: Callable[[Weights], Float[Tensor, " T"]],
    ) -> Callable[..., tuple[Float[Tensor, "T ES"], Float[Tensor, ""]]]:
        """Log-ratios of adapted policies' chances to those that acted, and how far they are.

        Both are functions of the initial weights as they stand when it is called.

        Args:
            before: Episodes that the inner steps are taken from.
            after: Episodes of policies that were adapted from the weights as they stand now.
            loss: What the inner steps go down.
        """
        config, networks, tasks = self.config, self.networks, len(after.obs)
        new = self.policy.adapted(networks.weights(tasks), before, create_graph=False)
        with torch.no_grad():
            acted = networks.actions(new, after.obs)
            then = acted.log_prob(after.unbounded)

        def moved(*, create_graph: bool) -> tuple[Tensor, Tensor]:
            new = adapted(
                networks.weights(tasks),
                loss,
                lr=config.inner_lr,
                steps=config.inner_steps,
                create_graph=create_graph,
            )
            actions = networks.actions(new, after.obs)
            return actions.log_prob(after.unbounded) - then, acted.divergence(actions).mean()

        return moved

    def _experience(self, tasks: NDArray[np.int_], weights: Weights) -> Experience:
        """Some episodes of each task."""
        config = self.config
        actor = WeightsActor(self.networks, weights)
        rollouts = self.gather(tasks, actor, episodes=config.episodes_per_task)
        transitions = Transitions.stack([each.transitions for each in rollouts]).to(self.device)
        ended = torch.from_numpy(np.stack([each.truncated for each in rollouts])).to(self.device)
        ended |= transitions.terminated
        ended[..., -1] = True
        return experience_of(
            transitions, ended, gamma=self.config.gamma, gae_lambda=self.config.gae_lambda
        )


class MamlTrainer(InnerStepTrainer[MamlConfig]):
    """A run of MAML in the making.

    Source:
        Finn et al. (2017), arXiv:1703.03400, Algorithm 3; the outer step is that of Schulman et al.
        (2015), arXiv:1502.05477. Ours: products with the curvature are exact, where the released
        code takes differences of gradients.
    """

    def outer_step(self, before: Experience, after: Experience) -> tuple[Tensor, Tensor]:
        """TRPO's step; by how much it moved the adapted policies, and what that promises."""
        config, parameters = self.config, list(self.networks.parameters())
        objective = self.outer_objective(before, after)
        surrogate, kl = objective(create_graph=True)
        gradient = _flat(torch.autograd.grad(surrogate, parameters, retain_graph=True))
        slope = _flat(torch.autograd.grad(kl, parameters, create_graph=True))

        def curvature(vector: Tensor) -> Tensor:
            product = torch.autograd.grad(slope @ vector, parameters, retain_graph=True)
            return _flat(product) + config.cg_damping * vector

        direction = conjugate_gradients(curvature, gradient, config.cg_steps)
        size = (2 * config.max_kl / (direction @ curvature(direction)).clamp_min(1e-12)).sqrt()
        start = _flat([each.detach() for each in parameters])
        for number in range(_MOST_BACKTRACKS):
            self._set(start - _BACKTRACK**number * size * direction)
            new_surrogate, new_kl = (each.detach() for each in objective(create_graph=False))
            if bool(new_surrogate < surrogate) and bool(new_kl <= config.max_kl):
                return new_kl, surrogate.detach() - new_surrogate
        self._set(start)
        return torch.zeros_like(kl), torch.zeros_like(kl)

    def outer_objective(
        self, before: Experience, after: Experience
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        """What adapted policies lose of the advantages, and how far they are from what acted.

        Both are functions of the initial weights as they stand when it is called.
        """
        moved = self.moved(before, after, lambda now: inner_loss(self.networks, now, before))

        def objective(*, create_graph: bool) -> tuple[Tensor, Tensor]:
            log_ratio, kl = moved(create_graph=create_graph)
            return -(log_ratio.exp() * after.advantage).mean(), kl

        return objective

    @torch.no_grad()
    def _set(self, flat: Tensor) -> None:
        torch.nn.utils.vector_to_parameters(flat, self.networks.parameters())


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Float[Tensor, " P"], steps: int
) -> Float[Tensor, " P"]:
    """Solve A x = target for x, given products with the positive definite A.

    Source:
        Hestenes and Stiefel (1952).
    """
    solution, residual = torch.zeros_like(target), target.clone()
    direction, norm = residual.clone(), residual @ residual
    for _ in range(steps):
        if float(norm) < 1e-10:
            break
        along = product(direction)
        size = norm / (direction @ along)
        solution, residual = solution + size * direction, residual - size * along
        norm_before, norm = norm, residual @ residual
        direction = residual + norm / norm_before * direction
    return solution


def _flat(tensors: Sequence[Tensor]) -> Float[Tensor, " P"]:
    return torch.cat([each.flatten() for each in tensors])


# The method ---------------------------------------------------------------------------------


class _MamlFile(BaselineFile):
    """What ``run.json`` says of a run of MAML."""

    method = "maml"
    config_class = MamlConfig


class Maml(BaselineMethod):
    """MAML with one configuration, a :class:`.Method`.

    Args:
        config: A :class:`MamlConfig`, what is trained.
        device: Where networks live and learn.

    Source:
        Finn et al. (2017), arXiv:1703.03400, Algorithm 3.
    """

    run_file = _MamlFile
    trainer = MamlTrainer
