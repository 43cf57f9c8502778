"""ContextReplayBuffer: many tasks' transitions, seen by an algorithm with their contexts."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.data import Batch, ReplayBuffer
from tianshou.data.buffer.manager import ReplayBufferManager

from mier_adapt._checks import Count, Size, checked, require_array, require_tensor, shown
from mier_adapt._storage.trees import Pieces, require_keys, require_like
from mier_adapt._typing import Float, Tensor
from mier_adapt.integration.task_replay import (
    FilledByStretches,
    TaskReplayBuffer,
    allocate,
    gather,
)
from mier_adapt.transitions import OneTask, Transitions

_COLUMNS = ("obs", "act", "rew", "terminated", "truncated", "done", "obs_next")


class ContextReplayBuffer(FilledByStretches, ReplayBufferManager):
    """One :class:`.TaskReplayBuffer` for each task; sampling appends each task's context.

    A stock Tianshou algorithm that is given this buffer trains on ``[obs, context]``: the
    current context of a transition's task is appended to ``obs`` and ``obs_next`` when they
    are read, never stored, so a new estimate applies to all of the task's past at once.
    ``buffer.obs`` is the bare storage, without contexts.

    Samples are drawn in equal shares from the tasks that :meth:`set_contexts` last named.

    Args:
        num_tasks: Number of tasks T.
        size_per_task: Capacity for each task, in transitions.
        obs_dim: Dimensions of a bare observation.
        act_dim: Dimensions of an action.
        context_dim: Dimensions of a context; 0 appends nothing.
        generator: Draws the samples.

    Raises:
        ValueError: If a count or dimension is out of range.
    """

    @checked
    def __init__(
        self,
        num_tasks: Size,
        size_per_task: Size,
        *,
        obs_dim: Size,
        act_dim: Size,
        context_dim: Count,
        generator: np.random.Generator,
    ) -> None:
        buffers: list[ReplayBuffer] = [TaskReplayBuffer(size_per_task) for _ in range(num_tasks)]
        super().__init__(buffers)
        self.set_batch(allocate(self.maxsize, obs_dim, act_dim))
        self.num_tasks = num_tasks
        self.size_per_task = size_per_task
        self.context_dim = context_dim
        self.generator = generator
        self._contexts = np.zeros((num_tasks, context_dim), dtype=np.float32)
        self._active = np.arange(num_tasks)

    @classmethod
    @checked
    def of(
        cls,
        earlier: Sequence[OneTask],
        *,
        context_dim: Count = 0,
        generator: np.random.Generator,
    ) -> Self:
        """Several tasks' logged transitions, any of which may identify its task.

        An episode also ends where the next row does not follow, as after a time limit.

        Args:
            earlier: ``(B, ...)`` of each task, of the same dimensions.
            context_dim: Dimensions of the contexts that samples are seen under.
            generator: Draws the samples.

        Raises:
            ValueError: If there are no tasks, or shapes differ.
        """
        if not earlier:
            raise ValueError("ContextReplayBuffer.of expected at least one of earlier, got none.")
        replay = cls(
            len(earlier),
            max(len(each) for each in earlier),
            obs_dim=earlier[0].obs.shape[-1],
            act_dim=earlier[0].act.shape[-1],
            context_dim=context_dim,
            generator=generator,
        )
        for number, each in enumerate(earlier):
            truncated = np.zeros(len(each), dtype=np.bool_)
            truncated[:-1] = (~(each.follows | each.terminated[:-1])).cpu().numpy()
            replay.extend(number, each, truncated=truncated, initial_context=True)
        return replay

    @property
    def obs_dim(self) -> int:
        """Dimensions of a bare observation."""
        return int(self._columns()["obs"].shape[-1])

    @property
    def act_dim(self) -> int:
        """Dimensions of an action."""
        return int(self._columns()["act"].shape[-1])

    @property
    def active_tasks(self) -> NDArray[np.int_]:
        """The tasks that samples are drawn from."""
        return self._active

    def task_buffer(self, task: int) -> TaskReplayBuffer:
        """One task's own buffer; read from it, but add through :meth:`extend`."""
        buffer: TaskReplayBuffer = self.buffers[task]
        return buffer

    @checked
    def extend(
        self,
        task: Count,
        transitions: OneTask,
        *,
        truncated: NDArray[np.bool_] | None = None,
        initial_context: bool = False,
    ) -> NDArray[np.int_]:
        """Append a stretch of one task's transitions, overwriting its oldest when full.

        Args:
            task: Index of the task.
            transitions: ``(B, ...)``, in the order of time.
            truncated: ``(B,)``, where a time limit cut an episode; nowhere by default.
            initial_context: Whether all were gathered with the initial context.

        Returns:
            The indices that were written.

        Raises:
            ValueError: If there is no such task, or a shape does not fit.
        """
        (task,) = self._task_indices("extend", [task])
        buffer = self.task_buffer(task)
        indices = buffer.extend(transitions, truncated=truncated, initial_context=initial_context)
        indices = indices + int(self._offset[task])
        self.last_index[task] = indices[-1]
        self._lengths[task] = len(buffer)
        return indices

    @checked
    def set_contexts(self, tasks: NDArray[np.int_], contexts: Float[Tensor, "T C"]) -> None:
        """Draw from these tasks from now on, and see them under these contexts.

        Raises:
            ValueError: If there are no tasks, the shape does not fit, a value is not finite, or
                a task is not there or has no transitions.
        """
        tasks = self._task_indices("set_contexts", tasks)
        require_tensor("set_contexts", "contexts", contexts, (len(tasks), self.context_dim))
        self._require_data(tasks, adaptation=False)
        self._contexts[tasks] = contexts.detach().cpu().numpy()
        self._active = tasks

    @checked
    def sample_transitions(
        self,
        tasks: NDArray[np.int_],
        batch_size: Size,
        *,
        adaptation: bool,
        window: Size | None = None,
        generator: np.random.Generator | None = None,
    ) -> Transitions:
        """Draw transitions of several tasks, without contexts, for the model.

        Args:
            tasks: Task indices, ``(T,)``.
            batch_size: Transitions of each task, drawn with replacement.
            adaptation: Draw only from data gathered with the initial context.
            window: Draw only from as many of each task's newest ones of these.
            generator: Draws the transitions, if not the buffer's own.

        Returns:
            Transitions of shape ``(T, batch_size, ...)``.

        Raises:
            ValueError: If a task has no such transitions.
        """
        tasks = self._task_indices("sample_transitions", tasks)
        self._require_data(tasks, adaptation=adaptation)
        picks = (generator or self.generator).random((len(tasks), batch_size))
        rows = np.empty(picks.shape, dtype=np.int_)
        for task in np.unique(tasks):
            its = tasks == task
            buffer = self.task_buffer(task)
            if adaptation or window:
                held = (
                    buffer.adaptation_indices() if adaptation else buffer.last_indices(len(buffer))
                )[-(window or 0) :]
                rows[its] = held[(picks[its] * len(held)).astype(np.int_)]
            else:
                rows[its] = picks[its] * self._lengths[task]
        return gather(self._meta, rows + self._offset[tasks][:, None])

    @checked
    def recent_transitions(self, count: Size) -> Transitions:
        """What was stored last of every task, in order and without contexts.

        Args:
            count: Transitions of each task; fewer where the shortest buffer holds fewer.

        Returns:
            Transitions of shape ``(T, B, ...)``.

        Raises:
            ValueError: If a task has none.
        """
        self._require_data(np.arange(self.num_tasks), adaptation=False)
        count = min(count, int(self._lengths.min()))
        rows = [
            offset + self.task_buffer(task).last_indices(count)
            for task, offset in enumerate(self._offset)
        ]
        return gather(self._meta, np.stack(rows))

    @checked
    def stretches(self, indices: NDArray[np.int_], length: Size) -> Transitions:
        """Stored transitions, each behind those that its task's ring holds before it, in order.

        The newest comes before the oldest: one follows another where its ``obs`` is the
        ``obs_next`` before it.

        Args:
            indices: Of what is stored, ``(N,)``, as :meth:`sample_indices` gives them.
            length: Transitions of a stretch, of which the last is the one that was asked for.

        Returns:
            Transitions of shape ``(N, length, ...)``, without contexts.

        Raises:
            ValueError: If an index is none of a stored transition.
        """
        found = require_array("stretches", "indices", indices, None)
        whole = found.ndim == 1 and len(found) > 0 and found.dtype.kind in "iu"
        tasks, rows = np.divmod(found, self.size_per_task)
        if (
            not whole
            or not 0 <= tasks.min() <= tasks.max() < self.num_tasks
            or (rows >= self._lengths[tasks]).any()
        ):
            raise ValueError(
                "stretches expected indices of stored transitions, (N,), as sample_indices gives "
                f"them, got {shown(indices)}."
            )
        steps = (rows[:, None] + np.arange(1 - length, 1)) % self._lengths[tasks][:, None]
        return gather(self._meta, steps + self._offset[tasks][:, None])

    def sample_indices(self, batch_size: int | None) -> NDArray[np.int_]:
        """Draw in equal shares from the current tasks; 0 gives all of their indices in order."""
        lengths, offsets = self._lengths[self._active], self._offset[self._active]
        if batch_size is None or batch_size == 0:
            everything = np.concatenate(
                [offset + np.arange(n) for offset, n in zip(offsets, lengths, strict=True)]
            )
            return everything if batch_size == 0 else self.generator.permutation(everything)
        self._require_data(self._active, adaptation=False)
        # Whole rounds over the tasks, then some of them once more.
        rows = np.arange(batch_size) % len(self._active)
        rest = batch_size % len(self._active)
        if rest:
            rows[-rest:] = self.generator.choice(len(self._active), rest, replace=False)
        picks = self.generator.random(batch_size) * lengths[rows]
        return np.asarray(offsets[rows] + picks.astype(np.int_))

    def stored(self) -> Transitions:
        """Everything stored, ``(B, ...)``, task by task and without contexts."""
        return gather(self._meta, self.stored_indices())

    def state(self) -> dict[str, Any]:
        """All that is stored, as a tree of tensors and numbers; see :meth:`load_state`.

        Columns are views of the buffer's memory, task by task, not copies.
        """
        columns = {
            name: Pieces([torch.from_numpy(column[rows]) for rows in self._stored_rows()])
            for name, column in self._columns().items()
        }
        return {
            "columns": columns,
            "lengths": [int(n) for n in self._lengths],
            "insertion": [self.task_buffer(task)._insertion_idx for task in range(self.num_tasks)],
            "contexts": torch.from_numpy(self._contexts.copy()),
            "active": [int(task) for task in self._active],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` gave, into a buffer of the same sizes.

        Raises:
            ValueError: If the sizes differ; nothing is changed then.
        """
        self.check_state(state)
        self._lengths = np.asarray(state["lengths"], dtype=self._lengths.dtype)
        for name, column in self._columns().items():
            given = _joined(state["columns"][name]).numpy()
            done = 0
            for rows in self._stored_rows():
                count = rows.stop - rows.start
                column[rows] = given[done : done + count]
                done += count
        for task, buffer in enumerate(self.buffers):
            length, insertion = (int(state[name][task]) for name in ("lengths", "insertion"))
            last = buffer.restore(length, insertion % self.size_per_task)
            self.last_index[task] = last + self._offset[task]
        self._contexts = state["contexts"].numpy().copy()
        self._active = np.asarray(state["active"], dtype=np.int_)

    def check_state(self, state: Any) -> None:
        """Check that :meth:`load_state` would take this state.

        Raises:
            ValueError: If it would not; the message says why.
        """
        own = dict.fromkeys(("columns", "lengths", "insertion", "contexts", "active"))
        require_keys(own, state, "replay state")
        for name, most in (
            ("lengths", self.size_per_task),
            ("insertion", self.size_per_task),
            ("active", self.num_tasks - 1),
        ):
            numbers = state[name]
            if (
                not isinstance(numbers, list)
                or not all(type(number) is int and 0 <= number <= most for number in numbers)
                or (not numbers if name == "active" else len(numbers) != self.num_tasks)
            ):
                raise ValueError(
                    f"ContextReplayBuffer expected the state of {self.num_tasks} tasks with at "
                    f"most {self.size_per_task} transitions each, but {name} is "
                    f"{str(numbers)[:80]}."
                )
        require_like(torch.from_numpy(self._contexts), state["contexts"], "replay/contexts")
        columns, held = self._columns(), sum(state["lengths"])
        require_keys(columns, state["columns"], "replay/columns")
        for name, column in columns.items():
            # Described, not allocated.
            like = torch.from_numpy(column[:1]).expand(held, *column.shape[1:])
            require_like(like, _joined(state["columns"][name]), f"replay/columns/{name}")

    def _columns(self) -> dict[str, NDArray[Any]]:
        """The storage, by column."""
        storage: Any = self._meta
        columns = {name: storage[name] for name in _COLUMNS}
        return {**columns, "initial_context": storage.info.initial_context}

    def _stored_rows(self) -> list[slice]:
        """Where in the storage each task's transitions are."""
        return [
            slice(int(start), int(start + n))
            for start, n in zip(self._offset, self._lengths, strict=True)
        ]

    def stored_indices(self) -> NDArray[np.int_]:
        """Indices of everything stored, task by task."""
        return np.concatenate(
            [start + np.arange(n) for start, n in zip(self._offset, self._lengths, strict=True)]
        )

    def get(
        self,
        index: int | list[int] | NDArray[np.int_],
        key: str,
        default_value: Any = None,
        stack_num: int | None = None,
    ) -> Batch | NDArray[Any]:
        """As Tianshou's; ``obs`` and ``obs_next`` come with their task's context behind them."""
        value = super().get(index, key, default_value, stack_num)
        if key not in ("obs", "obs_next") or not self.context_dim:
            return value
        contexts = self._contexts[np.asarray(index) // self.size_per_task]
        return np.concatenate((value, contexts), axis=-1)

    def _task_indices(self, owner: str, tasks: Any) -> NDArray[np.int_]:
        indices = require_array(owner, "tasks", tasks, None)
        whole = indices.ndim == 1 and len(indices) > 0 and indices.dtype.kind in "iu"
        if not whole or not 0 <= indices.min() <= indices.max() < self.num_tasks:
            raise ValueError(
                f"{owner} expected tasks to be the indices of one or more tasks, (T,), each from 0 "
                f"to {self.num_tasks - 1}, got {shown(tasks)}."
            )
        return indices

    def _require_data(self, tasks: NDArray[np.int_], *, adaptation: bool) -> None:
        for task in np.unique(tasks):
            buffer = self.task_buffer(task)
            if not (len(buffer.adaptation_indices()) if adaptation else len(buffer)):
                kind = "transitions gathered with the initial context" if adaptation else "data"
                raise ValueError(
                    f"ContextReplayBuffer has no {kind} for task {task}. Collect some first"
                    f"{' with initial_context=True.' if adaptation else '.'}"
                )


def _joined(column: Any) -> Any:
    """A column as a checkpoint holds it (a tensor) or as ``state`` gives it (pieces)."""
    return column.joined() if isinstance(column, Pieces) else column
