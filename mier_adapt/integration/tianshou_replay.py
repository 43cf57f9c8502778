"""Transitions out of the replay buffers of stock Tianshou."""

import numpy as np
import torch
from tianshou.data import ReplayBuffer

from mier_adapt._checks import checked, require_unit
from mier_adapt.transitions import Transitions


@checked
def from_tianshou(buffer: ReplayBuffer) -> Transitions:
    """All transitions of a replay buffer, ``(B, ...)``, in its order.

    Args:
        buffer: Any of Tianshou's, filled by its collectors: with bare observations of one axis
            and actions in [-1, 1].

    Raises:
        TypeError: If it is none.
        ValueError: If it is empty, or what it holds is not what a collector stores.
    """
    if not len(buffer):
        raise ValueError("from_tianshou expected a buffer with transitions, got an empty one.")
    batch = buffer[buffer.sample_indices(0)]
    obs, act, obs_next, rew = (
        np.asarray(getattr(batch, name), dtype=np.float32)
        for name in ("obs", "act", "obs_next", "rew")
    )
    if obs.ndim != 2 or act.ndim != 2 or rew.ndim != 1:
        raise ValueError(
            "from_tianshou expected observations (B, O), actions (B, A) and rewards (B,), got "
            f"shapes {obs.shape}, {act.shape} and {rew.shape}."
        )
    require_unit("from_tianshou", "the buffer's actions", act)
    return Transitions(
        obs=torch.from_numpy(obs),
        act=torch.from_numpy(act),
        rew=torch.from_numpy(rew),
        obs_next=torch.from_numpy(obs_next),
        terminated=torch.from_numpy(np.asarray(batch.terminated, dtype=bool)),
    )
