"""Shared doubles: transitions, linear-Gaussian tasks and models, algorithms, tiny runs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.modelfree.redq import REDQ, REDQPolicy
from tianshou.algorithm.modelfree.sac import SAC, AutoAlpha, SACPolicy
from tianshou.algorithm.modelfree.td3 import TD3
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.exploration import GaussianNoise
from tianshou.utils.net.common import EnsembleLinear, Net
from tianshou.utils.net.continuous import (
    ContinuousActorDeterministic,
    ContinuousActorProbabilistic,
    ContinuousCritic,
)

from mier_adapt import ContextModel, GradientContextAdapter, Transitions
from mier_adapt.adaptation.report import AdaptationReport
from mier_adapt.agents import AdaptConfig, MetaTrainConfig, ModelConfig, PolicyConfig
from mier_adapt.integration import build_sac
from mier_adapt.protocols import Varies
from tests.forking import REPOSITORY

OBS_DIM, ACT_DIM, CONTEXT_DIM = 3, 2, 2


# Transitions and models ---------------------------------------------------------------------


def random_transitions(
    *axes: int,
    obs_dim: int = OBS_DIM,
    act_dim: int = ACT_DIM,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Transitions:
    """Transitions without any structure, with the given leading axes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return Transitions(
        obs=normal(*axes, obs_dim),
        act=normal(*axes, act_dim).tanh(),
        rew=normal(*axes),
        obs_next=normal(*axes, obs_dim),
        terminated=torch.rand(*axes, generator=generator) < 0.3,
    )


def random_model(
    model_class: type[ContextModel] = ContextModel,
    *,
    obs_dim: int = OBS_DIM,
    act_dim: int = ACT_DIM,
    context_dim: int = CONTEXT_DIM,
    **kwargs: Any,
) -> ContextModel:
    """A small float64 model whose every parameter is random, biases included."""
    seed = kwargs.pop("seed", 0)
    options: dict[str, Any] = {"hidden_sizes": (5, 4), "activation": "tanh", **kwargs}
    model = model_class(obs_dim, act_dim, context_dim, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "log_var" not in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(0.6 * noise)
    return model


class LinearGaussianTask:
    """A task whose reward and dynamics are linear in the context, with known noise.

    The model is the real one without hidden layers, so its loss is a parabola in the context,
    whose lowest point and whose curvature are known in closed form.
    """

    def __init__(self, *, seed: int = 0, varies: Varies = "reward_and_dynamics") -> None:
        self.model = random_model(hidden_sizes=(), varies=varies, seed=seed)
        (layer,) = self.model.layers
        outputs = layer.out_features // 2
        with torch.no_grad():
            layer.weight[outputs:] = 0.0  # variances are the same everywhere
        prediction = self.model(
            torch.zeros(1, OBS_DIM, dtype=torch.float64),
            torch.zeros(1, ACT_DIM, dtype=torch.float64),
            torch.zeros(CONTEXT_DIM, dtype=torch.float64),
        )
        log_var = prediction.rew_log_var
        if prediction.delta_log_var is not None:
            log_var = torch.cat((log_var, prediction.delta_log_var[0]))
        self.log_var_Y = log_var.detach()
        self.weight_YX, self.context_weight_YC = torch.split(
            layer.weight.detach()[:outputs], [OBS_DIM + ACT_DIM, CONTEXT_DIM], dim=1
        )
        self.bias_Y = layer.bias.detach()[:outputs]
        # The state's part of the loss is a mean over its dimensions, the reward's is not.
        share_Y = torch.full_like(self.log_var_Y, 1 / OBS_DIM)
        share_Y[0] = 1.0
        self._precision_Y = share_Y * torch.exp(-self.log_var_Y)

    @property
    def curvature(self) -> float:
        """Largest second derivative of the loss in the context."""
        weighted = self.context_weight_YC * self._precision_Y[:, None]
        hessian = 2 * self.context_weight_YC.T @ weighted
        return float(torch.linalg.eigvalsh(hessian).max())

    def draw(self, context: torch.Tensor, count: int, *, seed: int = 0) -> Transitions:
        """Transitions of the task that has this context."""
        start = random_transitions(count, seed=seed, dtype=torch.float64)
        noise = torch.randn(
            count,
            len(self.bias_Y),
            generator=torch.Generator().manual_seed(seed + 1),
            dtype=torch.float64,
        )
        inputs = torch.cat((start.obs, start.act), -1)
        mean = inputs @ self.weight_YX.T + self.context_weight_YC @ context + self.bias_Y
        target = mean + noise * torch.exp(0.5 * self.log_var_Y)
        obs_next = start.obs + target[:, 1:] if len(self.bias_Y) > 1 else start.obs_next
        return Transitions(start.obs, start.act, target[:, 0], obs_next, start.terminated)

    def best_context(self, transitions: Transitions) -> torch.Tensor:
        """The context of least loss on these transitions: weighted least squares."""
        inputs = torch.cat((transitions.obs, transitions.act), -1)
        target = transitions.rew[:, None]
        if len(self.bias_Y) > 1:
            target = torch.cat((target, transitions.obs_next - transitions.obs), -1)
        residual_Y = (target - inputs @ self.weight_YX.T - self.bias_Y).mean(0)
        weighted_YC = self.context_weight_YC * self._precision_Y[:, None]
        return torch.linalg.lstsq(
            self.context_weight_YC.T @ weighted_YC, weighted_YC.T @ residual_Y
        ).solution


class LinearModel:
    """A task model of the plainest kind: no network, nor a subclass of anything.

    Means are linear in ``[obs, act, context]``, and all noise has one standard deviation.
    """

    def __init__(
        self,
        obs_dim: int = OBS_DIM,
        act_dim: int = ACT_DIM,
        context_dim: int = CONTEXT_DIM,
        *,
        varies: Varies = "reward_and_dynamics",
        std: float = 0.1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.obs_dim, self.act_dim, self.context_dim = obs_dim, act_dim, context_dim
        self.varies, self.std = varies, std
        self.initial_context = torch.zeros(context_dim, dtype=dtype)
        shape = (1 if varies == "reward" else 1 + obs_dim, obs_dim + act_dim + context_dim)
        generator = torch.Generator().manual_seed(0)
        self.weight_YX = torch.randn(shape, generator=generator, dtype=dtype)

    def mean(
        self, obs: torch.Tensor, act: torch.Tensor, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if 1 < context.ndim < obs.ndim:  # one for each task
            context = context.unsqueeze(-2)
        inputs = torch.cat((obs, act, context.expand(*obs.shape[:-1], -1)), -1)
        mean = inputs @ self.weight_YX.T
        return mean[..., 0], None if self.varies == "reward" else obs + mean[..., 1:]

    def sample(
        self,
        obs: torch.Tensor,
        act: torch.Tensor,
        context: torch.Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        def draw(mean: torch.Tensor) -> torch.Tensor:
            return mean + self.std * torch.empty_like(mean).normal_(generator=generator)

        rew, obs_next = self.mean(obs, act, context)
        return draw(rew), None if obs_next is None else draw(obs_next)

    def loss(self, transitions: Transitions, context: torch.Tensor) -> torch.Tensor:
        rew, obs_next = self.mean(transitions.obs, transitions.act, context)
        loss = (rew - transitions.rew).square().mean(-1)
        if obs_next is not None:
            loss = loss + (obs_next - transitions.obs_next).square().mean((-2, -1))
        return loss / self.std**2


def plain_meta_loss(
    adapter: GradientContextAdapter, adaptation: Transitions, evaluation: Transitions
) -> torch.Tensor:
    """What ``adapter.meta_loss`` computes: one task after another, by automatic differentiation.

    As equation 4 of the paper is written down; the adapter must have one size for all steps.
    """
    model, (lr,), losses = adapter.model, adapter.lrs, []
    for task in range(len(adaptation)):
        context = model.initial_context.clone()
        if not context.requires_grad:
            context.requires_grad_()
        for _ in range(adapter.steps):
            loss = model.loss(adaptation[task], context)
            (grad,) = torch.autograd.grad(loss, context, create_graph=True)
            if adapter.max_grad_norm is not None and grad.norm() > adapter.max_grad_norm:
                grad = grad * adapter.max_grad_norm / grad.norm()
            context = context - lr * grad
        losses.append(model.loss(evaluation[task], context))
    return torch.stack(losses).mean() + model.bound_penalty()


# Algorithms ---------------------------------------------------------------------------------


def built_sac(obs_dim: int = OBS_DIM, context_dim: int = CONTEXT_DIM, **options: Any) -> Any:
    """The library's SAC with tiny networks."""
    return build_sac(_box(obs_dim), _actions(), context_dim, hidden_sizes=(8,), lr=1e-2, **options)


def small_sac(obs_dim: int = OBS_DIM, context_dim: int = CONTEXT_DIM, **options: Any) -> Any:
    """A SAC of stock Tianshou parts, with a learned temperature."""
    total = obs_dim + context_dim
    options = {"alpha": AutoAlpha(-1.0, 0.0, AdamOptimizerFactory(lr=1e-2)), **options}
    return SAC(
        policy=SACPolicy(actor=_gaussian_actor(total), action_space=_actions()),
        policy_optim=AdamOptimizerFactory(lr=1e-2),
        critic=_critic(total),
        critic_optim=AdamOptimizerFactory(lr=1e-2),
        critic2=_critic(total),
        **options,
    )


def small_td3(obs_dim: int = OBS_DIM, context_dim: int = CONTEXT_DIM) -> Any:
    """A TD3 of stock Tianshou parts."""
    total = obs_dim + context_dim
    actor = ContinuousActorDeterministic(
        preprocess_net=Net(state_shape=(total,), hidden_sizes=(8,)), action_shape=(ACT_DIM,)
    )
    return TD3(
        policy=ContinuousDeterministicPolicy(
            actor=actor, exploration_noise=GaussianNoise(sigma=0.1), action_space=_actions()
        ),
        policy_optim=AdamOptimizerFactory(lr=1e-2),
        critic=_critic(total),
        critic_optim=AdamOptimizerFactory(lr=1e-2),
    )


def small_redq(obs_dim: int = OBS_DIM, context_dim: int = CONTEXT_DIM) -> Any:
    """A REDQ of stock Tianshou parts, with a learned temperature."""
    total, ensemble_size = obs_dim + context_dim, 3

    def linear(inputs: int, outputs: int) -> EnsembleLinear:
        return EnsembleLinear(ensemble_size, inputs, outputs)

    critic = ContinuousCritic(
        preprocess_net=Net(
            state_shape=(total,),
            action_shape=(ACT_DIM,),
            hidden_sizes=(8,),
            concat=True,
            linear_layer=linear,
        ),
        linear_layer=linear,
        flatten_input=False,
    )
    return REDQ(
        policy=REDQPolicy(actor=_gaussian_actor(total), action_space=_actions()),
        policy_optim=AdamOptimizerFactory(lr=1e-2),
        critic=critic,
        critic_optim=AdamOptimizerFactory(lr=1e-2),
        ensemble_size=ensemble_size,
        subset_size=2,
        actor_delay=3,
        alpha=AutoAlpha(-1.0, 0.0, AdamOptimizerFactory(lr=1e-2)),
    )


def small_sb3(**options: Any) -> Any:
    """A SAC of Stable-Baselines3 that has met a few steps of a pendulum."""
    from stable_baselines3 import SAC  # which takes as long to import as all else here

    env = gymnasium.make("Pendulum-v1", max_episode_steps=10)
    options = {"policy_kwargs": {"net_arch": [4]}, "buffer_size": 50, "seed": 0, **options}
    return SAC("MlpPolicy", env, device="cpu", **options).learn(20)


ALGORITHMS: dict[str, Callable[..., Any]] = {
    "build_sac": built_sac,
    "SAC": small_sac,
    "TD3": small_td3,
    "REDQ": small_redq,
}
"""Builders of tiny stock algorithms: ``(obs_dim, context_dim) -> algorithm``."""


def _gaussian_actor(total: int) -> ContinuousActorProbabilistic:
    return ContinuousActorProbabilistic(
        preprocess_net=Net(state_shape=(total,), hidden_sizes=(8,)),
        action_shape=(ACT_DIM,),
        unbounded=True,
        conditioned_sigma=True,
    )


def _critic(total: int) -> ContinuousCritic:
    return ContinuousCritic(
        preprocess_net=Net(
            state_shape=(total,), action_shape=(ACT_DIM,), hidden_sizes=(8,), concat=True
        )
    )


def _box(dim: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (dim,), np.float32)


def _actions() -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (ACT_DIM,), np.float32)


class ClosedForm:
    """A model without noise that knows how sure it is; what it expects is a subclass's ``mean``."""

    obs_dim: int
    act_dim: int
    context_dim: int
    std: float
    varies = "reward_and_dynamics"
    initial_context = torch.zeros(0)

    def mean(self, obs: Any, act: Any, context: Any) -> Any:
        raise NotImplementedError

    def sample(self, obs: Any, act: Any, context: Any, *, generator: Any = None) -> Any:
        return self.mean(obs, act, context)

    def loss(self, transitions: Transitions, context: Any) -> Any:
        rew, obs_next = self.mean(transitions.obs, transitions.act, context)
        error = ((obs_next - transitions.obs_next) / self.std).square().mean(-1)
        return (error + ((rew - transitions.rew) / self.std).square()).mean(-1)


# Environments -------------------------------------------------------------------------------


class ClockVectorEnv(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """Slots whose observation is ``[steps in this episode, start, task]``.

    A task is a pair of numbers: steps until its episodes terminate and steps until a time limit
    cuts them. The reward is the sum of the action, in the environment's own units; the start is
    drawn at every reset. ``received`` holds the actions of every step.
    """

    def __init__(self, num_envs: int, *, autoreset_mode: AutoresetMode | None = None) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": autoreset_mode or AutoresetMode.SAME_STEP}
        self.single_observation_space = _box(OBS_DIM)
        self.single_action_space = spaces.Box(
            np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)
        )
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, num_envs
        )
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.received: list[NDArray[np.floating]] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self._generators = [np.random.default_rng(one) for one in seed]
        self._tasks = list(options["tasks"])
        self._clock = np.zeros(self.num_envs, dtype=int)
        self._start = np.array([generator.normal() for generator in self._generators])
        return self._observe(), {}

    def step(self, actions: Any) -> Any:
        assert self.action_space.contains(actions)
        self.received.append(actions.copy())
        self._clock += 1
        terminated = np.array(
            [time >= task[0] for time, task in zip(self._clock, self._tasks, strict=True)]
        )
        truncated = np.array(
            [time >= task[1] for time, task in zip(self._clock, self._tasks, strict=True)]
        )
        ended, infos = terminated | truncated, {}
        if ended.any():
            final = np.full(self.num_envs, None, dtype=object)
            before = self._observe()
            for slot in np.flatnonzero(ended):
                final[slot] = before[slot].copy()
                self._clock[slot] = 0
                self._start[slot] = self._generators[slot].normal()
            infos = {"final_obs": final, "_final_obs": ended}
        return self._observe(), actions.sum(axis=1), terminated, truncated, infos

    def _observe(self) -> NDArray[np.float32]:
        tasks = [task[0] for task in self._tasks]
        return np.stack((self._clock, self._start, tasks), axis=1).astype(np.float32)


class DriftEnv(gymnasium.Env[NDArray[np.float32], NDArray[Any]]):
    """A point that drifts home and is pushed; it ends far out, and its pushes can be changed."""

    def __init__(self, *, strength: float = 1.0, bound: float = 1.0) -> None:
        self.strength = strength
        self.observation_space = _box(OBS_DIM)
        self.action_space = spaces.Box(-bound, bound, (ACT_DIM,), np.float32)
        self._state = np.zeros(OBS_DIM, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._state = self.np_random.normal(size=OBS_DIM).astype(np.float32)
        return self._state.copy(), {}

    def step(self, action: Any) -> Any:
        before = self._state
        push = np.concatenate((action, action[:1])).astype(np.float32)
        self._state = 0.9 * before + np.float32(self.strength) * push
        ended = self.ends(before[None], action[None], self._state[None])[0]
        return self._state.copy(), -float(np.abs(self._state).sum()), bool(ended), False, {}

    @staticmethod
    def ends(obs: Any, act: Any, obs_next: Any) -> NDArray[np.bool_]:
        """Which steps end an episode, as adaptation asks for it."""
        return np.asarray(np.abs(obs_next).max(-1) > 4)


class CountedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Counts what is asked of an environment, which on a robot would cost something."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.steps = self.resets = 0

    def reset(self, **options: Any) -> Any:
        self.resets += 1
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.steps += 1
        return super().step(action)


# Runs ---------------------------------------------------------------------------------------


def tiny_config(family: str = "HalfCheetahNegatedJoints", **changes: Any) -> MetaTrainConfig:
    """A run that takes about a second, with every part of a real one."""
    values: dict[str, Any] = {
        "family": family,
        "updates": 24,
        "updates_per_iteration": 10,
        "tasks_per_iteration": 3,
        "adaptation_episodes": 1,
        "evaluation_episodes": 1,
        "initial_episodes": 1,
        "episode_steps": 20,
        "replay_per_task": 500,
        "evaluate_every": 1,
        "evaluated_tasks": 2,
        "model": ModelConfig(
            hidden_sizes=(16, 16),
            context_dim=3,
            tasks_per_batch=4,
            batch_size=8,
            pretrain_steps=5,
        ),
        "policy": PolicyConfig(hidden_sizes=(16, 16), batch_size=32),
    }
    return MetaTrainConfig(**{**values, **changes})


SMALL_OWN = AdaptConfig.for_own_policy(
    diagnose=False,
    adaptation_steps=60,
    weight_steps=20,
    relabel_rounds=2,
    relabel_size=100,
    updates_per_round=3,
    batch_size=16,
)
"""An adaptation of a policy of one's own, in seconds."""

TINY_ADAPT = AdaptConfig(
    adaptation_steps=40,
    diagnose=False,
    refresh_updates=3,
    weight_steps=5,
    rehearsal_batch_size=16,
    model_batch_size=8,
    validate_every=2,
    relabel_rounds=2,
    relabel_size=100,
    updates_per_round=3,
    batch_size=32,
)
"""How such a run meets a new task: every stage that learns, in a second or two."""


def assert_same_tree(first: Any, second: Any, *, ignore: Sequence[str] = (), at: str = "") -> None:
    """Check that two trees of tensors and plain values are equal, bit for bit."""
    assert type(first) is type(second), at
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, at
        assert torch.equal(first, second), at
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), at
        for key in first.keys() - set(ignore):
            assert_same_tree(first[key], second[key], ignore=ignore, at=f"{at}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), at
        for position, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same_tree(one, other, ignore=ignore, at=f"{at}/{position}")
    else:
        assert first == second, at


# Processes ----------------------------------------------------------------------------------


def start_python(
    code: str, *arguments: object, cwd: Path | None = None, options: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    """Start a fresh interpreter on ``code``, with pipes for its output."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, *options, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )


def run_python(
    code: str, *arguments: object, timeout: float = 120, **kwargs: Any
) -> tuple[int, str, str]:
    """Run ``code`` to its end; its exit code, standard output and standard error."""
    with start_python(code, *arguments, **kwargs) as process:
        out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def reported(module: str, *arguments: object, timeout: float | None = None) -> Any:
    """What a module of the tests prints as JSON, run on one thread in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    print(done.stderr)  # which pytest shows where a test fails
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def example_report(**changes: Any) -> AdaptationReport:
    """The report of an adaptation that never was."""
    values: dict[str, Any] = {
        "task": "negated joints 1,4,6",
        "parameters": (-1.0, 1.0, 1.0, -1.0, 1.0, -1.0),
        "seed": 3,
        "decision": "relabeled",
        "reason": "it returned more",
        "real_transitions": 4000,
        "gate_transitions": 400,
        "evaluation_transitions": 1600,
        "threads": 1,
        "resets": {"identify": 2, "evaluate": 8, "gate": 2},
        "returns": {
            "initial context": (-10.0, 10.0),
            "adapted context": (90.0, 110.0),
            "actor only": (190.0, 210.0),
            "relabeled": (280.0, 320.0),
        },
        "gate_returns": {"adapted context": (95.0,), "relabeled": (305.0,)},
        "novelty": -1.25,
        "diagnosis": None,
        "train_loss": (9.0, 3.0, -1.0),
        "validation_loss": (8.0, 2.0, -2.0),
        "earlier_tasks_loss": (-7.0, -6.0),
        "disagreement": 0.125,
        "weight_steps": (50, 75),
        "synthetic_transitions": 20_000,
        "updates": 500,
        "seconds": {"identify": 1.0, "refresh": 2.0, "refine": 30.0, "relabel": 400.0, "gate": 5.0},
    }
    return AdaptationReport(**{**values, **changes})


def example_diagnosis() -> dict[str, Any]:
    """Plain values of a diagnosis that never was: motors 1 and 2 are exchanged, 3 was not told."""
    tried = (("nothing changed", 9.0, 11.0), ("actuators order", -2.0, 0.0))
    order = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    return {
        "sentences": ["motor 1 follows what is meant for motor 2", "motor 3 never moved"],
        "chosen": "actuators order",
        "known_task": 0,
        "parameters": [gain for row in order for gain in row],
        "explained": True,
        "known_loss": -2.5,
        "compensation": {
            "act_matrix": order,
            "act_offset": [0.0] * 3,
            "obs_matrix": [],
            "obs_offset": [],
        },
        "gains": [[1.02, 0.03], [0.98, 0.04], None],
        "explanations": [
            {"name": name, "loss": loss, "worse": worse, "worse_error": 0.1}
            for name, loss, worse in tried
        ],
    }
