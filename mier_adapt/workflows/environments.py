"""TaskEnvs: the vector environments of one family, made once for each size."""

from typing import Any, Self

import gymnasium
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from mier_adapt._checks import require_int, require_type
from mier_adapt_envs import TaskSet

__all__ = ["TaskEnvs"]


class TaskEnvs:
    """Makes a family's batched environments when they are first needed, and closes them.

    Args:
        task_set: Any task set of the family.
        num_threads: Simulation threads of each environment; the engine's choice when None.
    """

    def __init__(self, task_set: TaskSet, *, num_threads: int | None = None) -> None:
        require_type("TaskEnvs", "task_set", task_set, TaskSet)
        if num_threads is not None:
            require_int("TaskEnvs", "num_threads", num_threads, least=1)
        self.task_set = task_set
        self.num_threads = num_threads
        self._envs: dict[int, VectorEnv[Any, Any, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of_size(self, num_envs: int) -> VectorEnv[Any, Any, Any]:
        """The environment with this many slots."""
        require_int("TaskEnvs", "num_envs", num_envs, least=1)
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
