"""Tasks that name a heading in the plane."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mier_adapt_envs.tasks import Task


def along(vector_BX: NDArray[np.float64], direction_B: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the component ``(B,)`` of each vector's x and y along a direction in rad."""
    component_B: NDArray[np.float64] = vector_BX[:, 0] * np.cos(direction_B) + vector_BX[
        :, 1
    ] * np.sin(direction_B)
    return component_B


def direction_tasks(family: str, directions: Iterable[float]) -> tuple[Task, ...]:
    """Return one task per direction in rad, counter-clockwise from the x-axis."""
    return tuple(
        Task(family, (direction,), label=f"direction {math.degrees(direction):.1f}°")
        for direction in directions
    )
