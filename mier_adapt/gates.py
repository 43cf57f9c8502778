"""Gates: which candidate is handed back, by what real episodes say. Each is a :class:`.Gate`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from mier_adapt._checks import NonNegative, Range, Size, checked_fields
from mier_adapt.protocols import Candidate


@dataclass(frozen=True, kw_only=True)
class MarginGate:
    """A candidate replaces the one before where its episodes are better by a margin.

    The first stands until another is better; the others come in turn. While the pairs of episodes,
    which share their starts, leave doubt on which side of the margin the mean difference lies,
    another pair is played, up to ``most_episodes``.

    Raises:
        ValueError: If there are no episodes, or a number is out of range.
    """

    episodes: Size = 1
    """Deterministic real episodes of each of the two."""
    margin: NonNegative = 0.04
    """By how much, as a share of the first one's return, the last has to be better. On
    meta-training tasks, 4% keeps 19 of 20 policies out that are truly worse."""
    most_episodes: Size = 1
    """Episodes of each, at most, where the first ones leave doubt. More than ``episodes`` make at
    least two: one pair says nothing about how much returns vary."""
    confidence: Annotated[float, Range(least=0.5, most=1)] = 0.95
    """Of a one-sided paired t-test, from which on there is no doubt."""

    def __post_init__(self) -> None:
        checked_fields(self)

    def choose(
        self, candidates: Sequence[Candidate], play: Callable[[Any, int], tuple[float, ...]]
    ) -> tuple[Candidate, str]:
        """As :meth:`.Gate.choose`."""
        kept, told = candidates[0], "nothing else was made"
        played: dict[int, tuple[float, ...]] = {id(each): () for each in candidates}

        def returns(candidate: Candidate, episodes: int) -> tuple[float, ...]:
            """Of so many episodes, those that were played before among them."""
            if missing := episodes - len(played[id(candidate)]):
                played[id(candidate)] += play(candidate, max(0, missing))
            return played[id(candidate)][:episodes]

        for other in candidates[1:]:
            pair = kept, other
            before, after = (returns(each, self.episodes) for each in pair)
            while len(after) < self.most_episodes and self._doubt(before, after):
                before, after = (returns(each, len(after) + 1) for each in pair)
            old, new = (math.fsum(each) / len(each) for each in (before, after))
            said = f"{new:.0f} in {len(after)} real episode(s), against {old:.0f} before"
            if len(after) > 1 and self.most_episodes > self.episodes:
                said += f" (doubt {self._p_value(before, after):.2f})"
            if new > old + self.margin * abs(old):
                kept, told = other, f"it returned {said}"
            elif kept is candidates[0]:
                told = f"the candidate returned {said}, and has to be {self.margin:.0%} better"
        return kept, told

    def _doubt(self, before: Sequence[float], after: Sequence[float]) -> bool:
        return len(after) < 2 or self._p_value(before, after) > 1 - self.confidence

    def _p_value(self, before: Sequence[float], after: Sequence[float]) -> float:
        """Of the mean difference being on the other side of the margin than it was seen on."""
        margin = self.margin * abs(math.fsum(before) / len(before))
        beyond = [new - old - margin for old, new in zip(before, after, strict=True)]
        mean = math.fsum(beyond) / len(beyond)
        variance = math.fsum((each - mean) ** 2 for each in beyond) / (len(beyond) - 1)
        if variance == 0:
            return 0.0 if mean else 0.5
        from scipy import stats  # takes as long to load as all else here

        return float(stats.t.sf(abs(mean) / math.sqrt(variance / len(beyond)), len(beyond) - 1))


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
