"""Minari datasets as transitions, and transitions as Minari datasets."""

import importlib
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from mier_adapt._checks import checked, require_unit, shown
from mier_adapt._spaces import vector_space
from mier_adapt._storage.files import FOREIGN_ERRORS
from mier_adapt.transitions import OneTask, Transitions


@checked
def from_minari(dataset: Any, *, dtype: torch.dtype = torch.float32) -> Transitions:
    """Read a Minari dataset: experience of one task, for relabeling or for a replay buffer.

    Actions are rescaled from the bounds of the dataset's action space to [-1, 1], and clipped
    there, as an environment would clip them.

    Example:
        >>> transitions = from_minari("mujoco/halfcheetah/medium-v0")  # doctest: +SKIP

    Args:
        dataset: A ``minari.MinariDataset``, or the name of one that was downloaded before
            (``minari download NAME``).
        dtype: Floating-point type of the result.

    Returns:
        All episodes' transitions, ``(B, ...)``, in order. Truncations are not kept: a time limit
        does not end a task.

    Raises:
        ImportError: If minari is not installed.
        FileNotFoundError: If there is no dataset of that name.
        ValueError: If observations or actions are not vectors, actions are unbounded and outside
            [-1, 1], a value is not finite, or Minari cannot read the dataset.
        TypeError: If an argument is of another type.
    """
    minari = _import_minari()
    if not dtype.is_floating_point:
        raise TypeError(f"from_minari expected dtype to be a floating-point one, got {dtype!r}.")
    if isinstance(dataset, str):
        with _read_by_minari():
            dataset = minari.load_dataset(dataset)
    if not isinstance(dataset, minari.MinariDataset):
        raise TypeError(
            f"from_minari expected dataset to be a MinariDataset or its name, got {shown(dataset)}."
        )
    for name in ("observation_space", "action_space"):
        vector_space("from_minari", f"a dataset whose {name}", getattr(dataset, name))
    columns: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("obs", "act", "rew", "obs_next", "terminated")
    }
    with _read_by_minari():
        for episode in dataset.iterate_episodes():
            observations = np.asarray(episode.observations)
            columns["obs"].append(observations[:-1])
            columns["obs_next"].append(observations[1:])
            columns["act"].append(_to_unit(np.asarray(episode.actions), dataset.action_space))
            columns["rew"].append(np.asarray(episode.rewards))
            columns["terminated"].append(np.asarray(episode.terminations, dtype=bool))
    if not columns["obs"]:
        raise ValueError("from_minari expected a dataset with at least one episode, got none.")
    joined = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items()}
    terminated = joined.pop("terminated")
    return Transitions(
        **{name: values.to(dtype) for name, values in joined.items()}, terminated=terminated
    )


@checked
def to_minari(
    transitions: OneTask,
    dataset_id: str,
    *,
    truncated: NDArray[np.bool_] | None = None,
    **metadata: Any,
) -> Any:
    """Keep transitions as a Minari dataset.

    A new episode begins where the one before terminated, where it was ``truncated``, and where an
    observation does not go on from the one before: transitions without an order become episodes of
    one step. Transitions alone do not say more: neither that a time limit cut an episode where the
    next one starts in the same state, nor what the last step was cut by, nor the environment's
    units and bounds. Actions stay in [-1, 1], and the dataset names no environment, unless
    ``metadata`` does.

    Args:
        transitions: ``(B, ...)``, actions in [-1, 1].
        dataset_id: Minari's name for it, such as ``"mine/half-cheetah/negated-v0"``.
        truncated: Where an episode ended otherwise than for good, ``(B,)``.
        **metadata: As for ``minari.create_dataset_from_buffers``: ``description``, ``author``, …

    Returns:
        The ``minari.MinariDataset``, which is in Minari's directory of datasets.

    Raises:
        ImportError: If minari is not installed.
        ValueError: If the transitions are of several tasks, actions are outside [-1, 1], or
            ``truncated`` has another shape; or by Minari, if there is a dataset of that name.
    """
    minari = _import_minari()
    if not re.search(r"-v\d+$", dataset_id):
        raise ValueError(f"to_minari expected dataset_id to end as in -v0, got {dataset_id!r}.")
    obs, act, rew, obs_next, terminated = (
        getattr(transitions, name).detach().cpu().numpy()
        for name in ("obs", "act", "rew", "obs_next", "terminated")
    )
    require_unit("to_minari", "actions of transitions", act)
    if truncated is not None and (truncated.shape != terminated.shape or truncated.dtype != bool):
        raise ValueError(
            f"to_minari expected truncated of shape {terminated.shape} and bool, to go with the "
            f"transitions, got {truncated.shape} and {truncated.dtype}."
        )
    over = terminated if truncated is None else terminated | truncated
    goes_on = transitions.follows.cpu().numpy() & ~over[:-1]
    starts = [0, *(np.flatnonzero(~goes_on) + 1).tolist(), len(obs)]
    episodes = []
    for number, (start, end) in enumerate(itertools.pairwise(starts)):
        ends_for_good = terminated[start:end]
        cut = np.zeros(end - start, dtype=bool)
        cut[-1] = not ends_for_good[-1]
        episodes.append(
            minari.data_collector.EpisodeBuffer(
                id=number,
                observations=np.concatenate((obs[start:end], obs_next[end - 1 : end])),
                actions=act[start:end],
                rewards=rew[start:end],
                terminations=ends_for_good,
                truncations=cut,
                infos={},
            )
        )
    return minari.create_dataset_from_buffers(
        dataset_id,
        episodes,
        observation_space=spaces.Box(-np.inf, np.inf, obs.shape[1:], obs.dtype.type),
        action_space=spaces.Box(-1.0, 1.0, act.shape[1:], act.dtype.type),
        **metadata,
    )


@contextmanager
def _read_by_minari() -> Iterator[None]:
    """A block in which Minari reads files that may be anyone's, and fails in ways of its own."""
    try:
        yield
    except (FileNotFoundError, ValueError):
        raise
    except (AssertionError, MemoryError, OSError, RuntimeError, *FOREIGN_ERRORS) as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
        raise ValueError(f"from_minari expected a whole dataset, got {problem}") from error


def _to_unit(act: NDArray[Any], space: spaces.Box) -> NDArray[Any]:
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        require_unit("from_minari", "actions of a dataset without bounds", act)
        return act
    if not ((space.low == -1).all() and (space.high == 1).all()):
        width = space.high - space.low
        # Where there is but one action, any stands for it: 0, in the middle of [-1, 1].
        scaled = 2 * (act - space.low) / np.where(width > 0, width, 1) - 1
        act = np.where(width > 0, scaled, 0)
    return np.asarray(act.clip(-1, 1))


def _import_minari() -> Any:
    try:
        minari = importlib.import_module("minari")
        importlib.import_module("minari.data_collector")
    except ImportError as error:
        raise ImportError(
            "Minari datasets need minari: pip install 'mier-adapt[minari]'"
        ) from error
    return minari
