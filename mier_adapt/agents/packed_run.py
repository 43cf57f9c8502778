"""Packed runs: some whole episodes of every task, in 16 bits a number, and no target critics.

An exported run takes no more of its experience than relabeling and rehearsal need. Within an
episode a transition's ``obs_next`` is the next one's ``obs``: only the others are stored. Target
critics lag behind critics that move; those of a run that has ended begin where the critics are.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mier_adapt._storage.files import require_kinds
from mier_adapt.integration import ContextReplayBuffer

_QUANTIZED = ("obs", "act", "rew", "obs_next")
_LEVELS = 2**16 - 1
"""Steps between a column's least and largest value."""


def pack_algorithm(state: dict[str, Any]) -> dict[str, Any]:
    """An algorithm's state without its target critics; :func:`unpack_algorithm` takes it."""
    targets = {_target_of(name) for name in state["algorithm"]}
    tensors = {name: each for name, each in state["algorithm"].items() if name not in targets}
    return {**state, "algorithm": tensors}


def unpack_algorithm(state: dict[str, Any]) -> dict[str, Any]:
    """An algorithm's state with target critics: where there are none, the critics themselves."""
    tensors = dict(state["algorithm"])
    for name, each in state["algorithm"].items():
        if target := _target_of(name):
            tensors.setdefault(target, each)
    return {**state, "algorithm": tensors}


def _target_of(name: str) -> str | None:
    """What Tianshou calls the lagged copy of a critic's tensor."""
    module, _, rest = name.partition(".")
    return f"{module}_old.module.{rest}" if module in ("critic", "critic2") else None


def pack_replay(
    replay: ContextReplayBuffer, *, episodes: int, episode_steps: int
) -> dict[str, Any]:
    """A replay's state with at most ``episodes`` episodes of each task.

    One half of them was gathered with the initial context and the other with adapted ones,
    where there are enough of both; each is spread evenly over the task's history, up to the newest.

    Args:
        replay: The whole experience; not changed.
        episodes: Most episodes of each task.
        episode_steps: Transitions of an episode, the unit in which experience was gathered.

    Returns:
        A tree of tensors and plain values, copies; :func:`unpack_replay` takes it.
    """
    state = replay.state()
    columns = state["columns"]
    picks = [
        torch.from_numpy(_spread(initial.numpy(), insertion, episodes, episode_steps))
        for initial, insertion in zip(
            columns["initial_context"].parts, state["insertion"], strict=True
        )
    ]
    packed: dict[str, Any] = {
        name: torch.cat([part[rows] for part, rows in zip(column.parts, picks, strict=True)])
        for name, column in columns.items()
    }
    obs, obs_next = packed["obs"], packed["obs_next"]
    packed["chained"] = torch.zeros(len(obs), dtype=torch.bool)
    packed["chained"][:-1] = (obs_next[:-1] == obs[1:]).all(1)
    packed["obs_next"] = obs_next[~packed["chained"]]
    packed |= {name: _quantized(packed[name]) for name in _QUANTIZED}
    lengths = [len(rows) for rows in picks]
    return {**state, "columns": packed, "lengths": lengths, "insertion": lengths}


def unpack_replay(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a replay from :func:`pack_replay`'s; any other state is given back as it is.

    Raises:
        ValueError: If the observations cannot be put together again.
    """
    columns: dict[str, Any] = dict(state["columns"])
    if "chained" not in columns:
        return state
    for name in _QUANTIZED:
        if isinstance(columns.get(name), dict):  # plain tensors in runs of release 0.1
            columns[name] = _restored(columns[name], name)
    parts: Any = (columns.pop("chained"), columns.get("obs"), columns.get("obs_next"))
    chained, obs, last = parts
    if (
        not all(isinstance(each, torch.Tensor) for each in (chained, obs, last))
        or chained.dtype != torch.bool
        or chained.shape != obs.shape[:1]
        or last.shape != (int((~chained).sum()), *obs.shape[1:])
        or last.dtype != obs.dtype
    ):
        raise ValueError("replay: its packed observations do not belong together.")
    columns["obs_next"] = obs.roll(-1, 0)
    columns["obs_next"][~chained] = last
    return {**state, "columns": columns}


def _quantized(column: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each of a column's numbers as one of 65,536 between its dimension's extremes."""
    low = column.amin(0).double()
    step = (column.amax(0).double() - low) / _LEVELS
    codes = ((column.double() - low) / torch.where(step > 0, step, 1)).round()
    return {"codes": (codes - 2**15).to(torch.int16), "low": low, "step": step}


def _restored(column: dict[str, Any], name: str) -> torch.Tensor:
    """What :func:`_quantized` was given, within half a step."""
    require_kinds({"codes": torch.Tensor, "low": torch.Tensor, "step": torch.Tensor}, column, name)
    codes, low, step = (column[part] for part in ("codes", "low", "step"))
    if (
        codes.dtype != torch.int16
        or codes.dim() not in (1, 2)
        or not low.shape == step.shape == codes.shape[1:]
        or not low.dtype == step.dtype == torch.float64
    ):
        raise ValueError(f"replay/columns/{name}: its codes, low and step do not belong together.")
    values: torch.Tensor = low + (codes.double() + 2**15) * step
    return values if name == "rew" else values.float()


def _spread(
    initial_context: NDArray[np.bool_], insertion: int, episodes: int, episode_steps: int
) -> NDArray[np.int_]:
    """Rows of one task's ring that are kept, in the order in which they were gathered."""
    length = len(initial_context)
    order = (insertion + np.arange(length)) % max(length, 1)
    # Episodes are whole from the newest back; of the oldest a full ring may hold a part.
    whole = order[length % episode_steps :].reshape(-1, episode_steps)
    initial = initial_context[whole[:, 0]]
    kinds = np.flatnonzero(initial), np.flatnonzero(~initial)
    adapted = min(len(kinds[1]), max(episodes // 2, episodes - len(kinds[0])))
    counts = min(len(kinds[0]), episodes - adapted), adapted
    kept = [
        kind[np.arange(1, count + 1) * len(kind) // max(count, 1) - 1]
        for kind, count in zip(kinds, counts, strict=True)
    ]
    return whole[np.sort(np.concatenate(kept))].reshape(-1)
