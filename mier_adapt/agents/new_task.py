"""NewTask: the one task that an agent is adapted to, and how to act in it."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit

from mier_adapt._checks import Count, Size, checked
from mier_adapt._spaces import vector_space
from mier_adapt.agents.environments import FamilyEnvs
from mier_adapt.agents.metering import Meter
from mier_adapt.agents.rollouts import ActFilter, Rollout, collect, collect_episodes
from mier_adapt.protocols import Actor, TerminationFn
from mier_adapt_envs import Task, env_class


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
    observation_space: spaces.Box
    """Of one bare observation."""
    action_space: spaces.Box
    """Of one action."""
    env_of_size: Callable[[int], VectorEnv[Any, Any, Any]]
    """The environment with this many slots."""
    task: Task | None = None
    """What every slot is set to, where slots have tasks."""
    simulated: bool = True
    """Whether episodes can run side by side; a robot, or an environment that came alone, has but
    one slot."""
    labelled: bool = True
    """Whether its label tells it from other tasks of the same environment."""
    act_filter: ActFilter | None = None
    """What is executed where an action is asked for, in the environment's units."""
    environment: Mapping[str, Any] | None = None
    """Keywords with which ``gymnasium.make`` makes it, in plain values; None if not known."""

    @classmethod
    @checked
    def of_family(cls, envs: FamilyEnvs, task: Task, *, episode_steps: Size | None = None) -> Self:
        """A task of a family, in its batched environments.

        Args:
            envs: The family's environments.
            task: One of its tasks.
            episode_steps: Environment steps of an episode; by default the family's, which end one
                sooner where they are fewer.

        Raises:
            ValueError: If the task is of another family.
        """
        envs.require_family("NewTask.of_family", [task])
        length = episode_steps or envs.episode_steps
        limit = gymnasium.spec(envs.task_set.env_id).max_episode_steps
        return cls(
            label=str(task),
            parameters=task.parameters,
            episode_steps=length,
            termination_fn=env_class(task.family).termination_fn,
            observation_space=envs.observation_space,
            action_space=envs.action_space,
            env_of_size=envs.of_size,
            task=task,
            environment={
                "id": envs.task_set.env_id,
                "task": {"family": task.family, "parameters": list(task.parameters)},
                "max_episode_steps": length if limit is None else min(length, limit),
            },
        )

    @classmethod
    @checked
    def of_env(
        cls,
        env: gymnasium.Env[Any, Any],
        *,
        label: str | None = None,
        termination_fn: TerminationFn | None = None,
        episode_steps: Size | None = None,
        act_filter: ActFilter | None = None,
    ) -> Self:
        """Whatever an environment of your own poses.

        Args:
            env: Steps one episode after the other. It stays open.
            label: What reports call the task; by default the environment's ID. A checkpoint of an
                adaptation needs one: two tasks may share an ID.
            termination_fn: When its episodes end.
            episode_steps: Environment steps of an episode; by default, and at the most, those of
                the environment's time limit.
            act_filter: Safety limits: ``(obs (O,), act (A,)) -> act (A,)``, in the environment's
                units, is asked before every step, whatever that is for. The environment gets what
                it returns, and that is what is recorded and learned from.

        Raises:
            ValueError: If observations or actions are no vectors, actions have no bounds, the
                environment has no time limit and ``episode_steps`` is not given, or it has a
                shorter one.
        """
        observations = vector_space("NewTask.of_env", "env's observations", env.observation_space)
        actions = vector_space("NewTask.of_env", "env's actions", env.action_space, bounded=True)
        limit = None
        if env.has_wrapper_attr("_max_episode_steps"):  # TimeLimit's, wherever it was put
            limit = env.get_wrapper_attr("_max_episode_steps")
            if episode_steps is not None and episode_steps > limit:
                raise ValueError(
                    f"NewTask.of_env expected episode_steps of at most {limit}, the environment's "
                    f"own time limit, got {episode_steps}. Make it with "
                    f"max_episode_steps={episode_steps}."
                )
        length = episode_steps or limit or (env.spec.max_episode_steps if env.spec else None)
        if length is None:
            raise ValueError(
                "NewTask.of_env expected an environment with a time limit, got "
                f"{env.spec.id if env.spec else env}, which was registered without. Give "
                "episode_steps."
            )
        limited = env if length == limit else TimeLimit(env, length)
        slots = SyncVectorEnv([lambda: limited], autoreset_mode=AutoresetMode.DISABLED)
        return cls(
            label=label or (env.spec.id if env.spec else str(env)),
            parameters=(),
            episode_steps=length,
            termination_fn=termination_fn,
            observation_space=observations,
            action_space=actions,
            env_of_size=lambda size: slots,
            simulated=False,
            labelled=label is not None,
            act_filter=act_filter,
            environment=_recipe(env, length),
        )

    def metered(self, meter: Meter) -> Self:
        """The same task, in environments whose steps and resets are counted."""
        return dataclasses.replace(
            self, env_of_size=lambda size: meter.around(self.env_of_size(size))
        )

    @checked
    def run(
        self,
        actor: Actor,
        *,
        steps: Size,
        generator: np.random.Generator,
        explore: bool = True,
        until_end: bool = False,
        on_interrupt: Callable[[Rollout], None] = lambda rollout: None,
    ) -> Rollout:
        """Act.

        Args:
            actor: Of this one task.
            steps: Environment steps; rounded up to whole episodes where these run side by side.
            generator: Draws the starts.
            explore: As :meth:`.Actor.act`'s.
            until_end: Stop when the first episode has ended, or all that run side by side have.
            on_interrupt: As :func:`.collect`'s.

        Returns:
            A rollout of shape ``(episodes, episode_steps)``, or ``(1, steps)`` from one slot; or
            shorter with ``until_end``.

        Raises:
            FloatingPointError: If an action, reward or observation is not finite.
            ValueError: If ``act_filter`` returns what is no action of the environment's.
        """
        options: dict[str, Any] = {
            "generator": generator,
            "explore": explore,
            "until_end": until_end,
            "act_filter": self.act_filter,
            "on_interrupt": on_interrupt,
        }
        if not self.simulated:
            tasks = None if self.task is None else [self.task]
            names = [self.label]
            return collect(self.env_of_size(1), tasks, actor, steps=steps, names=names, **options)
        (rollout,) = collect_episodes(
            self.env_of_size,
            [self.task],
            actor,
            steps=steps,
            episode_steps=self.episode_steps,
            **options,
        )
        return rollout

    @checked
    def returns(
        self, actor: Actor, *, episodes: Count, generator: np.random.Generator
    ) -> tuple[float, ...]:
        """Undiscounted returns of deterministic episodes, each of which stops where it ends.

        Args:
            actor: Of this one task.
            episodes: How many; 0 for none.
            generator: Draws the starts.
        """
        values: list[float] = []
        for count in [episodes][: episodes > 0] if self.simulated else [1] * episodes:
            steps = count * self.episode_steps
            rollout = self.run(
                actor, steps=steps, generator=generator, explore=False, until_end=True
            )
            values += rollout.first_returns.tolist()
        return tuple(values)


def _recipe(env: gymnasium.Env[Any, Any], episode_steps: int) -> Mapping[str, Any] | None:
    """What made an environment, where that is all that made it."""
    if env.spec is None:
        return None
    recipe = {"id": env.spec.id, **env.spec.kwargs, "max_episode_steps": episode_steps}
    recipe.pop("render_mode", None)
    try:
        plain: Mapping[str, Any] = json.loads(json.dumps(recipe))
    except (TypeError, ValueError):
        return None
    return None if env.spec.additional_wrappers else plain
