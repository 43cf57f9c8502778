"""Bring your own policy: one call that takes it to a changed task."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from mier_adapt._checks import Count, Seed, checked, shown
from mier_adapt.adaptation.front_door import Adaptation, adapt
from mier_adapt.adaptation.identification import require_fitting_log
from mier_adapt.adaptation.readiness import (
    require_fitting_task,
    require_label,
    require_refreshed,
)
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig, ModelConfig
from mier_adapt.agents.new_task import NewTask
from mier_adapt.agents.rollouts import ActFilter
from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.integration import ContextReplayBuffer, from_tianshou
from mier_adapt.integration.algorithms import require_actor_critic
from mier_adapt.integration.stable_baselines3 import from_sb3, is_of_sb3, transitions_of
from mier_adapt.protocols import TerminationFn
from mier_adapt.relabeler import ends_by
from mier_adapt.training.offline_training import meta_train_offline
from mier_adapt.transitions import OneTask, Transitions

_PASSES, _FEWEST_STEPS, _MOST_STEPS = 10, 5_000, 20_000
"""Of the model's training: how often it meets every transition, within bounds. For an Ant's 600,000
transitions 5,000 steps are too few (docs/results.md)."""
_MODEL = ModelConfig(context_dim=0, batch_size=256)


@checked
@torch.inference_mode(False)
def adapt_algorithm(
    algorithm: Any,
    env: gymnasium.Env[Any, Any],
    earlier: Sequence[Any],
    *,
    seed: Seed,
    config: AdaptConfig | None = None,
    adapter: GradientContextAdapter | None = None,
    termination_fn: TerminationFn | None = None,
    act_filter: ActFilter | None = None,
    label: str | None = None,
    evaluation_episodes: Count = 4,
    checkpoint: Path | None = None,
    logged: OneTask | None = None,
    on_stage: Callable[[str, float], None] = lambda stage, progress: None,
) -> Adaptation:
    """Adapt a Tianshou algorithm that knows no context to a changed task.

    Trains an ordinary model of reward and dynamics on earlier experience; spends
    ``config.adaptation_steps`` real transitions with the policy as it is; and looks for the
    simplest hypothesis of what changed. Changed actuators or sensors are undone in front of the
    policy. Where that does not suffice it fits copies of the model to the new transitions; predicts
    with these what the policy would have met in the new task wherever it has been before; and goes
    on with the algorithm's own updates on that, mixed with the real transitions. Real episodes
    decide whether the result is better than what came.

    For a model of Stable-Baselines3 see :func:`.adapt_sb3`. A policy of another make can be
    imitated first: :func:`.imitate`.

    Args:
        algorithm: A SAC, TD3 or REDQ whose policy acts on plain observations. A copy is adapted.
        env: The changed task; with a time limit, and observations and actions of one axis.
        earlier: A Tianshou ``ReplayBuffer`` or :class:`.Transitions` ``(B, ...)`` for each task
            that the policy has met.
        seed: Fixes the adaptation, together with the environment's own.
        config: What it spends, and how; :meth:`.AdaptConfig.for_own_policy` by default.
        adapter: With a model of your own, trained beforehand (:func:`.meta_train_offline`); it may
            have a context, which is identified then.
        termination_fn: When episodes end. May be left out where no earlier episode ended but by
            a time limit: then none is assumed to.
        act_filter: Safety limits, ``(obs (O,), act (A,)) -> act (A,)`` in the environment's units,
            for every step of the environment; see :meth:`.NewTask.of_env`.
        label: What the report calls the task; the environment's ID by default.
        evaluation_episodes: Deterministic episodes before and after; they only measure, and are
            counted apart.
        checkpoint: Keeps the real transitions; see :func:`.adapt`.
        logged: Transitions of the changed task that are there already, ``(B, ...)``, actions in
            [-1, 1], in place of as many that would be gathered; see :func:`.adapt`.
        on_stage: Told the stage and its progress from 0 to 1.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If there is no earlier experience, its shapes or those of logged transitions do
            not fit the environment, a rule for the end of episodes is missing, or the environment
            has no time limit.
        FloatingPointError: If a loss, an action, a prediction or a parameter stops being finite.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, section 5, for a policy without a context. Ours.
    """
    named = {"algorithm": algorithm} | {f"earlier[{n}]": each for n, each in enumerate(earlier)}
    if foreign := [name for name, each in named.items() if is_of_sb3(each)]:
        raise TypeError(
            f"adapt_algorithm expected {foreign[0]} to be of Tianshou, got a "
            f"{type(named[foreign[0]]).__name__} of Stable-Baselines3. Call "
            "adapt_sb3(model, env, seed=...), which takes a model with its replay buffer."
        )
    require_actor_critic("adapt_algorithm", algorithm)
    return _adapted(
        "adapt_algorithm",
        algorithm,
        env,
        earlier,
        seed=seed,
        config=config,
        adapter=adapter,
        termination_fn=termination_fn,
        act_filter=act_filter,
        label=label,
        evaluation_episodes=evaluation_episodes,
        checkpoint=checkpoint,
        logged=logged,
        on_stage=on_stage,
    )


@checked
@torch.inference_mode(False)
def adapt_sb3(
    model: Any,
    env: Any,
    *,
    seed: Seed,
    earlier: Sequence[Any] | None = None,
    config: AdaptConfig | None = None,
    adapter: GradientContextAdapter | None = None,
    termination_fn: TerminationFn | None = None,
    act_filter: ActFilter | None = None,
    label: str | None = None,
    evaluation_episodes: Count = 4,
    checkpoint: Path | None = None,
    logged: OneTask | None = None,
    on_stage: Callable[[str, float], None] = lambda stage, progress: None,
) -> Adaptation:
    """Adapt a SAC or TD3 of Stable-Baselines3 to a changed task.

    Takes the model's weights and replay buffer over (:func:`.from_sb3`, :func:`.sb3_transitions`)
    and does with them what :func:`.adapt_algorithm` does: spends ``config.adaptation_steps`` real
    transitions, says what changed, undoes it where that can be undone, learns where it cannot, and
    lets real episodes decide. The model itself is not changed.

    What comes back acts by itself: ``adaptation.predict(obs)``, ``adaptation.save(path)``. To go on
    in Stable-Baselines3, ``to_sb3(adaptation.algorithm, model)`` puts what was learned into the
    model. Where ``adaptation.compensation`` is not None nothing was learned: the model stays as it
    is, and acts in ``CompensatedAction(env, adaptation.compensation)``.

    Args:
        model: A ``SAC`` or ``TD3`` with an ``MlpPolicy``, as ``learn`` leaves it. Gathers
            transitions as noisily as it trained: a TD3 needs an ``action_noise``.
        env: The changed task: one ``gymnasium.Env`` with a time limit, whose observations and
            actions are the model's.
        seed: Fixes the adaptation, together with the environment's own.
        earlier: In place of the model's replay buffer: :class:`.Transitions` ``(B, ...)``, or a
            replay buffer of Stable-Baselines3, for each task that the policy has met.
        config: What it spends, and how; :meth:`.AdaptConfig.for_own_policy` by default.
        adapter: With a model of your own, as in :func:`.adapt_algorithm`: what several changes of
            the same robot can share.
        termination_fn: When episodes end. May be left out where no earlier episode ended but by
            a time limit: then none is assumed to.
        act_filter: Safety limits; see :func:`.adapt_algorithm`.
        label: What the report calls the task; the environment's ID by default.
        evaluation_episodes: Deterministic episodes before and after; they only measure, and are
            counted apart.
        checkpoint: Keeps the real transitions; see :func:`.adapt`.
        logged: Transitions of the changed task that are there already; see
            :func:`.adapt_algorithm`.
        on_stage: Told the stage and its progress from 0 to 1.

    Raises:
        ImportError: If stable-baselines3 is not installed.
        TypeError: If the model is no SAC and no TD3, the environment is a vector of several, or
            an argument has another type.
        ValueError: If the model has parts that cannot be taken over, there is no earlier
            experience (a loaded model has none before ``load_replay_buffer``), shapes do not fit
            the environment, a rule for the end of episodes is missing, or the environment has no
            time limit.
        FloatingPointError: If a loss, an action, a prediction or a parameter stops being finite.

    Source:
        As :func:`.adapt_algorithm`.
    """
    if not isinstance(env, gymnasium.Env):
        raise TypeError(
            "adapt_sb3 expected env to be one gymnasium.Env, the changed robot, got "
            f"{shown(env)} of type {type(env).__name__}. Of a VecEnv give one environment, "
            "vec_env.envs[0], or what gymnasium.make gives."
        )
    algorithm = from_sb3(model)
    named = (
        {"model": model.replay_buffer}
        if earlier is None
        else {f"earlier[{number}]": each for number, each in enumerate(earlier)}
    )
    logs = [
        each if isinstance(each, Transitions) else transitions_of("adapt_sb3", name, each)
        for name, each in named.items()
    ]
    hidden = [e for e in named.values() if is_of_sb3(e) and e.optimize_memory_usage]
    if termination_fn is None and any(each.dones.any() for each in hidden):
        raise ValueError(
            "adapt_sb3 expected a termination_fn, since a buffer with optimize_memory_usage does "
            "not tell terminations from time limits: the environment's rule, (obs (B, O), act "
            "(B, A), obs_next (B, O)) -> bool (B,); all False where only time limits end episodes."
        )
    return _adapted(
        "adapt_sb3",
        algorithm,
        env,
        logs,
        seed=seed,
        config=config,
        adapter=adapter,
        termination_fn=termination_fn,
        act_filter=act_filter,
        label=label,
        evaluation_episodes=evaluation_episodes,
        checkpoint=checkpoint,
        logged=logged,
        on_stage=on_stage,
    )


def _adapted(
    owner: str,
    algorithm: Any,
    env: gymnasium.Env[Any, Any],
    earlier: Sequence[Any],
    *,
    seed: int,
    config: AdaptConfig | None,
    adapter: GradientContextAdapter | None,
    termination_fn: TerminationFn | None,
    act_filter: ActFilter | None,
    label: str | None,
    logged: Transitions | None,
    on_stage: Callable[[str, float], None],
    **options: Any,
) -> Adaptation:
    """What both do: ``owner`` is named by errors, ``options`` are for :func:`.adapt`."""
    config = config or AdaptConfig.for_own_policy()
    task = NewTask.of_env(env, label=label, termination_fn=termination_fn, act_filter=act_filter)
    logs = [_log(owner, number, each) for number, each in enumerate(earlier)]
    # Asked of the buffers, whose rows that terminated may not be among the transitions.
    if termination_fn is None and not any(bool(each.terminated.any()) for each in earlier):
        task = dataclasses.replace(task, termination_fn=_never)
    replay = ContextReplayBuffer.of(logs, generator=np.random.default_rng(seed))
    dims, predicts = (replay.obs_dim, replay.act_dim), config.relabel_rounds > 0
    # All of it before a model is trained, which takes minutes.
    require_label(owner, task, options.get("checkpoint"))
    require_refreshed(owner, config, conditioned=False)
    require_fitting_task(owner, task, algorithm, dims, predicts=predicts)
    if predicts and task.termination_fn is not None:
        stored = Transitions.cat([each[:1] for each in logs])
        ends_by(owner, task.termination_fn, stored.obs, stored.act, stored.obs_next)
    if logged is not None:
        require_fitting_log(owner, logged, dims)
    if adapter is None:
        on_stage("model", 0.0)
        passes = _PASSES * len(replay) // _MODEL.batch_size
        steps = min(max(passes, _FEWEST_STEPS), _MOST_STEPS)
        adapter = meta_train_offline(
            logs,
            steps=steps,
            seed=seed,
            config=_MODEL,
            device=next(algorithm.policy.parameters()).device,
            on_step=lambda step, loss: on_stage("model", step / steps),
        )
    elif (knows := (adapter.model.obs_dim, adapter.model.act_dim)) != dims:
        raise ValueError(
            f"{owner} expected adapter to hold a model of what earlier holds, of obs_dim and "
            f"act_dim {dims}, got one of {knows}. Train one with meta_train_offline(earlier, "
            "...), or leave adapter out."
        )
    agent = Agent(adapter=adapter, algorithm=algorithm, replay=replay, conditioned=False)
    return adapt(agent, task, config, seed=seed, logged=logged, on_stage=on_stage, **options)


def _log(owner: str, number: int, each: Any) -> Transitions:
    if isinstance(each, Transitions):
        return each.detach().to(torch.float32)
    try:
        return from_tianshou(each)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{owner}: earlier[{number}]: {error}") from error


def _never(obs: Any, act: Any, obs_next: Any) -> Any:
    return np.zeros(len(obs), dtype=np.bool_)
