"""The spaces that this library takes: vectors."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box


def vector_space(owner: str, name: str, space: Any, *, bounded: bool = False) -> Box:
    """A space, known to be one of floating-point vectors.

    Raises:
        ValueError: If it is not; the message says how to wrap the environment.
    """
    if (
        not isinstance(space, Box)
        or len(space.shape) != 1
        or not np.issubdtype(space.dtype, np.floating)
    ):
        raise ValueError(
            f"{owner} expected {name} to be a Box of one axis and a floating-point dtype, got "
            f"{space}. Wrap the environment, for example in "
            "gymnasium.wrappers.FlattenObservation or DtypeObservation."
        )
    if bounded and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(
            f"{owner} expected {name} to have bounds, got {space}. Wrap the environment in "
            "gymnasium.wrappers.RescaleAction, or clip its actions to a Box of your own."
        )
    return space
