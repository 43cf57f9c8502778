"""NewTask: the one task that an agent is adapted to, and how to act in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from mier_adapt._checks import require_int, require_type, require_types
from mier_adapt.integration import Rollout, collect
from mier_adapt.relabeler import TerminationFn
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt_envs import Task, termination_fn

__all__ = ["NewTask"]


@dataclass(frozen=True, eq=False, kw_only=True)
class NewTask:
    """A task, in as many copies of its environment as there are."""

    label: str
    """What reports and errors call it."""
    parameters: tuple[float, ...]
    """Its parameters, where it is one of a family."""
    episode_steps: int
    """Environment steps of an episode."""
    termination_fn: TerminationFn | None
    """When its episodes end; None where that cannot be said."""
    env_of_size: Callable[[int], VectorEnv[Any, Any, Any]]
    """The environment with this many slots."""
    task: Task | None = None
    """What every slot is set to, where slots have tasks."""
    simulated: bool = True
    """Whether episodes can run side by side; a robot, or an environment that came alone, has but
    one slot."""

    @classmethod
    def of_family(cls, envs: TaskEnvs, task: Task, *, episode_steps: int) -> Self:
        """A task of a family, in its batched environments.

        Args:
            envs: The family's environments.
            task: One of its tasks.
            episode_steps: Environment steps of an episode.

        Raises:
            ValueError: If the task is of another family.
        """
        require_types("NewTask.of_family", envs=(envs, TaskEnvs), task=(task, Task))
        require_int("NewTask.of_family", "episode_steps", episode_steps, least=1)
        if task.family != envs.task_set.family:
            raise ValueError(
                f"NewTask.of_family expected a task of {envs.task_set.family}, got one of "
                f"{task.family}."
            )
        return cls(
            label=str(task),
            parameters=task.parameters,
            episode_steps=episode_steps,
            termination_fn=termination_fn(task.family),
            env_of_size=envs.of_size,
            task=task,
        )

    @classmethod
    def of_env(
        cls,
        env: gymnasium.Env[Any, Any],
        *,
        label: str | None = None,
        termination_fn: TerminationFn | None = None,
        episode_steps: int | None = None,
    ) -> Self:
        """Whatever an environment of your own poses.

        Args:
            env: Steps one episode after the other. It stays open.
            label: What reports call the task; by default the environment's ID.
            termination_fn: When its episodes end.
            episode_steps: Environment steps of an episode; by default the time limit with which
                the environment was registered.

        Raises:
            ValueError: If the environment has no time limit and ``episode_steps`` is not given.
        """
        require_type("NewTask.of_env", "env", env, gymnasium.Env)
        require_type("NewTask.of_env", "label", label, (str, type(None)))
        if episode_steps is None:
            episode_steps = env.spec.max_episode_steps if env.spec is not None else None
            if episode_steps is None:
                raise ValueError(
                    "NewTask.of_env expected an environment with a time limit, got "
                    f"{env.spec.id if env.spec else env}, which was registered without. Give "
                    "episode_steps, and wrap it in gymnasium.wrappers.TimeLimit."
                )
        require_int("NewTask.of_env", "episode_steps", episode_steps, least=1)
        slots = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
        return cls(
            label=label or (env.spec.id if env.spec else str(env)),
            parameters=(),
            episode_steps=episode_steps,
            termination_fn=termination_fn,
            env_of_size=lambda size: slots,
            simulated=False,
        )

    def run(
        self,
        policy: Any,
        context: torch.Tensor,
        *,
        steps: int,
        generator: np.random.Generator,
        explore: bool = True,
    ) -> Rollout:
        """Act under one context.

        Args:
            policy: A Tianshou policy on ``[obs, context]``.
            context: ``(C,)``; C may be 0.
            steps: Environment steps; rounded up to whole episodes where these run side by side.
            generator: Draws the starts.
            explore: As :func:`mier_adapt.integration.collect`.

        Returns:
            A rollout of shape ``(episodes, episode_steps)``, or ``(1, steps)`` from one slot.

        Raises:
            ValueError: If the context has another shape, or there are no steps.
            FloatingPointError: As :func:`mier_adapt.integration.collect`.
        """
        require_type("NewTask.run", "context", context, torch.Tensor)
        require_int("NewTask.run", "steps", steps, least=1)
        if context.ndim != 1:
            raise ValueError(
                f"NewTask.run expected context of shape (C,), got {tuple(context.shape)}."
            )
        slots = -(-steps // self.episode_steps) if self.simulated else 1
        return collect(
            self.env_of_size(slots),
            None if self.task is None else [self.task] * slots,
            policy,
            np.tile(context.cpu().numpy(), (slots, 1)),
            steps=min(steps, self.episode_steps) if self.simulated else steps,
            generator=generator,
            explore=explore,
        )

    def returns(
        self, policy: Any, context: torch.Tensor, *, episodes: int, generator: np.random.Generator
    ) -> tuple[float, ...]:
        """Undiscounted returns of deterministic episodes.

        Args:
            policy: As in :meth:`run`.
            context: As in :meth:`run`.
            episodes: How many.
            generator: Draws the starts.
        """
        require_int("NewTask.returns", "episodes", episodes, least=1)
        values: list[float] = []
        for count in [episodes] if self.simulated else [1] * episodes:
            steps = count * self.episode_steps
            rollout = self.run(policy, context, steps=steps, generator=generator, explore=False)
            values += rollout.first_returns.tolist()
        return tuple(values)
