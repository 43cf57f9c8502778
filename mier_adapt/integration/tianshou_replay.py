"""Transitions out of the replay buffers of stock Tianshou."""

import logging

import numpy as np
import torch
from tianshou.data import ReplayBuffer

from mier_adapt._checks import checked
from mier_adapt.integration.context_replay import ContextReplayBuffer
from mier_adapt.integration.mixed_replay import MixedReplayBuffer
from mier_adapt.transitions import Transitions

_logger = logging.getLogger(__name__)


@checked
def from_tianshou(buffer: ReplayBuffer) -> Transitions:
    """All transitions of a replay buffer, ``(B, ...)``, in its order.

    Actions are clipped to [-1, 1]: collectors store them as they were before they did so, with all
    of the exploration's noise.

    A buffer with ``ignore_obs_next`` takes a transition's next observation from the row behind it.
    Where there is none, at the end of every episode and at the newest row of every slot, the
    transition is left out, and with it whether the episode terminated; a warning says how many.

    Args:
        buffer: Any of Tianshou's, filled by its collectors: with bare observations of one axis
            and actions that mean [-1, 1].

    Raises:
        TypeError: If it is none, or one of this library's that holds several parts.
        ValueError: If it is empty, what it holds is not what a collector stores, or observations
            are stacked in it, or of no transition the next one is known.
    """
    if isinstance(buffer, ContextReplayBuffer | MixedReplayBuffer):
        raise TypeError(
            "from_tianshou expected a buffer of one task with bare observations, got a "
            f"{type(buffer).__name__}, whose observations end in contexts. Give one of its parts, "
            "buffer.buffers[n]: the nth task of a ContextReplayBuffer (all are .stored()); the "
            "real (0) or the synthetic (1) transitions of a MixedReplayBuffer."
        )
    indices, kept = buffer.sample_indices(0), len(buffer)
    if kept and not buffer._save_obs_next:
        last = buffer.next(indices) == indices
        _logger.warning(
            "from_tianshou left out %d of %d transitions, whose next observations a buffer with "
            "ignore_obs_next does not hold: the ends of episodes, and the newest of every slot. %d "
            "of them terminated, which nothing else will say.",
            last.sum(),
            kept,
            np.asarray(buffer.terminated)[indices[last]].sum(),
        )
        indices = indices[~last]
        kept = len(indices)
    if not kept or buffer.stack_num > 1 or buffer._save_only_last_obs:
        raise ValueError(
            "from_tianshou expected a buffer with transitions whose next observations are known, "
            f"without stack_num and save_only_last_obs, got {kept} of {len(buffer)} transitions "
            f"and {buffer.options}. Let the environment stack observations, and store all of them."
        )
    batch = buffer[indices]
    obs, act, obs_next, rew = (
        np.asarray(getattr(batch, name), dtype=np.float32)
        for name in ("obs", "act", "obs_next", "rew")
    )
    if obs.ndim != 2 or act.ndim != 2 or rew.ndim != 1:
        raise ValueError(
            "from_tianshou expected observations (B, O), actions (B, A) and rewards (B,), got "
            f"shapes {obs.shape}, {act.shape} and {rew.shape}."
        )
    return Transitions(
        obs=torch.from_numpy(obs),
        act=torch.from_numpy(act.clip(-1, 1)),
        rew=torch.from_numpy(rew),
        obs_next=torch.from_numpy(obs_next),
        terminated=torch.from_numpy(np.asarray(batch.terminated, dtype=bool)),
    )
