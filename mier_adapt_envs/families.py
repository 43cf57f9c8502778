"""The families by name: what exists, its task sets, its termination function."""

import gymnasium
import numpy as np
from gymnasium.envs.registration import parse_env_id

from mier_adapt_envs.task_env import TaskEnv
from mier_adapt_envs.tasks import TaskSet

_FAMILIES: dict[str, type[TaskEnv]] = {}
_REQUIRED = (
    *("family", "env_id", "varies", "parameter_names", "robot"),
    *("task_sets", "observe", "measure", "termination_fn"),
)


def register(env_class: type[TaskEnv], *, max_episode_steps: int = 200) -> None:
    """Make a family known, here by its name and to gymnasium by its ID.

    Registering a class again, as reloading its module does, replaces it.

    Args:
        env_class: The family's environment, defined at the top level of a module.
        max_episode_steps: Environment steps after which episodes are truncated.

    Raises:
        TypeError: If the class is no :class:`TaskEnv`.
        ValueError: If it is incomplete or nested, its family's name or its ID is taken, gymnasium
            takes no such ID, or there are no steps.
    """
    if not (isinstance(env_class, type) and issubclass(env_class, TaskEnv)):
        raise TypeError(f"env_class must be a subclass of TaskEnv, got {env_class!r:.80}.")
    if isinstance(max_episode_steps, np.integer):
        max_episode_steps = int(max_episode_steps)
    if type(max_episode_steps) is not int or max_episode_steps < 1:
        raise ValueError(f"max_episode_steps must be an int >= 1, got {max_episode_steps!r:.80}.")
    entry_point = f"{env_class.__module__}:{env_class.__qualname__}"
    missing = [name for name in _REQUIRED if _is_missing(env_class, name)]
    if missing:
        raise ValueError(f"{entry_point} must define {', '.join(missing)} to be a family.")
    if "." in env_class.__qualname__:
        raise ValueError(
            f"{entry_point} must be defined at the top level of its module, from where gymnasium "
            "makes it by name."
        )
    name, env_id = env_class.family, env_class.env_id
    if name in _FAMILIES:
        other = _FAMILIES[name]
        if f"{other.__module__}:{other.__qualname__}" != entry_point:
            raise ValueError(
                f"family {name} is already taken by {other.__module__}:{other.__qualname__}; "
                f"give {entry_point} another name."
            )
    try:
        parse_env_id(env_id)
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(
            f"{entry_point} must have an env_id that gymnasium takes, such as "
            f"'MyRobots/Robot-v0', got {env_id!r:.80}."
        ) from error
    if (taken := gymnasium.registry.get(env_id)) and taken.entry_point != entry_point:
        raise ValueError(
            f"env_id {env_id} is already taken by {taken.entry_point}; give {entry_point} another."
        )
    if name in _FAMILIES:
        gymnasium.registry.pop(_FAMILIES[name].env_id, None)
    gymnasium.registry.pop(env_id, None)
    gymnasium.register(
        env_id,
        entry_point=entry_point,
        vector_entry_point=f"mier_adapt_envs.vector:{name}",
        max_episode_steps=max_episode_steps,
    )
    _FAMILIES[name] = env_class


def _is_missing(env_class: type[TaskEnv], name: str) -> bool:
    return getattr(getattr(env_class, name, None), "__isabstractmethod__", False) or not hasattr(
        env_class, name
    )


def families() -> list[str]:
    """Return the names of the families."""
    return list(_FAMILIES)


def env_class(family: str) -> type[TaskEnv]:
    """Return a family's environment class.

    Raises:
        ValueError: If there is no such family.
    """
    if not isinstance(family, str) or family not in _FAMILIES:
        raise ValueError(f"family must be one of {', '.join(_FAMILIES)}, got {family!r}.")
    return _FAMILIES[family]


def task_sets(family: str) -> list[str]:
    """Return the names of a family's task sets, the default one first."""
    return list(env_class(family).task_sets())


def task_set(family: str, name: str | None = None) -> TaskSet:
    """Return a task set by name; without a name, the family's default.

    Example:
        >>> tasks = task_set("HalfCheetahNegatedJoints")
        >>> tasks.name, len(tasks.meta_train), str(tasks[10])
        ('standard', 10, 'negated joints 1,2,6')

    Raises:
        ValueError: If there is no such family or set.
    """
    known = env_class(family).task_sets()
    if name is None:
        return next(iter(known.values()))
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"name of a {family} task_set must be one of {', '.join(known)}, got {name!r}."
        )
    return known[name]
