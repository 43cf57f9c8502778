"""Bring your own policy: one call that takes it to a changed task."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from mier_adapt._checks import require_seed, require_types
from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.integration import from_tianshou
from mier_adapt.integration.algorithms import require_actor_critic
from mier_adapt.relabeler import TerminationFn
from mier_adapt.transitions import Transitions
from mier_adapt.workflows.agents import Agent
from mier_adapt.workflows.fine_tuning import Adaptation, adapt_agent
from mier_adapt.workflows.new_tasks import NewTask
from mier_adapt.workflows.offline_training import meta_train_offline, replay_of
from mier_adapt.workflows.presets import OWN_POLICY, AdaptConfig, ModelConfig

__all__ = ["adapt_algorithm"]

_MODEL_STEPS = 4_000


def adapt_algorithm(
    algorithm: Any,
    env: gymnasium.Env[Any, Any],
    earlier: Sequence[Any],
    *,
    seed: int,
    config: AdaptConfig = OWN_POLICY,
    adapter: GradientContextAdapter | None = None,
    termination_fn: TerminationFn | None = None,
    label: str | None = None,
    evaluation_episodes: int = 4,
    checkpoint: Path | None = None,
    on_stage: Callable[[str, float], None] = lambda stage, progress: None,
) -> Adaptation:
    """Adapt a Tianshou algorithm that knows no context to a changed task.

    Trains an ordinary model of reward and dynamics on earlier experience; spends
    ``config.adaptation_steps`` real transitions with the policy as it is; fits copies of the model
    to them; predicts with these what the policy would have met in the new task wherever it has
    been before; goes on with the algorithm's own updates on that, mixed with the real transitions;
    and lets real episodes decide whether the result is better than what came.

    A policy of another make can be imitated first:
    :func:`~mier_adapt.workflows.imitation.imitate`.

    Args:
        algorithm: A SAC, TD3 or REDQ whose policy acts on plain observations. A copy is adapted.
        env: The changed task; with a time limit, and observations and actions of one axis.
        earlier: A Tianshou ``ReplayBuffer`` or :class:`.Transitions` ``(B, ...)`` for each task
            that the policy has met.
        seed: Fixes the adaptation, together with the environment's own.
        config: What it spends, and how.
        adapter: With a model of your own, trained beforehand
            (:func:`~mier_adapt.workflows.offline_training.meta_train_offline`); it may have a
            context, which is identified then.
        termination_fn: When episodes end. May be left out where no earlier episode ended but by
            a time limit: then none is assumed to.
        label: What the report calls the task; the environment's ID by default.
        evaluation_episodes: Deterministic episodes before and after; they only measure, and are
            counted apart.
        checkpoint: Keeps the real transitions; see :func:`.fine_tune_by_relabeling`.
        on_stage: Told the stage and its progress from 0 to 1.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If there is no earlier experience, its shapes do not fit the environment, a
            rule for the end of episodes is missing, or the environment has no time limit.
        FloatingPointError: If a loss, an action, a prediction or a parameter stops being finite.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, section 5, for a policy without a context. Ours.
    """
    require_actor_critic("adapt_algorithm", algorithm)
    require_types(
        "adapt_algorithm",
        env=(env, gymnasium.Env),
        earlier=(earlier, Sequence),
        config=(config, AdaptConfig),
        adapter=(adapter, (GradientContextAdapter, type(None))),
        on_stage=(on_stage, Callable),
    )
    require_seed("adapt_algorithm", seed)
    logs = [_log(number, each) for number, each in enumerate(earlier)]
    dims = [space.shape for space in (env.observation_space, env.action_space)]
    for number, log in enumerate(logs):
        found = [tuple(value.shape[1:]) for value in (log.obs, log.act)]
        if found != dims:
            raise ValueError(
                f"adapt_algorithm expected earlier[{number}] with observations and actions of the "
                f"environment's shapes {dims[0]} and {dims[1]}, got {found[0]} and {found[1]}."
            )
    if termination_fn is None:
        if any(bool(log.terminated.any()) for log in logs):
            raise ValueError(
                "adapt_algorithm expected termination_fn, since earlier episodes terminated. Pass "
                "the environment's rule: (obs (B, O), act (B, A), obs_next (B, O)) -> bool (B,)."
            )
        termination_fn = _never
    task = NewTask.of_env(env, label=label, termination_fn=termination_fn)
    device = next(algorithm.policy.parameters()).device
    if adapter is None:
        on_stage("model", 0.0)
        adapter = meta_train_offline(
            logs,
            steps=_MODEL_STEPS,
            seed=seed,
            config=ModelConfig(context_dim=0, batch_size=256),
            device=device,
            on_step=lambda step, loss: on_stage("model", step / _MODEL_STEPS),
        )
    agent = Agent(
        model=adapter.model,
        adapter=adapter,
        algorithm=algorithm,
        replay=replay_of(logs, context_dim=0, generator=np.random.default_rng(seed)),
        device=device,
        conditioned=False,
    )
    return adapt_agent(
        agent,
        task,
        config,
        seed=seed,
        evaluation_episodes=evaluation_episodes,
        checkpoint=checkpoint,
        on_stage=on_stage,
    )


def _log(number: int, each: Any) -> Transitions:
    if isinstance(each, Transitions):
        return each
    try:
        return from_tianshou(each)
    except (TypeError, ValueError) as error:
        raise type(error)(f"adapt_algorithm: earlier[{number}]: {error}") from error


def _never(obs: Any, act: Any, obs_next: Any) -> Any:
    return np.zeros(len(obs), dtype=np.bool_)
