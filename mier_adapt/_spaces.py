"""The spaces that this library takes: vectors."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box


def vector_space(owner: str, name: str, space: Any, *, bounded: bool = False) -> Box:
    """A space, known to be one of floating-point vectors.

    Raises:
        ValueError: If it is not; the message says how to wrap the environment.
    """
    if helps := _what_helps(space, action="action" in name):
        raise ValueError(
            f"{owner} expected {name} to be a Box of one axis and a floating-point dtype, got a "
            f"{type(space).__name__}, {space}. {helps}"
        )
    box: Box = space
    if bounded and not (np.isfinite(box.low).all() and np.isfinite(box.high).all()):
        raise ValueError(
            f"{owner} expected {name} to have bounds, got {space}. Wrap the environment in "
            "gymnasium.wrappers.RescaleAction, or clip its actions to a Box of your own."
        )
    return box


def _what_helps(space: Any, *, action: bool) -> str:
    """How to make vectors of a space that is not one of them; empty for one that is."""
    if isinstance(space, Box):
        if len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
            return ""
        if not action:
            wrappers = ["FlattenObservation"] * (len(space.shape) != 1)
            wrappers += ["DtypeObservation"] * (not np.issubdtype(space.dtype, np.floating))
            return (
                f"Wrap the environment in gymnasium.wrappers.{' and '.join(wrappers)}. Of images, "
                "features serve better: gymnasium.wrappers.TransformObservation."
            )
    elif not action:
        return (
            "Wrap the environment in gymnasium.wrappers.FlattenObservation, which joins the parts "
            "and makes numbers one-hot, and in DtypeObservation for np.float32."
        )
    return (
        "Policies here act on continuous vectors: wrap the environment in "
        "gymnasium.wrappers.TransformAction, with a function that makes its actions of those."
    )
