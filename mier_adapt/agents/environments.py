"""FamilyEnvs: the vector environments of one family, made once for each size."""

from collections.abc import Sequence
from typing import Any, Self

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from mier_adapt._checks import Size, checked
from mier_adapt_envs import Task, TaskSet


class FamilyEnvs:
    """Makes a family's batched environments when they are first needed, and closes them.

    Args:
        task_set: Any task set of the family.
        num_threads: Simulation threads of each environment; the engine's choice when None.
    """

    @checked
    def __init__(self, task_set: TaskSet, *, num_threads: Size | None = None) -> None:
        self.task_set = task_set
        self.num_threads = num_threads
        self._envs: dict[int, VectorEnv[Any, Any, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @checked
    def of_size(self, num_envs: Size) -> VectorEnv[Any, Any, Any]:
        """The environment with this many slots."""
        if num_envs not in self._envs:
            options: dict[str, Any] = (
                {} if self.num_threads is None else {"num_threads": self.num_threads}
            )
            self._envs[num_envs] = gymnasium.make_vec(
                self.task_set.env_id,
                num_envs=num_envs,
                vectorization_mode="vector_entry_point",
                autoreset_mode=AutoresetMode.SAME_STEP,
                **options,
            )
        return self._envs[num_envs]

    def require_family(self, owner: str, tasks: Sequence[Task]) -> None:
        """Check that there are tasks, and all of this family.

        Raises:
            ValueError: If not.
        """
        if {task.family for task in tasks} != {self.task_set.family}:
            raise ValueError(
                f"{owner} expected one or more tasks of {self.task_set.family}, got "
                f"{[f'{task.family}: {task}' for task in tasks][:5]}."
            )

    @property
    def episode_steps(self) -> int:
        """Environment steps of an episode, as the family is registered."""
        return gymnasium.spec(self.task_set.env_id).max_episode_steps or 1

    @property
    def observation_space(self) -> spaces.Box:
        """The space of one bare observation."""
        return self._space("single_observation_space")

    @property
    def action_space(self) -> spaces.Box:
        """The space of one action."""
        return self._space("single_action_space")

    def close(self) -> None:
        """Close all environments."""
        for env in self._envs.values():
            env.close()
        self._envs.clear()

    def _space(self, name: str) -> spaces.Box:
        env = next(iter(self._envs.values()), None) or self.of_size(1)
        space = getattr(env, name)
        assert isinstance(space, spaces.Box)
        return space
