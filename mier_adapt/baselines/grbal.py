"""GrBAL: a model of the dynamics that is adapted at every step, and planned with.

In the order of Nagabandi et al. (2019), arXiv:1803.11347, Algorithms 1 and 2; what is the released
code's is marked so.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
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
from mier_adapt.baselines.memory import MemoryActor
from mier_adapt.baselines.references import RandomActor
from mier_adapt.baselines.runs import (
    BaselineConfig,
    BaselineFile,
    BaselineMethod,
    BaselineTrainer,
    descend,
)
from mier_adapt.protocols import Actor
from mier_adapt.transitions import Transitions
from mier_adapt_envs import env_class, families

_LEAST_SCALE = 1e-6
"""Of what a model sees and predicts, below which it is taken as it never changes."""
_MOST_MEASURED = 100_000
"""Steps, evenly spread over all, that scales are of."""


@dataclass(frozen=True, kw_only=True)
class GrbalConfig(BaselineConfig):
    """A meta-training run of GrBAL.

    An update is a gradient step of the model. The family needs a ``reward_fn``: plans are compared
    by a reward that is known, and so has to be the same function in all tasks.
    """

    updates: Size = 50_000
    """Gradient steps of the whole run (ours; released code: 50 iterations of up to 100 epochs)."""
    updates_per_iteration: Size = 1_000
    """Gradient steps after each collection (ours; released code: epochs, until the validation loss
    rises)."""
    initial_episodes: Size = 2
    """Episodes of random actions of every task before the first iteration (ours; released code: as
    many steps in all)."""
    episodes_per_iteration: Size = 20
    """Episodes that an iteration gathers, in tasks drawn with replacement (released code: as many
    steps, in episodes of 1000)."""
    exploration_episodes: Size = 1
    """Episodes that a new task is met with (ours: paper and released code adapt within one)."""
    episode_steps: Size = 200
    """Environment steps of an episode (ours; released code: 1000)."""
    replay_per_task: Size = 100_000
    """Transitions kept of each task (ours; released code: all)."""
    past_steps: Size = 16
    """M, transitions that the model is adapted to (released code)."""
    future_steps: Size = 16
    """K, transitions after them that it is to predict then (released code)."""
    windows_per_batch: Size = 20
    """Stretches of M + K transitions of a gradient step (released code: meta_batch_size)."""
    hidden_sizes: tuple[Size, ...] = (512, 512)
    """Widths of the model's hidden layers (ReLU; released code)."""
    inner_lr: NonNegative = 0.01
    """Size of the step that adapts the model; 0 for one that is not adapted (released code)."""
    learn_inner_lr: bool = False
    """Meta-train that size, too (paper; released code: not)."""
    lr: Positive = 1e-3
    """Adam's step size (released code)."""
    planner: Literal["shooting", "cem"] = "shooting"
    """How plans are searched: random shooting, or the cross-entropy method (released code)."""
    horizon: Size = 10
    """Environment steps of a plan (released code)."""
    candidates: Size = 1_000
    """Plans that are compared; by CEM as many in each round (released code)."""
    cem_rounds: Size = 5
    """Rounds of CEM (released code)."""
    cem_elites: PositiveShare = 0.1
    """Share of a round's plans that the next is drawn around (released code)."""
    cem_inertia: Share = 0.1
    """Weight of the last round's mean in the next (released code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if getattr(env_class(self.family), "reward_fn", None) is None:
            known = [each for each in families() if getattr(env_class(each), "reward_fn", None)]
            raise ValueError(
                f"GrbalConfig expected family to have a reward_fn, the known reward of all of its "
                f"tasks, as {', '.join(known)} have, got {self.family}."
            )
        if self.episode_steps < self.past_steps + self.future_steps:
            raise ValueError(
                "GrbalConfig expected episode_steps >= past_steps + future_steps, got "
                f"{self.episode_steps} < {self.past_steps} + {self.future_steps}."
            )


# The model, and its update rule (section 4) -------------------------------------------------


class Steps(NamedTuple):
    """What a model learns from: B steps of each of T tasks."""

    obs: Float[Tensor, "T B O"]
    act: Float[Tensor, "T B A"]
    obs_next: Float[Tensor, "T B O"]

    def part(self, steps: slice) -> "Steps":
        """Some of the steps of each task."""
        return Steps(*(each[:, steps] for each in self))


Layer = Callable[[Float[Tensor, "T B I"]], Float[Tensor, "T B J"]]


@dataclass(frozen=True, eq=False)
class AdaptedLayer:
    r"""A linear layer after a gradient step of each of T tasks, by the M steps that it is on.

    Where $x_m$ is what the layer saw and $s_m$ the step down the slope in what it gave, it gives

    $$h W^\top + b + \sum_m (h x_m^\top + 1) s_m,$$

    so that no task needs weights of its own to be learned from.
    """

    layer: nn.Linear
    seen: Float[Tensor, "T M I"]
    step: Float[Tensor, "T M J"]

    def __call__(self, values: Float[Tensor, "T B I"]) -> Float[Tensor, "T B J"]:
        """What it gives."""
        given: Tensor = self.layer(values)
        return torch.baddbmm(given, values @ self.seen.mT + 1, self.step)

    def written_out(self) -> Layer:
        """The same with weights of each task, which many rows go through in less time."""
        weight = torch.baddbmm(self.layer.weight.T.unsqueeze(0), self.seen.mT, self.step)
        bias = self.layer.bias + self.step.sum(1, keepdim=True)
        return lambda values: torch.baddbmm(bias, values, weight)


class DynamicsModel(nn.Module):
    """A network of ReLU layers that predicts how an observation changes, and the inner step's size.

    It sees and predicts what has zero mean and unit deviation over the experience. Initial weights
    come from torch's global generator.
    """

    input_mean: Tensor
    input_scale: Tensor
    delta_mean: Tensor
    delta_scale: Tensor

    def __init__(
        self, config: GrbalConfig, envs: FamilyEnvs, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        obs_dim, act_dim = envs.observation_space.shape[0], envs.action_space.shape[0]
        widths = (obs_dim + act_dim, *config.hidden_sizes, obs_dim)
        layers = [nn.Linear(*each) for each in itertools.pairwise(widths)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)
        self.inner_lr = nn.Parameter(torch.tensor(config.inner_lr))
        for name, dim in (("input", obs_dim + act_dim), ("delta", obs_dim)):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_scale", torch.ones(dim))
        self.to(device)

    def measure(self, obs: Tensor, act: Tensor, obs_next: Tensor) -> None:
        """Take means and deviations of these steps, ``(B, ...)``, for scales."""
        for name, values in (("input", torch.cat((obs, act), -1)), ("delta", obs_next - obs)):
            scale, mean = torch.std_mean(values, dim=0, correction=0)
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_scale").copy_(scale.clamp_min(_LEAST_SCALE))

    def activations(
        self,
        obs: Float[Tensor, "T B O"],
        act: Float[Tensor, "T B A"],
        layers: Sequence[Layer] | None = None,
    ) -> list[Float[Tensor, "T B I"]]:
        """What each layer sees and, at last, how observations are to change, in deviations.

        Args:
            obs: Of T tasks.
            act: What is done there.
            layers: Adapted ones; the meta-trained ones if None.
        """
        values: list[Tensor] = [(torch.cat((obs, act), -1) - self.input_mean) / self.input_scale]
        *hidden, last = layers or self.layers
        for layer in hidden:
            values.append(layer(values[-1]).relu_())
        return [*values, last(values[-1])]

    def obs_next(
        self,
        obs: Float[Tensor, "T B O"],
        act: Float[Tensor, "T B A"],
        layers: Sequence[Layer] | None = None,
    ) -> Float[Tensor, "T B O"]:
        """The next observations that T tasks' models predict."""
        scaled = self.activations(obs, act, layers)[-1]
        return torch.addcmul(obs + self.delta_mean, scaled, self.delta_scale)

    def loss(self, steps: Steps, layers: Sequence[Layer] | None = None) -> Float[Tensor, " T"]:
        """Each task's mean squared error, in deviations: 1 for who predicts the mean change."""
        error = self.activations(steps.obs, steps.act, layers)[-1] - self._target(steps)
        return error.square().mean((1, 2))

    def adapted(self, past: Steps, known: Bool[Tensor, " T"]) -> list[AdaptedLayer]:
        """After one step down each task's :meth:`loss` on its past, where that is known.

        Gradients pass through the step, to its size as well.
        """
        *seen, found = self.activations(past.obs, past.act)
        error = (found - self._target(past)) * known[:, None, None]
        step = -2 * self.inner_lr / error[0].numel() * error
        new = []
        layers = [cast(nn.Linear, layer) for layer in self.layers]
        for layer, values in zip(reversed(layers), reversed(seen), strict=True):
            new.append(AdaptedLayer(layer, values, step))
            step = (step @ layer.weight) * (values > 0)
        return new[::-1]

    def _target(self, steps: Steps) -> Float[Tensor, "T B O"]:
        return (steps.obs_next - steps.obs - self.delta_mean) / self.delta_scale


def meta_loss(
    model: DynamicsModel, windows: Steps, *, past_steps: int
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """Losses on each window's future, of the model that was adapted to its past and of its prior.

    Source:
        Nagabandi et al. (2019), arXiv:1803.11347, section 4: the meta-objective, with squared
        errors for log-likelihoods and its gradient through the inner step (released code).
    """
    past, future = windows.part(slice(past_steps)), windows.part(slice(past_steps, None))
    known = torch.ones_like(windows.obs[:, 0, 0], dtype=torch.bool)
    losses = model.loss(future, model.adapted(past, known))
    with torch.no_grad():
        prior = model.loss(future)
    return losses, prior


# Planning (section 5) -----------------------------------------------------------------------


def best_plan(
    returns: Callable[[Float[Tensor, "T N H A"]], Float[Tensor, "T N"]],
    rest: Float[Tensor, "T H A"],
    config: GrbalConfig,
) -> Float[Tensor, "T H A"]:
    """Of actions in [-1, 1], for each of T tasks the plan of the highest return that is found.

    Drawn by torch's global generator: uniformly, or by CEM in rounds around the best ones of the
    round before, from a standard normal one on and cut to the bounds, the best of the last round.

    Args:
        returns: What N plans of each task return.
        rest: Zeros, of the plans' shape.
        config: Which planner, with its options.

    Source:
        Released code. Departs from it: its elites are all of one array over the tasks, of plans
        that were cut when others were compared.
    """
    num_tasks, horizon, act_dim = rest.shape
    shape = (num_tasks, config.candidates, horizon, act_dim)
    if config.planner == "shooting":
        plans = 2 * torch.rand(shape, dtype=rest.dtype, device=rest.device) - 1
        found = returns(plans)
    else:
        mean, std = rest, torch.ones_like(rest)
        elites = max(int(config.cem_elites * config.candidates), 1)
        for _ in range(config.cem_rounds):
            noise = torch.randn(shape, dtype=rest.dtype, device=rest.device)
            plans = (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(-1, 1)
            found = returns(plans)
            best = torch.take_along_dim(plans, found.topk(elites).indices[..., None, None], 1)
            mean = config.cem_inertia * mean + (1 - config.cem_inertia) * best.mean(1)
            std = best.std(1, correction=0)
    return torch.take_along_dim(plans, found.argmax(1)[:, None, None, None], 1).squeeze(1)


class GrbalPolicy:
    """What GrBAL ends with, a :class:`.MetaPolicy`: a model, and no experience."""

    def __init__(self, config: GrbalConfig, networks: DynamicsModel) -> None:
        self.config = config
        self.networks = networks
        family: Any = env_class(config.family)
        self._reward_fn, self._termination_fn = family.reward_fn, family.termination_fn

    def initial_actor(self, num_tasks: int) -> "OnlineActor":
        """As :meth:`.MetaPolicy.initial_actor`: it adapts as well, once M steps are behind it."""
        model = self.networks
        size = 1 + len(model.input_mean) + len(model.delta_mean)
        return OnlineActor(
            self, model.delta_mean.new_zeros(num_tasks, self.config.past_steps, size)
        )

    @checked
    def adapt(self, transitions: Transitions) -> "OnlineActor":
        """As :meth:`.MetaPolicy.adapt`: each episode begins with the last of these as its past.

        Args:
            transitions: Of each task, in order, of which the last M are looked at.
        """
        given = transitions.detach()
        flag = torch.ones_like(given.rew).unsqueeze(-1)
        past = torch.cat((flag, given.obs, given.act, given.obs_next), -1)
        past = past[:, -self.config.past_steps :].to(self.networks.delta_mean)
        return OnlineActor(self, F.pad(past, (0, 0, self.config.past_steps - past.shape[1], 0)))

    @torch.no_grad()
    def chosen(
        self, obs: Float[Tensor, "T O"], past: Steps, known: Bool[Tensor, " T"]
    ) -> Float[Tensor, "T A"]:
        """The first actions of the best plans, by models that are adapted where a past is known."""
        layers = [each.written_out() for each in self.networks.adapted(past, known)]
        return best_plan(
            lambda plans: self.imagined_returns(obs, plans, layers),
            obs.new_zeros(len(obs), self.config.horizon, past.act.shape[-1]),
            self.config,
        )[:, 0]

    @torch.no_grad()
    def imagined_returns(
        self,
        obs: Float[Tensor, "T O"],
        plans: Float[Tensor, "T N H A"],
        layers: Sequence[Layer] | None = None,
    ) -> Float[Tensor, "T N"]:
        """What T tasks' models say that plans return, up to where an episode would end.

        Ends are ours: the released code counts the rewards of all steps.
        """
        num_tasks, candidates = plans.shape[:2]
        now = obs.unsqueeze(1).expand(-1, candidates, -1)
        returns = now.new_zeros(num_tasks, candidates)
        lasts = torch.ones_like(returns, dtype=torch.bool)
        for act in plans.unbind(2):
            after = self.networks.obs_next(now, act, layers)
            rows = [each.flatten(0, 1).cpu().numpy() for each in (now, act, after)]
            rew, ends = (
                torch.from_numpy(np.asarray(function(*rows))).to(obs.device).view_as(returns)
                for function in (self._reward_fn, self._termination_fn)
            )
            returns = returns + rew.to(returns) * lasts
            lasts, now = lasts & ~ends, after
        return returns


# Acting (Algorithm 2) -----------------------------------------------------------------------


class OnlineActor(MemoryActor):
    """The policy in T tasks, whose models are adapted at each step to the M steps before it.

    These are of the episode that is under way and, until it has as many, of what was explored
    before: each new episode begins with that as its past, and with nothing of others. Below M steps
    in all, the model is not adapted (released code).

    Args:
        policy: Chooses actions, given observations and the past.
        past: What each task's episodes begin with, the newest last: for each step a flag, 1, the
            observation, the action, and the observation after it; zeros where there is none.
    """

    def __init__(self, policy: GrbalPolicy, past: Float[Tensor, "T M S"]) -> None:
        super().__init__(past=past, explored=past, last=torch.zeros_like(past[:, -1]))
        self.policy = policy

    def begin(self, starting: Bool[Tensor, " N"]) -> None:
        """Go back to what was explored in these slots, and drop the step that ended there."""
        past, explored, last = self.memory.values()
        self.memory["past"] = torch.where(starting[:, None, None], explored, past)
        self.memory["last"] = torch.where(starting[:, None], 0.0, last)

    def choose(self, obs: Float[Tensor, "N O"], *, explore: bool) -> Float[Tensor, "N A"]:
        """Nothing is added for exploration, as plans are drawn (paper)."""
        past, _, last = self.memory.values()
        flag, obs_before, act, _ = self._parts(last)
        made = torch.cat((flag, obs_before, act, obs), -1).unsqueeze(1)
        past = torch.where(flag.unsqueeze(1) > 0, torch.cat((past[:, 1:], made), 1), past)
        self.memory["past"] = past
        self.memory["last"] = torch.cat((torch.zeros_like(flag), obs, act, obs), -1)
        return self.policy.chosen(obs, self.past, (past[..., 0] > 0).all(1))

    def keep(self, act: Float[Tensor, "N A"], rew: Float[Tensor, " N"]) -> None:
        """It is a step of the past from the next observation on; rewards are known."""
        flag, obs, _, obs_next = self._parts(self.memory["last"])
        self.memory["last"] = torch.cat((torch.ones_like(flag), obs, act, obs_next), -1)

    @property
    def past(self) -> Steps:
        """What each slot's model is adapted to; zeros where there are fewer than M steps."""
        return Steps(*self._parts(self.memory["past"])[1:])

    def _parts(self, steps: Float[Tensor, "*axes S"]) -> tuple[Tensor, ...]:
        """Flag, observation, action and next observation."""
        obs_dim = len(self.policy.networks.delta_mean)
        act_dim = len(self.policy.networks.input_mean) - obs_dim
        return torch.split(steps, [1, obs_dim, act_dim, obs_dim], -1)


# Meta-training (Algorithm 1) ----------------------------------------------------------------


class GrbalTrainer(BaselineTrainer[GrbalConfig, DynamicsModel, GrbalPolicy]):
    """A run in the making; a step of it is a gradient step, with a collection where one is due.

    Args:
        config: What to train.
        envs: The environments of ``config.task_set``; only its meta-training tasks are run.
        seed: Fixes the run.
        device: Where networks live and learn.

    Source:
        Nagabandi et al. (2019), arXiv:1803.11347, Algorithm 1. Ours: iterations have a fixed number
        of steps, and scales are of steps from all experience, not of the last iteration's.
    """

    networks_class, policy_class = DynamicsModel, GrbalPolicy
    measures = ("meta_loss", "prior_loss", "inner_lr")

    def prepare(self) -> None:
        """The optimizer and the replay."""
        config = self.config
        learned = [
            each
            for name, each in self.networks.named_parameters()
            if config.learn_inner_lr or name != "inner_lr"
        ]
        self.optimizers["model"] = torch.optim.Adam(learned, lr=config.lr, fused=True)
        self.replay = self.new_replay("replay", config.replay_per_task)
        self._window_steps = config.past_steps + config.future_steps
        self._ends: NDArray[np.int_] | None = None

    def update(self) -> Float[Tensor, " M"]:
        """One step of the model on a batch of windows."""
        config, num_tasks = self.config, self.replay.num_tasks
        if self.env_steps == 0:
            everything = np.repeat(np.arange(num_tasks), config.initial_episodes)
            self._gather(everything, RandomActor(self.replay.act_dim))
        elif self.updates % config.updates_per_iteration == 0:
            tasks = self.generator.integers(num_tasks, size=config.episodes_per_iteration)
            self._gather(tasks, self.policy.initial_actor(len(tasks)))
        losses, prior = meta_loss(self.networks, self._windows(), past_steps=config.past_steps)
        loss = losses.mean()
        descend(self.optimizers["model"], loss)
        return torch.stack((loss, prior.mean(), self.networks.inner_lr))

    def load_state(self, state: dict[str, Any]) -> None:
        """As every baseline's, after which windows are looked for anew."""
        super().load_state(state)
        self._ends = None

    def _gather(self, tasks: NDArray[np.int_], actor: Actor) -> None:
        """Collect and store an episode in each of these tasks, and take the scales of all."""
        for task, rollout in zip(tasks, self.gather(tasks, actor), strict=True):
            cut = rollout.truncated.reshape(-1).copy()
            cut[-1] = True  # what is stored next does not follow
            self.replay.extend(int(task), rollout.transitions.flatten(), truncated=cut)
        self._ends = None
        stored = self.replay.stored_indices()
        some = stored[:: -(-len(stored) // _MOST_MEASURED)]
        known = self.replay.stretches(some, 1).flatten().to(self.device)
        self.networks.measure(known.obs, known.act, known.obs_next)

    def _windows(self) -> Steps:
        """Stretches of M + K steps of one episode each, drawn from all that there are."""
        if self._ends is None:
            self._ends = self._possible_ends()
        drawn = self.generator.choice(self._ends, self.config.windows_per_batch)
        found = self.replay.stretches(drawn, self._window_steps).to(self.device)
        return Steps(found.obs, found.act, found.obs_next)

    def _possible_ends(self) -> NDArray[np.int_]:
        """Where in the replay a window may end."""
        ends = []
        for task in range(self.replay.num_tasks):
            buffer = self.replay.task_buffer(task)
            rows = buffer.last_indices(len(buffer))
            done = np.asarray(buffer.done)[rows]
            over = np.concatenate(([0], np.cumsum(done)))  # episodes before each step
            # None but the window's last step may end an episode.
            whole = over[self._window_steps - 1 : -1] == over[: -self._window_steps]
            ends.append(task * self.replay.size_per_task + rows[self._window_steps - 1 :][whole])
        found = np.concatenate(ends)
        if not len(found):
            raise ValueError(
                f"GrBAL expected episodes of at least past_steps + future_steps = "
                f"{self._window_steps} steps, got none. Lower these."
            )
        return found


# The method ---------------------------------------------------------------------------------


class _GrbalFile(BaselineFile):
    """What ``run.json`` says of a run of GrBAL."""

    method = "grbal"
    config_class = GrbalConfig


class Grbal(BaselineMethod):
    """GrBAL with one configuration, a :class:`.Method`.

    Args:
        config: A :class:`GrbalConfig`, what is trained.
        device: Where networks live and learn.

    Source:
        Nagabandi et al. (2019), arXiv:1803.11347, Algorithms 1 and 2.
    """

    run_file = _GrbalFile
    trainer = GrbalTrainer
