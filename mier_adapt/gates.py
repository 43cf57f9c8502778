"""Gates: which candidate is handed back, by what real episodes say. Each is a :class:`.Gate`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mier_adapt._checks import NonNegative, Size, checked_fields
from mier_adapt.protocols import Candidate


@dataclass(frozen=True, kw_only=True)
class MarginGate:
    """The last candidate replaces the first where its episodes are better by a margin.

    Raises:
        ValueError: If there are no episodes, or the margin is negative.
    """

    episodes: Size = 1
    """Deterministic real episodes of each of the two."""
    margin: NonNegative = 0.04
    """By how much, as a share of the first one's return, the last has to be better. On
    meta-training tasks, 4% keeps 19 of 20 policies out that are truly worse."""

    def __post_init__(self) -> None:
        checked_fields(self)

    def choose(
        self, candidates: Sequence[Candidate], play: Callable[[Any, int], tuple[float, ...]]
    ) -> tuple[Candidate, str]:
        """As :meth:`.Gate.choose`."""
        safe, last = candidates[0], candidates[-1]
        if safe is last:
            return safe, "nothing else was made"
        before, after = (
            math.fsum(play(each, self.episodes)) / self.episodes for each in (safe, last)
        )
        told = f"{after:.0f} in {self.episodes} real episode(s), against {before:.0f} before"
        if after > before + self.margin * abs(before):
            return last, f"it returned {told}"
        wanted = f"and has to be {self.margin:.0%} better"
        return safe, f"the candidate returned {told}, {wanted}"


@dataclass(frozen=True)
class AlwaysGate:
    """The last candidate is handed back unseen (paper)."""

    def choose(
        self, candidates: Sequence[Candidate], play: Callable[[Any, int], tuple[float, ...]]
    ) -> tuple[Candidate, str]:
        """As :meth:`.Gate.choose`."""
        return candidates[-1], "there is no gate"


@dataclass(frozen=True)
class NeverGate:
    """The first candidate is handed back, whatever was made: for measuring alone."""

    def choose(
        self, candidates: Sequence[Candidate], play: Callable[[Any, int], tuple[float, ...]]
    ) -> tuple[Candidate, str]:
        """As :meth:`.Gate.choose`."""
        return candidates[0], "the gate lets nothing pass"
