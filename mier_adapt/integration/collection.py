"""Rollouts of a Tianshou policy in a vector environment with a task in every slot."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step

from mier_adapt._checks import require_array, require_int, require_type, require_types, shown
from mier_adapt.transitions import Transitions

__all__ = ["Rollout", "act", "collect", "relabeling_policy", "require_finite_parameters"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Rollout:
    """What a vector environment of N slots did in S steps, without contexts."""

    transitions: Transitions
    """Shape ``(N, S, ...)``, actions in [-1, 1]."""
    truncated: NDArray[np.bool_]
    """Where a time limit cut an episode, ``(N, S)``."""

    @property
    def first_returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each slot's first episode (as far as it got), ``(N,)``."""
        rew = self.transitions.rew.numpy().astype(np.float64)
        ended = self.transitions.terminated.numpy() | self.truncated
        before_end: NDArray[np.bool_] = np.cumsum(ended, axis=1) - ended == 0
        return np.asarray((rew * before_end).sum(axis=1))


def act(policy: Policy, obs: NDArray[np.floating], *, explore: bool) -> NDArray[np.float32]:
    """Ask a policy for actions in [-1, 1], shape ``(B, A)``.

    Args:
        policy: Any Tianshou policy for continuous actions.
        obs: ``(B, O)``, with the context behind it if the policy is conditioned on one.
        explore: Sample from a stochastic policy and add the exploration noise of one that
            has it; otherwise take the most probable action.

    Raises:
        ValueError: If ``obs`` is not finite, or its shape is not what the policy takes.
        FloatingPointError: If the policy's parameters are not finite; names one.
    """
    require_type("act", "policy", policy, Policy)
    obs = require_array("act", "obs", obs, np.float32)
    require_type("act", "explore", explore, bool)
    if obs.ndim != 2 or not obs.size or not np.isfinite(obs).all():
        raise ValueError(
            f"act expected obs to be finite and of shape (B, O), got {shown(obs)} of shape "
            f"{obs.shape}."
        )
    batch = Batch(obs=obs, info=Batch())
    try:
        with torch.no_grad(), policy_within_training_step(policy, enabled=explore):
            action = policy(batch).act.cpu().numpy()
    except ValueError:  # by which torch's distributions refuse a network's NaN
        require_finite_parameters(policy, "The policy")
        raise
    except RuntimeError as error:
        if "shapes cannot be multiplied" not in str(error):
            raise
        raise ValueError(
            f"act expected obs that the policy takes, contexts included, got shape {obs.shape}."
        ) from error
    if explore:
        action = policy.add_exploration_noise(action, batch)
    return np.asarray(np.clip(action, -1, 1), dtype=np.float32)


def collect(
    env: VectorEnv[Any, Any, Any],
    tasks: Sequence[Any] | None,
    policy: Policy,
    contexts: NDArray[np.floating],
    *,
    steps: int,
    generator: np.random.Generator,
    explore: bool = True,
) -> Rollout:
    """Run every slot for the same number of steps, from fresh starts.

    The result is a function of the arguments and the generators' state alone: nothing is
    carried over from the environment's past. A slot whose episode ends starts another.

    Args:
        env: Of N slots, with same-step autoreset; where slots have tasks, with
            ``reset(options={"tasks": ...})``.
        tasks: One task for each slot; ``None`` for an environment that has but one.
        policy: Acts on ``[obs, context]``.
        contexts: One for each slot, ``(N, C)``; C may be 0.
        steps: Environment steps of each slot.
        generator: Draws the starts.
        explore: As in :func:`act`.

    Raises:
        TypeError: If ``tasks`` is no sequence or an argument has another type.
        ValueError: If counts do not fit, contexts are not finite, or the environment resets in
            another way.
        FloatingPointError: If an action, reward or observation is not finite; names it, the step
            and the task.
    """
    require_types("collect", env=(env, VectorEnv), policy=(policy, Policy))
    if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
        raise ValueError(
            "collect expected env with autoreset mode SAME_STEP, got "
            f"{env.metadata.get('autoreset_mode')}. Make it with "
            "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP."
        )
    if not isinstance(tasks, (Sequence, type(None))):
        raise TypeError(f"collect expected tasks to be a sequence or None, got {shown(tasks)}.")
    options = None if tasks is None else {"tasks": list(tasks)}
    tasks = [env.spec.id if env.spec else str(env)] * env.num_envs if tasks is None else tasks
    contexts = require_array("collect", "contexts", contexts, np.float32)
    require_int("collect", "steps", steps, least=1)
    require_type("collect", "generator", generator, np.random.Generator)
    require_type("collect", "explore", explore, bool)
    if contexts.ndim != 2:
        raise ValueError(f"collect expected contexts of shape (N, C), got {contexts.shape}.")
    if len(tasks) != env.num_envs or len(contexts) != env.num_envs:
        raise ValueError(
            f"collect expected a task and a context for each of {env.num_envs} slots, got "
            f"{len(tasks)} tasks and {len(contexts)} contexts."
        )
    if not np.isfinite(contexts).all():
        raise ValueError(f"collect expected finite contexts of shape (N, C), got {contexts}.")
    shape = (env.num_envs, steps)
    (obs_dim,), (act_dim,) = _shape(env.single_observation_space), _shape(env.single_action_space)
    obs_NSO = np.empty((*shape, obs_dim), dtype=np.float32)
    act_NSA = np.empty((*shape, act_dim), dtype=np.float32)
    obs_next_NSO = np.empty_like(obs_NSO)
    rew_NS = np.empty(shape, dtype=np.float32)
    terminated_NS, truncated_NS = np.empty(shape, dtype=bool), np.empty(shape, dtype=bool)

    seeds = generator.integers(2**31, size=env.num_envs).tolist()
    obs, _ = env.reset(seed=seeds, options=options)
    for step in range(steps):
        action = act(
            policy, np.concatenate((obs, contexts), axis=-1, dtype=np.float32), explore=explore
        )
        _require_finite("action", action, step, tasks)
        obs_NSO[:, step], act_NSA[:, step] = obs, action
        obs, rew, terminated, truncated, infos = env.step(policy.map_action(action))
        rew_NS[:, step], terminated_NS[:, step] = rew, terminated
        truncated_NS[:, step], obs_next_NSO[:, step] = truncated, obs
        for slot in np.flatnonzero(terminated | truncated).tolist():
            obs_next_NSO[slot, step] = infos["final_obs"][slot]
            reason = infos.get("final_info", {}).get("unstable", {slot: None})[slot]
            if reason is not None:
                _logger.warning(
                    "The simulation of task %s became unstable at step %d (%s); that episode ends.",
                    tasks[slot],
                    step,
                    reason,
                )
        _require_finite("reward", rew_NS[:, step], step, tasks)
        _require_finite("observation", obs_next_NSO[:, step], step, tasks)
    transitions = Transitions(
        obs=torch.from_numpy(obs_NSO),
        act=torch.from_numpy(act_NSA),
        rew=torch.from_numpy(rew_NS),
        obs_next=torch.from_numpy(obs_next_NSO),
        terminated=torch.from_numpy(terminated_NS),
    )
    return Rollout(transitions, truncated_NS & ~terminated_NS)


def require_finite_parameters(module: torch.nn.Module, name: str) -> None:
    """Check a network's parameters, at the price of one wait for the device.

    Args:
        module: The network.
        name: What to call it in the message, at the start of a sentence.

    Raises:
        FloatingPointError: If one is not finite; names it.
    """
    require_types("require_finite_parameters", module=(module, torch.nn.Module), name=(name, str))
    tensors = {key: value for key, value in module.named_parameters() if value.numel()}
    norms = torch._foreach_norm([value.detach() for value in tensors.values()], float("inf"))
    if norms and bool(torch.stack([norm.float() for norm in norms]).isfinite().all()):
        return
    for key, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise FloatingPointError(
                f"{name}'s parameter {key} holds {int((~value.isfinite()).sum())} values that are "
                "not finite: training diverged. Lower the learning rate."
            )


def _require_finite(
    name: str, values: NDArray[np.floating], step: int, tasks: Sequence[Any]
) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        slot = int(np.argwhere(~finite)[0][0])
        raise FloatingPointError(
            f"The {name} at step {step} in task {tasks[slot]} (slot {slot}) is not finite: "
            f"{values[slot]}. Look for a policy that diverged, or an unstable simulation."
        )


def _shape(space: Space[Any]) -> tuple[int, ...]:
    if space.shape is None or len(space.shape) != 1:
        raise ValueError(f"collect expected spaces of one axis, got {space}.")
    return space.shape


def relabeling_policy(
    policy: Policy, context: torch.Tensor, *, explore: bool = True
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A Tianshou policy under one context, as the plain callable that relabeling takes."""
    require_types(
        "relabeling_policy",
        policy=(policy, Policy),
        context=(context, torch.Tensor),
        explore=(explore, bool),
    )

    def act_on(obs: torch.Tensor) -> torch.Tensor:
        repeated = context.to(obs).expand(len(obs), -1)
        action = act(policy, torch.cat((obs, repeated), -1).cpu().numpy(), explore=explore)
        return torch.from_numpy(action).to(obs.device)

    return act_on
