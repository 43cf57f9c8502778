"""Progress: which policy of an adaptation that goes on acts next, and which one is kept."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(eq=False)
class Version:
    """A policy, and what its real episodes returned."""

    candidate: Any
    """What acts; None once it can be neither kept nor judged any more."""
    number: int
    """Its own: of one that is gone, too, it is never another's."""
    returns: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Of the returns; there is at least one."""
        return float(np.mean(self.returns))

    def copy(self) -> "Version":
        """The same policy, with returns that go on by themselves."""
        return dataclasses.replace(self, returns=list(self.returns))


class Progress:
    """Real episodes, which are gathered anyway, decide between policies.

    Those that came before any learning stand first, and each plays an episode. Those that learning
    makes come one by one, with an episode each: one return says little, so that several in a row
    are judged by their mean.

    Args:
        first: What came before any learning, the safe one in front.
        window: How many in a row.
        margin: By how much, as a share of what the safe one returned, others have to be better; and
            what learning made may be as much worse than the best of the first ones.
        returns: Of episodes that the safe one has played already.
        numbered: Versions that were numbered before.
    """

    def __init__(
        self,
        first: Sequence[Any],
        *,
        window: int,
        margin: float,
        returns: Sequence[float] = (),
        numbered: int = 0,
    ) -> None:
        self.first: list[Version] = []
        self.learned: list[Version] = []
        self.numbered = numbered
        """Versions so far, those before included."""
        for each in first:
            self.offer(each)
        self.first[0].returns += returns
        self._window, self._margin = window, margin
        self._returned = 0  # the first version that was learned since what was kept was restored

    @property
    def versions(self) -> list[Version]:
        """All of them."""
        return [*self.first, *self.learned]

    def version(self, number: int) -> Version | None:
        """The one of that number; None if it is none of these any more."""
        return next((each for each in self.versions if each.number == number), None)

    def copy(self) -> "Progress":
        """A progress that goes on by itself, with the same policies."""
        other = copy.copy(self)
        other.first = [each.copy() for each in self.first]
        other.learned = [each.copy() for each in self.learned]
        return other

    @property
    def untried(self) -> Version | None:
        """The next of the first ones without an episode."""
        return next((each for each in self.first if not each.returns), None)

    @property
    def acting(self) -> Version:
        """The one whose next episode says most."""
        return self.untried or (self.learned[-1] if self.learned else self.base)

    @property
    def base(self) -> Version:
        """The best of the first ones that have played."""
        best = self.first[0]
        for each in self.first[1:]:
            if each.returns and best.returns and each.mean > self._to_beat(best.mean):
                best = each
        return best

    @property
    def kept(self) -> Version:
        """What is handed back if all ends now: it has played itself."""
        base, window = self.base, self._best_window()
        if window and base.returns and _mean(window) > self._required:
            return window[-1]
        return base

    @property
    def lost(self) -> bool:
        """Whether the latest ones are all worse than what is kept ever was."""
        latest = [each for each in self.learned[self._returned :] if each.returns][-self._window :]
        kept = self.kept
        if len(latest) < self._window or kept in latest or not kept.returns:
            return False
        best = self._best_window() if kept in self.learned else [kept]
        worst = min(each.mean for each in best)
        if len(best) < self._window:  # a single episode may have been a lucky one
            worst = self._short_of(worst)
        return all(each.mean < worst for each in latest)

    def offer(self, candidate: Any) -> None:
        """Take another one that came before any learning."""
        self.first.append(self._numbered(candidate))

    def learn(self, candidate: Any) -> None:
        """Take what learning made, and forget what can no longer be kept.

        Those that have played and are followed by a whole window play no more: of the windows that
        they end only the best may be kept.
        """
        best = self._best_window()[-1:]
        for each in [each for each in self.learned if each.returns][: -self._window]:
            if each not in best:
                each.candidate = None
        self.learned.append(self._numbered(candidate))

    def restore(self) -> Any:
        """What learning goes on from where it was :attr:`lost`."""
        self._returned = len(self.learned)
        return self.kept.candidate

    def _numbered(self, candidate: Any) -> Version:
        self.numbered += 1
        return Version(candidate, self.numbered - 1)

    @property
    def _required(self) -> float:
        """What learning has to return.

        The best of the first ones was chosen by an episode each, and so by luck as well; it is no
        safeguard, as what it was chosen over is.
        """
        return max(self._to_beat(self.first[0].mean), self._short_of(self.base.mean))

    def _to_beat(self, mean: float) -> float:
        return mean + self._margin * abs(mean)

    def _short_of(self, mean: float) -> float:
        return mean - self._margin * abs(mean)

    def _best_window(self) -> list[Version]:
        played = [each for each in self.learned if each.returns]
        size = min(self._window, len(played))
        if size < min(self._window, 2):
            return []
        windows = [played[start : start + size] for start in range(len(played) - size + 1)]
        return max((each for each in windows if each[-1].candidate is not None), key=_mean)


def _mean(versions: list[Version]) -> float:
    return float(np.mean([each.mean for each in versions]))
