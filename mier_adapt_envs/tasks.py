"""Tasks and task sets: frozen values that say exactly what a policy was trained and tested on."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, SupportsIndex, TypeVar, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Task:
    """One task of a family: a name and the numbers that set it apart from its siblings.

    Two tasks are equal when family and parameters are; the label is for people.

    Example:
        >>> task = Task("HalfCheetahVel", (1.5,), label="velocity 1.5")
        >>> Task.from_json(task.to_json()) == task
        True
    """

    family: str
    """Family the task belongs to, e.g. ``"HalfCheetahVel"``."""
    parameters: tuple[float, ...]
    """Its numbers, in the order of the environment's ``parameter_names``."""
    label: str = field(default="", compare=False)
    """Short description for tables and plots, e.g. ``"velocity 1.5"``."""

    def __post_init__(self) -> None:
        if {type(self.family), type(self.label)} != {str} or not self.family:
            raise ValueError(
                f"family must be a non-empty string and label a string, got {self.family!r:.80} "
                f"and {self.label!r:.80}."
            )
        try:
            if isinstance(self.parameters, str | bytes | Mapping):
                raise TypeError("text")
            parameters = tuple(float(value) for value in self.parameters)
            if not all(map(math.isfinite, parameters)):
                raise ValueError("not finite")
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(
                f"parameters of {self.family} must be a flat sequence of finite numbers, got "
                f"{self.parameters!r:.80}. Write a single number as a tuple: (1.5,)."
            ) from error
        object.__setattr__(self, "parameters", parameters)

    def __str__(self) -> str:
        if self.label:
            return self.label
        shown = ", ".join(f"{value:.3g}" for value in self.parameters[:8])
        more = ", …" if len(self.parameters) > 8 else ""
        return f"{self.family}({shown}{more})"

    def to_dict(self) -> dict[str, Any]:
        """Return the task as plain strings, floats and lists, ready for JSON."""
        return {**asdict(self), "parameters": list(self.parameters)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """Read a task from the form that ``to_dict`` writes.

        Raises:
            ValueError: If ``values`` is no mapping, or lacks or adds an entry.
        """
        entries = set(values) if isinstance(values, Mapping) else set()
        if not {"family", "parameters"} <= entries <= {"family", "parameters", "label"}:
            raise ValueError(
                "task must be a Task or its dict form, with the entries 'family', 'parameters' and "
                f"optionally 'label', got {values!r:.80}."
            )
        return cls(**values)

    def to_json(self) -> str:
        """Return the task as JSON. Floats keep every bit."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """Read a task from the form that ``to_json`` writes.

        Raises:
            ValueError: If the text is of another form.
        """
        with foreign("a task"):
            return cls.from_dict(json.loads(text))


@dataclass(frozen=True)
class TaskSet(Sequence[Task]):
    """Named tasks of one family, split into meta-training and meta-test.

    Indices number the meta-training tasks first and continue through the meta-test tasks, so
    that "task 12" means the same everywhere. A task may stand in both splits (the two directions
    of HalfCheetahDir do).

    Example:
        >>> tasks = tuple(Task("HalfCheetahVel", (speed,)) for speed in (0.5, 1.0, 4.0))
        >>> mine = TaskSet("HalfCheetahVel", "mine", "MIER/HalfCheetahVel-v0", tasks[:2], tasks[2:])
        >>> len(mine), mine[2] is mine.meta_test[0]
        (3, True)
    """

    family: str
    """Family of every task in the set."""
    name: str
    """Name within the family, e.g. ``"standard"``."""
    env_id: str
    """Gymnasium ID of the environment that runs these tasks."""
    meta_train: tuple[Task, ...]
    """Tasks to meta-train on."""
    meta_test: tuple[Task, ...]
    """Tasks to adapt to."""

    def __post_init__(self) -> None:
        for name in ("family", "name", "env_id"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a string, got {getattr(self, name)!r}.")
        for split in ("meta_train", "meta_test"):
            tasks = getattr(self, split)
            try:
                tasks = tuple(tasks)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{split} must be a sequence of tasks, got {tasks!r}.") from error
            for position, task in enumerate(tasks):
                if not isinstance(task, Task) or task.family != self.family:
                    raise ValueError(
                        f"{split}[{position}] must be a Task of {self.family}, got {task!r}. Put "
                        "each family into a TaskSet of its own."
                    )
            object.__setattr__(self, split, tasks)

    def __len__(self) -> int:
        return len(self.meta_train) + len(self.meta_test)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Task, ...]: ...
    def __getitem__(self, index: int | slice) -> Task | tuple[Task, ...]:
        return at(index, self.meta_train + self.meta_test, f"{self.family} {self.name!r}")

    def __iter__(self) -> Iterator[Task]:
        return iter(self.meta_train + self.meta_test)

    @property
    def hash(self) -> str:
        """SHA-256 over the environment's ID and every task's numbers, in hexadecimal.

        Equal hashes mean bit-equal tasks in the same order and split; names and labels do not
        count.
        """
        numbers = {
            "env_id": self.env_id,
            "family": self.family,
            "meta_train": [task.parameters for task in self.meta_train],
            "meta_test": [task.parameters for task in self.meta_test],
        }
        return canonical_hash(numbers)

    def to_dict(self) -> dict[str, Any]:
        """Return the set as plain strings, floats and lists, ready for JSON."""
        return {
            "family": self.family,
            "name": self.name,
            "env_id": self.env_id,
            "meta_train": [task.to_dict() for task in self.meta_train],
            "meta_test": [task.to_dict() for task in self.meta_test],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TaskSet":
        """Read a set from the form that ``to_dict`` writes.

        Raises:
            ValueError: If ``values`` is no mapping, or lacks or adds an entry.
        """
        expected = {"family", "name", "env_id", "meta_train", "meta_test"}
        if not isinstance(values, Mapping) or set(values) != expected:
            raise ValueError(
                f"A task set's dict form has the entries {expected}, got {values!r:.200}."
            )
        with foreign("a task set"):
            splits = {
                split: tuple(Task.from_dict(task) for task in values[split])
                for split in ("meta_train", "meta_test")
            }
        return cls(values["family"], values["name"], values["env_id"], **splits)

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the set as JSON. Floats keep every bit."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> "TaskSet":
        """Read a set from the form that ``to_json`` writes.

        Raises:
            ValueError: If the text is of another form.
        """
        with foreign("a task set"):
            return cls.from_dict(json.loads(text))


def canonical_hash(numbers: Mapping[str, Any]) -> str:
    """SHA-256 over the one JSON text that says these, in hexadecimal."""
    canonical = json.dumps(numbers, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


_Item = TypeVar("_Item")


def at(index: Any, items: tuple[_Item, ...], name: str) -> _Item | tuple[_Item, ...]:
    """What a sequence with a name has at an index, or in a slice.

    Raises:
        IndexError: If it is not that long.
        TypeError: If it is no index.
    """
    if not isinstance(index, SupportsIndex | slice):
        raise TypeError(f"{name} expected an integer or a slice, got {index!r:.80}.")
    try:
        return items[index]
    except IndexError as error:
        raise IndexError(
            f"{name} has {len(items)} entries, expected an index from 0 to {len(items) - 1}, got "
            f"{index!r:.80}."
        ) from error


@contextmanager
def foreign(what: str) -> Iterator[None]:
    """A block in which what is not ours raises a ValueError, whatever it does to its reader."""
    try:
        yield
    except (OverflowError, RecursionError, TypeError) as error:
        raise ValueError(f"Not the form of {what}: {str(error)[:200]}") from error


def freeze(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round computed parameters to 9 decimals, so that no processor's last bit changes a hash.

    Uniform draws need none of this: they are the same bits everywhere.
    """
    return np.round(parameters, 9)
