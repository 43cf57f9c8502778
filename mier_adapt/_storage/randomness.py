"""Every source of random numbers in a run: seeded once, kept in checkpoints."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mier_adapt._storage.files import FOREIGN_ERRORS

_ONE_AT_A_TIME = threading.RLock()  # blocks may be nested


def seed_global_generators(seed: int) -> None:
    """Seed the global NumPy and torch generators, from which stock Tianshou draws."""
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def forked_global_generators(seed: int) -> Iterator[None]:
    """A block in which the global generators start from ``seed``; theirs come back after it.

    Of several threads of a process one at a time is in such a block, since they share the
    generators: two adaptations side by side would take each other's draws.
    """
    with _ONE_AT_A_TIME:
        state = global_generator_state()
        seed_global_generators(seed)
        try:
            yield
        finally:
            set_global_generator_state(state)


@contextmanager
def own_global_generators(state: dict[str, Any]) -> Iterator[None]:
    """A block in which the global generators go on from ``state``, which it brings up to date.

    Where another thread is in such a block, it does not wait, and draws from what it finds.
    """
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        yield
        return
    try:
        before = global_generator_state()
        set_global_generator_state(state)
        try:
            yield
        finally:
            state.update(global_generator_state())
            set_global_generator_state(before)
    finally:
        _ONE_AT_A_TIME.release()


@contextmanager
def kept_global_generators() -> Iterator[None]:
    """A block after which torch's generator of the CPU, which draws initial weights, is as before.

    Unlike a fork it seeds nothing, and so wakes no accelerator.
    """
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        yield


def global_generator_state() -> dict[str, Any]:
    """State of the global NumPy and torch generators, from which Tianshou draws."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    state: dict[str, Any] = {
        "numpy": {
            "kind": kind,
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_global_generator_state(state: dict[str, Any]) -> None:
    """Restore what :func:`global_generator_state` gave.

    Raises:
        ValueError: If the state is unfit; nothing is changed then.
    """
    check_global_generator_state(state)
    np.random.set_state(_numpy_state(state))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def check_global_generator_state(state: Any) -> None:
    """Check that :func:`set_global_generator_state` would take this state.

    Raises:
        ValueError: If it would not.
    """
    try:
        np.random.RandomState().set_state(_numpy_state(state))
        torch.Generator().set_state(state["torch"])
        for one in state.get("cuda", ()):
            if torch.cuda.is_available():
                torch.Generator("cuda").set_state(one)
    except (RuntimeError, *FOREIGN_ERRORS) as error:
        raise ValueError(f"The global generators' state is unfit: {error}") from error


def check_generator_state(generator: np.random.Generator, state: Any) -> None:
    """Check that a generator's own ``bit_generator`` would take this state.

    Raises:
        ValueError: If it would not.
    """
    try:
        type(generator.bit_generator)().state = state
    except FOREIGN_ERRORS as error:
        raise ValueError(f"generator: not a state of ours: {error}") from error


def _numpy_state(state: dict[str, Any]) -> tuple[Any, ...]:
    legacy = state["numpy"]
    keys = legacy["keys"].numpy().astype(np.uint32)
    return legacy["kind"], keys, legacy["position"], legacy["has_gauss"], legacy["gauss"]
