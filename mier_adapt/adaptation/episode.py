"""Episode: what a robot did from a start to its end, and who acted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mier_adapt.transitions import Transitions

NO_VERSION = -1
"""In place of a version's number, where something else acted."""
EXCITED = -2
"""In its place where noise moved a robot that had come to rest while it gathered."""


@dataclass(frozen=True, eq=False)
class Episode:
    """A real one, all of it; or transitions that were logged, in which nobody is known to act."""

    real: Transitions
    """Shape ``(B, ...)``, actions in [-1, 1]."""
    truncated: NDArray[np.bool_]
    """Where it ended otherwise than for good, ``(B,)``."""
    acted: int = NO_VERSION
    """The number of the version that acted, :data:`NO_VERSION` or :data:`EXCITED`."""
    policy: str = ""
    """What acted, by name; empty where it was logged."""

    @property
    def returned(self) -> float:
        """Its undiscounted return."""
        return float(self.real.rew.sum())
