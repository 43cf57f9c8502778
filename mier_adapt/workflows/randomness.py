"""Every source of random numbers in a run: seeded once, kept in checkpoints."""

from typing import Any

import numpy as np
import torch

__all__ = ["global_generator_state", "seed_global_generators", "set_global_generator_state"]


def seed_global_generators(seed: int) -> None:
    """Seed the global NumPy and torch generators, from which stock Tianshou draws."""
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


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
    """Restore what :func:`global_generator_state` gave."""
    numpy_state = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        (
            numpy_state["kind"],
            numpy_state["keys"].numpy().astype(np.uint32),
            numpy_state["position"],
            numpy_state["has_gauss"],
            numpy_state["gauss"],
        )
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
