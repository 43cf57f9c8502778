"""Readiness: what has to be there before a robot moves, or anything is trained."""

from pathlib import Path
from typing import Any

import numpy as np

from mier_adapt._storage.randomness import forked_global_generators
from mier_adapt.adaptation.identification import require_fitting_log
from mier_adapt.adaptation.stages import diagnoses
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig
from mier_adapt.agents.new_task import NewTask
from mier_adapt.diagnosis import FEWEST
from mier_adapt.integration.actors import require_fitting_policy
from mier_adapt.model_fitting import require_weights
from mier_adapt.protocols import TerminationFn
from mier_adapt.relabeler import ends_by
from mier_adapt.transitions import Transitions


def require_adaptable(
    owner: str,
    agent: Agent,
    config: AdaptConfig,
    logged: Transitions | None,
    termination_fn: TerminationFn | None,
) -> None:
    """Check that an agent has what a new task will ask of it, and a rule for ends answers.

    Args:
        owner: Who says so where not.
        agent: Acts once, and its experience is looked at.
        config: What is going to be done.
        logged: Transitions that are there already, ``(B, ...)``.
        termination_fn: Asked about a transition of each earlier task.

    Raises:
        TypeError: If the model has no weights, and they are to be fitted.
        ValueError: If anything else is missing or does not fit.
    """
    model, replay = agent.model, agent.replay
    if logged is not None:
        require_fitting_log(owner, logged, (model.obs_dim, model.act_dim))
    with forked_global_generators(0):
        agent.initial_actor(1).act(np.zeros((1, model.obs_dim), dtype=np.float32), explore=False)
    tasks = range(replay.num_tasks)
    if empty := [n for n in tasks if not len(replay.task_buffer(n).adaptation_indices())]:
        raise ValueError(
            f"{owner} expected an agent with experience of each of its tasks, gathered with the "
            f"initial context, got none of {empty}."
        )
    most = max(config.adaptation_steps, 0 if logged is None else len(logged))
    if diagnoses(agent, config) and most < FEWEST:
        raise ValueError(
            f"{owner} expected adaptation_steps >= {FEWEST}, to tell what changed, got "
            f"{config.adaptation_steps}. Gather more, or set diagnose=False."
        )
    if config.weight_steps:
        require_weights(owner, "weight_steps", model)
    if termination_fn is not None:
        stored = replay.sample_transitions(
            np.array(tasks), 1, adaptation=False, generator=np.random.default_rng(0)
        ).flatten()
        ends_by(owner, termination_fn, stored.obs, stored.act, stored.obs_next)


def require_label(owner: str, task: NewTask, checkpoint: Path | None) -> None:
    """Check that a checkpoint's task can be told from others.

    Raises:
        ValueError: If it cannot.
    """
    if checkpoint is not None and not task.labelled:
        raise ValueError(
            f"{owner} expected a task with a label to go with checkpoint, since {task.label!r} may "
            "pose many: NewTask.of_env(env, label=...) says which one the transitions are of."
        )


def require_refreshed(owner: str, config: AdaptConfig, *, conditioned: bool) -> None:
    """Check that no actor-only stage is asked for where there is none.

    Raises:
        ValueError: If one is.
    """
    if config.refresh_updates and not conditioned:
        raise ValueError(
            f"{owner} expected refresh_updates=0 for a policy that knows no context, which has "
            f"nothing new to learn from its critics, got {config.refresh_updates}."
        )


def require_fitting_task(
    owner: str, task: NewTask, algorithm: Any, dims: tuple[int, int], *, predicts: bool
) -> None:
    """Check that an algorithm and its experience belong to a task's observations and actions.

    Raises:
        ValueError: If they do not, or next observations are to be predicted and the task has no
            rule for the end of an episode.
    """
    require_fitting_policy(owner, algorithm.policy, task.action_space)
    wanted = task.observation_space.shape + task.action_space.shape
    if dims != wanted:
        raise ValueError(
            f"{owner} expected earlier transitions with the task's dimensions of observations and "
            f"actions, {wanted}, got {dims}."
        )
    if predicts and task.termination_fn is None:
        raise ValueError(
            f"{owner} expected a task with termination_fn, since next observations are predicted: "
            "pass the environment's rule, (obs (B, O), act (B, A), obs_next (B, O)) -> bool (B,), "
            "or set relabel_rounds=0."
        )
