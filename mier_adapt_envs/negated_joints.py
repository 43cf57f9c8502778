"""Joints that push the wrong way, on any robot: the mask, its control, its tasks."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from mier_adapt_envs.tasks import Task


def masked_control(
    act_BA: NDArray[np.float64], parameters_BP: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the controls: each action times its entry, +1 or -1, of the mask."""
    return parameters_BP * act_BA


def check_mask(parameters: tuple[float, ...]) -> None:
    """Raise a ValueError unless every entry is +1 or -1."""
    if any(entry not in (-1.0, 1.0) for entry in parameters):
        raise ValueError(f"task.parameters must be a mask of +1 and -1, got {parameters}.")


def mask_task(family: str, num_joints: int, negated: Collection[int]) -> Task:
    """Return the task that negates the given joints, counted from 0 (in labels from 1)."""
    mask = tuple(-1.0 if joint in negated else 1.0 for joint in range(num_joints))
    numbers = ",".join(str(joint + 1) for joint in sorted(negated))
    return Task(family, mask, label=f"negated joints {numbers}")
