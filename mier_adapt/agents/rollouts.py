"""Rollouts: actors in vector environments, side by side, each slot in a task of its own."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from mier_adapt._checks import Size, checked, require_array, shown
from mier_adapt._spaces import vector_space
from mier_adapt.protocols import Actor
from mier_adapt.transitions import Transitions

_logger = logging.getLogger(__name__)

ActFilter = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""What is executed, ``(A,)``, where an action is asked for: ``(obs (O,), act (A,))``, both in the
environment's own units."""
_SLACK = 1e-6
"""Share of an action's range by which rounding may carry a filter's results beyond its bounds."""


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


@checked
def collect(
    env: VectorEnv[Any, Any, Any],
    tasks: Sequence[Any] | None,
    actor: Actor,
    *,
    steps: Size,
    generator: np.random.Generator,
    explore: bool = True,
    until_end: bool = False,
    names: Sequence[str] | None = None,
    act_filter: ActFilter | None = None,
    on_step: Callable[[int, NDArray[np.float64]], None] = lambda step, returns: None,
    on_interrupt: Callable[[Rollout], None] = lambda rollout: None,
) -> Rollout:
    """Run every slot for the same number of steps, from fresh starts.

    The result is a function of the arguments and the generators' state alone: nothing is carried
    over from the environment's past. A slot whose episode ends starts another.

    Args:
        env: Of N slots, with same-step autoreset or none; where slots have tasks, with
            ``reset(options={"tasks": ...})``.
        tasks: One task for each slot; ``None`` for an environment that has but one.
        actor: Gives actions in [-1, 1], which are scaled to the environment's bounds.
        steps: Environment steps of each slot.
        generator: Draws the starts.
        explore: As :meth:`.Actor.act`'s.
        until_end: Stop, before ``steps``, when the first episode of every slot has ended.
        names: What errors call the slots' tasks, if not as they print.
        act_filter: What is executed, ``(obs (O,), act (A,)) -> act (A,)`` in the environment's
            units: a robot's safety limits. That is what is recorded, too.
        on_step: Told before every step its number and what each slot has returned so far.
        on_interrupt: Given the steps that were whole when an error or an interrupt ended them.

    Raises:
        ValueError: If there is not a task for each slot, an action has another shape,
            ``act_filter`` returns what is no action of the environment's, or the environment resets
            in another way or has unbounded actions.
        FloatingPointError: If an action, reward or observation is not finite; names it, the step
            and the task.
    """
    autoreset = env.metadata.get("autoreset_mode")
    if autoreset not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        raise ValueError(
            f"collect expected env with autoreset mode SAME_STEP, got {env.metadata}. Make it with "
            "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP."
        )
    options = None if tasks is None else {"tasks": list(tasks)}
    if tasks is None:
        tasks = [env.spec.id if env.spec else str(env)] * env.num_envs
    names = [str(task) for task in tasks] if names is None else names
    if {len(tasks), len(names)} != {env.num_envs}:
        raise ValueError(
            f"collect expected a task for each of {env.num_envs} slots, got {len(tasks)} tasks and "
            f"{len(names)} names."
        )
    shape = (env.num_envs, steps)
    observations = vector_space("collect", "env's observations", env.single_observation_space)
    actions = vector_space("collect", "env's actions", env.single_action_space, bounded=True)
    (obs_dim,), (act_dim,), low, high = observations.shape, actions.shape, actions.low, actions.high
    obs_NSO = np.empty((*shape, obs_dim), dtype=np.float32)
    act_NSA = np.empty((*shape, act_dim), dtype=np.float32)
    obs_next_NSO = np.empty_like(obs_NSO)
    rew_NS = np.empty(shape, dtype=np.float32)
    terminated_NS, truncated_NS = np.empty(shape, dtype=bool), np.empty(shape, dtype=bool)
    returns_N, ended_N = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=bool)

    def rollout(done: int) -> Rollout:
        columns = obs_NSO, act_NSA, rew_NS, obs_next_NSO, terminated_NS
        transitions = Transitions(*(torch.from_numpy(each[:, :done].copy()) for each in columns))
        return Rollout(transitions, (truncated_NS & ~terminated_NS)[:, :done])

    start_episodes = getattr(actor, "start_episodes", lambda starting_N: None)
    remember = getattr(actor, "remember", lambda act_NA, rew_N: None)
    done = 0
    try:
        seeds = generator.integers(2**31, size=env.num_envs).tolist()
        obs, _ = env.reset(seed=seeds, options=options)
        start_episodes(np.ones(env.num_envs, dtype=bool))
        for step in range(steps):
            on_step(step, returns_N)
            _require_finite("first observation" if step == 0 else "observation", obs, step, names)
            obs_NSO[:, step] = obs  # before anybody can write into it
            action = actor.act(obs, explore=explore)
            _require_finite("action", action, step, names)
            # Tianshou's Policy.map_action, which gives the same bits.
            scaled = low + (high - low) * (action + 1.0) / 2.0
            if act_filter is not None:
                action, scaled = _executed(act_filter, obs, action, scaled, actions, step, names)
            act_NSA[:, step] = action
            obs, rew, terminated, truncated, infos = env.step(scaled)
            returns_N += rew
            rew_NS[:, step], terminated_NS[:, step] = rew, terminated
            truncated_NS[:, step], obs_next_NSO[:, step] = truncated, obs
            over = terminated | truncated
            same_step = autoreset == AutoresetMode.SAME_STEP
            final = infos.get("final_info", {}) if same_step else infos
            for slot in np.flatnonzero(over).tolist():
                if same_step:
                    obs_next_NSO[slot, step] = infos["final_obs"][slot]
                reason = final.get("unstable", {slot: None})[slot]
                if reason is not None:
                    _logger.warning(
                        "The simulation of task %s became unstable at step %d (%s); that episode "
                        "ends.",
                        names[slot],
                        step,
                        reason,
                    )
            _require_finite("reward", rew_NS[:, step], step, names)
            _require_finite("observation", obs_next_NSO[:, step], step, names)
            remember(act_NSA[:, step].copy(), rew_NS[:, step].copy())
            done, ended_N = step + 1, ended_N | over
            if until_end and ended_N.all():
                break
            if over.any() and done < steps:
                start_episodes(over)
                if autoreset == AutoresetMode.DISABLED:
                    obs, _ = env.reset(options={"reset_mask": over})
        return rollout(done)
    except BaseException:
        if done:
            on_interrupt(rollout(done))
        raise


def collect_episodes(
    env_of_size: Callable[[int], VectorEnv[Any, Any, Any]],
    tasks: Sequence[Any],
    actor: Actor,
    *,
    steps: int,
    episode_steps: int,
    generator: np.random.Generator,
    **options: Any,
) -> list[Rollout]:
    """Run each of T tasks for ``steps`` environment steps, its episodes side by side.

    Those of an actor that remembers follow each other instead, each of ``episode_steps`` also with
    ``until_end``: what it does in one depends on those before. Each of ``episode_steps`` is whole,
    and so is cut there, whatever the environment's own limit.

    Options are those of :func:`collect`.

    Returns:
        For each task a rollout of shape ``(episodes, episode_steps)``, or of ``(1, steps)`` where
        that is shorter. Steps are rounded up to whole episodes.
    """
    length = min(steps, episode_steps)
    episodes = -(-steps // length)

    def cut(rollout: Rollout) -> Rollout:
        """With the ends of whole episodes."""
        if rollout.truncated.shape[1] == episode_steps:
            rollout.truncated[:, -1] |= ~rollout.transitions.terminated[:, -1].numpy()
        return rollout

    if hasattr(actor, "remember"):
        env = env_of_size(len(tasks))
        options["until_end"] = options.get("until_end", False) and episodes == 1
        each = [
            cut(collect(env, tasks, actor, steps=length, generator=generator, **options))
            for _ in range(episodes)
        ]
        return [
            Rollout(
                Transitions.stack([rollout.transitions[i] for rollout in each]),
                np.stack([rollout.truncated[i] for rollout in each]),
            )
            for i in range(len(tasks))
        ]
    rollout = cut(
        collect(
            env_of_size(len(tasks) * episodes),
            [task for task in tasks for _ in range(episodes)],
            actor,
            steps=length,
            generator=generator,
            **options,
        )
    )
    slots = (slice(i, i + episodes) for i in range(0, len(tasks) * episodes, episodes))
    return [Rollout(rollout.transitions[slot], rollout.truncated[slot]) for slot in slots]


def _executed(
    act_filter: ActFilter,
    obs: NDArray[Any],
    action: NDArray[Any],
    scaled: NDArray[Any],
    space: Box,
    step: int,
    tasks: Sequence[Any],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a filter makes of actions, in [-1, 1] and in the environment's units.

    Components that it leaves as they are keep their bits in both.
    """
    low, high, executed = space.low, space.high, np.empty_like(scaled)
    slack = _SLACK * (high - low)
    for slot, asked in enumerate(scaled):
        given = act_filter(np.array(obs[slot]), asked.copy())
        row = require_array("collect", "what act_filter returns", given, scaled.dtype)
        if row.shape != low.shape or not ((low - slack <= row) & (row <= high + slack)).all():
            raise ValueError(
                f"collect expected act_filter to return an action of shape {low.shape} between "
                f"{low} and {high}, got {shown(given)} for {asked} at step {step} in task "
                f"{tasks[slot]}. The environment was not given it. Clip what it returns."
            )
        executed[slot] = np.where(row == asked, row, row.clip(low, high))
    unit = 2 * (executed - low) / np.where(high > low, high - low, 1) - 1
    return np.where(executed == scaled, action, unit.clip(-1, 1)), executed


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
