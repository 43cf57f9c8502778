"""MixedReplayBuffer: a new task's real and synthetic transitions, in a fixed ratio."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tianshou.data import Batch, ReplayBuffer
from tianshou.data.buffer.manager import ReplayBufferManager

from mier_adapt._checks import Share, Size, checked, require_tensor
from mier_adapt._typing import Float, Tensor
from mier_adapt.integration.task_replay import FilledByStretches, TaskReplayBuffer, allocate
from mier_adapt.transitions import OneTask, Transitions

_REAL, _SYNTHETIC = 0, 1


class MixedReplayBuffer(FilledByStretches, ReplayBufferManager):
    """A region of real and a region of synthetic transitions of one task.

    Every sample holds ``round(real_fraction * batch_size)`` real transitions, and the task's
    context behind ``obs`` and ``obs_next``. Synthetic transitions have no successor: train on
    them with an ``n_step_return_horizon`` of 1.

    Args:
        real_size: Capacity for real transitions.
        synthetic_size: Capacity for synthetic ones; beyond it the oldest are overwritten.
        obs_dim: Dimensions of a bare observation.
        act_dim: Dimensions of an action.
        context: The task's context as the policy knows it, shape ``(C,)``; empty for a
            policy that knows none.
        real_fraction: Share of real transitions in a sample, from 0 to 1 (paper: 0.05).
        generator: Draws the samples.

    Raises:
        ValueError: If a size, the fraction or the context is out of range.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, Algorithm 2.
    """

    @checked
    def __init__(
        self,
        real_size: Size,
        synthetic_size: Size,
        *,
        obs_dim: Size,
        act_dim: Size,
        context: Float[Tensor, " C"],
        real_fraction: Share = 0.05,
        generator: np.random.Generator,
    ) -> None:
        require_tensor("MixedReplayBuffer", "context", context, (context.numel(),))
        regions: list[ReplayBuffer] = [
            TaskReplayBuffer(real_size),
            TaskReplayBuffer(synthetic_size),
        ]
        super().__init__(regions)
        self.set_batch(allocate(self.maxsize, obs_dim, act_dim))
        self.real_fraction = real_fraction
        self.generator = generator
        self._context = context.detach().cpu().numpy().astype(np.float32)

    @property
    def num_real(self) -> int:
        """Real transitions held."""
        return int(self._lengths[_REAL])

    @property
    def num_synthetic(self) -> int:
        """Synthetic transitions held."""
        return int(self._lengths[_SYNTHETIC])

    @checked
    def extend_real(
        self, transitions: OneTask, *, truncated: NDArray[np.bool_] | None = None
    ) -> None:
        """Append real transitions, ``(B, ...)``."""
        self._extend(_REAL, transitions, truncated)

    @checked
    def extend_synthetic(self, transitions: OneTask) -> None:
        """Append synthetic transitions, ``(B, ...)``."""
        self._extend(_SYNTHETIC, transitions, None)

    def sample_indices(self, batch_size: int | None) -> NDArray[np.int_]:
        """Draw in the fixed ratio; 0 gives all indices in order.

        Raises:
            ValueError: If a region that the ratio asks for is empty.
        """
        if batch_size is None or batch_size == 0:
            everything = np.concatenate(
                [start + np.arange(n) for start, n in zip(self._offset, self._lengths, strict=True)]
            )
            return everything if batch_size == 0 else self.generator.permutation(everything)
        num_real = round(self.real_fraction * batch_size)
        parts = []
        for region, count in ((_REAL, num_real), (_SYNTHETIC, batch_size - num_real)):
            if count and not self._lengths[region]:
                name = "real" if region == _REAL else "synthetic"
                raise ValueError(
                    f"MixedReplayBuffer was asked for {count} {name} transitions and holds none. "
                    f"Call extend_{name} first, or change real_fraction ({self.real_fraction})."
                )
            if count:
                picks = self.generator.integers(self._lengths[region], size=count)
                parts.append(self._offset[region] + picks)
        return np.concatenate(parts)

    def get(
        self,
        index: int | list[int] | NDArray[np.int_],
        key: str,
        default_value: Any = None,
        stack_num: int | None = None,
    ) -> Batch | NDArray[Any]:
        """As Tianshou's; ``obs`` and ``obs_next`` come with the context behind them."""
        value = super().get(index, key, default_value, stack_num)
        if key not in ("obs", "obs_next") or not len(self._context):
            return value
        assert isinstance(value, np.ndarray)
        contexts = np.broadcast_to(self._context, (*value.shape[:-1], len(self._context)))
        return np.concatenate((value, contexts), axis=-1)

    def _extend(
        self, region: int, transitions: Transitions, truncated: NDArray[np.bool_] | None
    ) -> None:
        buffer: TaskReplayBuffer = self.buffers[region]
        indices = buffer.extend(transitions, truncated=truncated)
        self.last_index[region] = indices[-1] + self._offset[region]
        self._lengths[region] = len(buffer)
