"""TaskReplayBuffer: one task's transitions, and which of them may identify the task."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.data import Batch, ReplayBuffer
from tianshou.data.buffer.manager import ReplayBufferManager

from mier_adapt.transitions import Transitions


class FilledByStretches(ReplayBuffer):
    """A replay buffer that Tianshou's collectors cannot fill."""

    def add(self, *_: Any, **__: Any) -> Any:
        """Refused: what a collector adds does not say under which context it was gathered.

        Raises:
            TypeError: Always; the message says what to call.
        """
        ways = ", ".join(each for each in dir(self) if each.startswith("extend"))
        raise TypeError(
            f"{type(self).__name__} takes no single steps, of a Collector say. Collect into a "
            f"VectorReplayBuffer, read it with from_tianshou, and give that to {ways}."
        )

    update = add

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As Tianshou's; of a copy, too, tasks' buffers are views of what holds them all."""
        super().__setstate__(state)
        if isinstance(self, ReplayBufferManager):
            self._set_batch_for_children()


class TaskReplayBuffer(FilledByStretches):
    """A ring of one task's transitions that remembers under which context they were gathered.

    Only transitions gathered with the *initial* context may serve as adaptation data: at
    meta-test nothing else will be there when a task has to be identified. ``info`` holds that
    flag as ``initial_context``.

    Transitions come in whole stretches (:meth:`extend`), in the order in which they happened.

    Args:
        size: Capacity in transitions; beyond it the oldest are overwritten.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, Algorithm 1.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(size, **kwargs)
        self._adaptation_indices: NDArray[np.int_] | None = None

    def extend(
        self,
        transitions: Transitions,
        *,
        truncated: NDArray[np.bool_] | None = None,
        initial_context: bool = False,
    ) -> NDArray[np.int_]:
        """Append a stretch of transitions, ``(B, ...)``, overwriting the oldest when full.

        Args:
            transitions: In the order of time. Of more than the capacity, the last are kept, in
                single precision.
            truncated: ``(B,)``, where a time limit cut an episode; nowhere by default.
            initial_context: Whether all were gathered with the initial context.

        Returns:
            The indices that were written.

        Raises:
            ValueError: If a shape does not fit what is stored already.
        """
        count = len(transitions)
        transitions = transitions.detach().to("cpu", torch.float32)
        obs, act = transitions.obs.numpy(), transitions.act.numpy()
        if not self._meta.get_keys():
            self.set_batch(allocate(self.maxsize, obs.shape[-1], act.shape[-1]))
        stored = (self._meta.obs.shape[-1], self._meta.act.shape[-1])
        if (obs.shape[-1], act.shape[-1]) != stored:
            raise ValueError(
                f"extend expected observations and actions of {stored} dimensions, as the buffer "
                f"holds, got {(obs.shape[-1], act.shape[-1])}."
            )
        truncated = np.zeros(count, dtype=bool) if truncated is None else truncated
        if truncated.shape != (count,) or truncated.dtype != np.bool_:
            raise ValueError(
                f"extend expected truncated of shape ({count},), got {truncated.shape}, and of "
                f"bool, got {truncated.dtype}."
            )
        kept = slice(max(0, count - self.maxsize), count)
        terminated = transitions.terminated.numpy()
        columns: dict[str, NDArray[Any]] = {
            "obs": obs,
            "act": act,
            "rew": transitions.rew.numpy(),
            "obs_next": transitions.obs_next.numpy(),
            "terminated": terminated,
            "truncated": truncated,
            "done": terminated | truncated,
        }
        indices = (self._insertion_idx + np.arange(kept.stop - kept.start)) % self.maxsize
        for name, column in columns.items():
            self._storage[name][indices] = column[kept]
        self._storage.info.initial_context[indices] = initial_context
        self._size = min(self._size + len(indices), self.maxsize)
        self._insertion_idx = int((indices[-1] + 1) % self.maxsize)
        self._ep_start_idx = self._insertion_idx
        self.last_index[0] = indices[-1]
        self._adaptation_indices = None
        return indices

    def restore(self, size: int, insertion_index: int) -> int:
        """Declare the first ``size`` rows filled; return the index of the newest."""
        self._size, self._insertion_idx = size, insertion_index
        self._ep_start_idx = insertion_index
        self.last_index[0] = (insertion_index - 1) % self.maxsize if size else 0
        self._adaptation_indices = None
        return int(self.last_index[0])

    @property
    def _storage(self) -> Any:
        return self._meta  # allocate's Batch, whose fields no type describes

    def reset(self, keep_statistics: bool = False) -> None:
        """Forget all transitions, as Tianshou's."""
        super().reset(keep_statistics)
        self._adaptation_indices = None

    def adaptation_indices(self) -> NDArray[np.int_]:
        """Indices of the transitions that were gathered with the initial context, oldest first."""
        if self._adaptation_indices is None:
            order = np.empty(0, dtype=np.int_)
            if self._size:
                order = self.last_indices(self._size)
                order = order[self._storage.info.initial_context[order]]
            self._adaptation_indices = order
        return self._adaptation_indices

    def last_indices(self, count: int) -> NDArray[np.int_]:
        """Indices of the ``count`` transitions that were stored last, in order."""
        return (self._insertion_idx - count + np.arange(count)) % len(self)

    def transitions(self, indices: NDArray[np.int_]) -> Transitions:
        """The stored transitions at these indices (of any shape), as tensors."""
        return gather(self._storage, indices)


def allocate(size: int, obs_dim: int, act_dim: int) -> Batch:
    """Zeroed storage for ``size`` transitions, in the form of Tianshou's buffers."""
    return Batch(
        obs=np.zeros((size, obs_dim), dtype=np.float32),
        act=np.zeros((size, act_dim), dtype=np.float32),
        rew=np.zeros(size),
        terminated=np.zeros(size, dtype=bool),
        truncated=np.zeros(size, dtype=bool),
        done=np.zeros(size, dtype=bool),
        obs_next=np.zeros((size, obs_dim), dtype=np.float32),
        info=Batch(initial_context=np.zeros(size, dtype=bool)),
    )


def gather(storage: Any, indices: NDArray[np.int_]) -> Transitions:
    """Rows of :func:`allocate`'s storage, as tensors with the indices' leading axes."""
    return Transitions._trusted(
        torch.from_numpy(storage.obs[indices]),
        torch.from_numpy(storage.act[indices]),
        torch.from_numpy(storage.rew[indices].astype(np.float32)),
        torch.from_numpy(storage.obs_next[indices]),
        torch.from_numpy(storage.terminated[indices]),
    )
