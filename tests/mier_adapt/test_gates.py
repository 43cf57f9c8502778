import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt.gates import AlwaysGate, MarginGate, NeverGate
from mier_adapt.protocols import Candidate, Gate


@dataclasses.dataclass
class Scripted:
    """A candidate that returns what it is told to."""

    name: str
    returns: tuple[float, ...] = ()

    def act(self, obs, *, explore):
        raise AssertionError("a gate has no observations")


class Plays:
    """Plays scripted candidates, and counts."""

    def __init__(self) -> None:
        self.episodes: dict[str, int] = {}

    def __call__(self, candidate: Scripted, episodes: int) -> tuple[float, ...]:
        self.episodes[candidate.name] = self.episodes.get(candidate.name, 0) + episodes
        return candidate.returns[:episodes]


def unasked(candidate, episodes):
    raise AssertionError("no real episode was to be played")


returns = st.floats(-1e4, 1e4, allow_subnormal=False)


def test_doubles_and_gates_are_what_the_protocols_say():
    assert isinstance(Scripted("one"), Candidate)
    for gate in (MarginGate(), AlwaysGate(), NeverGate()):
        assert isinstance(gate, Gate)


@given(
    before=st.lists(returns, min_size=3, max_size=3),
    after=st.lists(returns, min_size=3, max_size=3),
    episodes=st.integers(1, 3),
    margin=st.floats(0, 1),
)
def test_a_margin_gate_lets_pass_what_is_better_by_a_share_of_the_first_ones_return(
    before, after, episodes, margin
):
    first, last = Scripted("first", tuple(before)), Scripted("last", tuple(after))
    plays = Plays()
    kept, reason = MarginGate(episodes=episodes, margin=margin).choose((first, last), plays)
    assert plays.episodes == {"first": episodes, "last": episodes}
    before, after = np.mean(before[:episodes]), np.mean(after[:episodes])
    needed = before + margin * abs(before)
    if abs(after - needed) > 1e-6 * (1 + abs(needed)):
        assert kept is (last if after > needed else first)
    told = f"{after:.0f} in {episodes} real episode(s), against {before:.0f} before"
    assert reason == (
        f"it returned {told}"
        if kept is last
        else f"the candidate returned {told}, and has to be {margin:.0%} better"
    )


@pytest.mark.parametrize(
    ("between", "last", "kept"),
    [(150.0, 155.0, "between"), (150.0, 157.0, "last"), (90.0, 105.0, "last"), (1, 1, "first")],
)
def test_each_candidate_has_to_beat_what_stands(between, last, kept):
    returns = {"first": 100.0, "between": between, "last": last}
    plays = Plays()
    candidates = [Scripted(name, (value,) * 2) for name, value in returns.items()]
    found, reason = MarginGate(episodes=2, margin=0.04).choose(candidates, plays)
    assert found.name == kept
    told = "the candidate" if kept == "first" else f"it returned {returns[kept]:.0f}"
    assert reason.startswith(told)
    assert plays.episodes == {"first": 2, "between": 2, "last": 2}  # none is played twice


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [
        (100.0, 104.1, True),
        (100.0, 103.9, False),
        (-100.0, -95.9, True),
        (-100.0, -96.1, False),
        (0.0, 0.1, True),
        (0.0, 0.0, False),
    ],
)
def test_by_default_it_asks_for_a_twentyfifth_in_one_episode(before, after, better):
    first, last = Scripted("first", (before,)), Scripted("last", (after,))
    plays = Plays()
    kept, _ = MarginGate().choose((first, last), plays)
    assert kept is (last if better else first)
    assert plays.episodes == {"first": 1, "last": 1}


def test_a_margin_gate_plays_nothing_where_there_is_no_choice():
    only = Scripted("unchanged")
    assert MarginGate().choose((only,), unasked) == (only, "nothing else was made")


class Noisy:
    """Plays what returns vary around, from starts that all share."""

    def __init__(self, seed: int, *, spread: float, gain: float) -> None:
        self.generators = {
            name: np.random.default_rng((seed, name == "last")) for name in ("first", "last")
        }
        self.shared = {name: np.random.default_rng(seed) for name in ("first", "last")}
        self.spread, self.gain = spread, gain
        self.episodes = 0

    def __call__(self, candidate: Scripted, episodes: int) -> tuple[float, ...]:
        self.episodes += episodes
        own, start = self.generators[candidate.name], self.shared[candidate.name]
        mean = 100 + self.gain * (candidate.name == "last")
        return tuple(
            mean + 30 * start.normal() + self.spread * own.normal() for _ in range(episodes)
        )


def accepted(gate: MarginGate, **options) -> tuple[float, float]:
    """Share of 200 plays in which the last passes, and episodes of each on average."""
    first, last = Scripted("first"), Scripted("last")
    plays = [Noisy(seed, **options) for seed in range(200)]
    passed = np.mean([gate.choose((first, last), play)[0] is last for play in plays])
    return float(passed), float(np.mean([play.episodes for play in plays])) / 2


def test_a_gate_that_may_ask_for_more_is_wrong_less_often():
    one, more = MarginGate(), MarginGate(episodes=2, most_episodes=10)
    worse = {"spread": 20.0, "gain": -15.0}  # truly worse, by less than an episode's noise
    assert accepted(one, **worse)[0] > 0.2
    passed, episodes = accepted(more, **worse)
    assert passed < 0.06
    assert 3 < episodes < 8
    better = {"spread": 20.0, "gain": 25.0}
    assert accepted(more, **better)[0] > accepted(one, **better)[0] + 0.05
    # Where one pair says it all, it asks for no more than it was told to begin with.
    assert accepted(more, spread=0.1, gain=50.0) == (1.0, 2.0)


def test_it_says_how_sure_it_is_and_stops_at_most():
    gate = MarginGate(episodes=2, most_episodes=4)
    plays = Noisy(0, spread=1000.0, gain=0.0)
    _, reason = gate.choose((Scripted("first"), Scripted("last")), plays)
    assert plays.episodes == 2 * 4
    assert re.search(r"in 4 real episode\(s\), against -?\d+ before \(doubt 0\.\d\d\)", reason)


@pytest.mark.parametrize(
    ("gate", "position", "reason"),
    [(AlwaysGate(), -1, "there is no gate"), (NeverGate(), 0, "the gate lets nothing pass")],
)
def test_the_others_do_not_look(gate, position, reason):
    candidates = [Scripted(name) for name in ("first", "between", "last")]
    for some in (candidates, candidates[:1]):
        assert gate.choose(some, unasked) == (some[position], reason)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes >= 1, got 0"),
        ({"episodes": 1.5}, "episodes >= 1 and whole, got 1.5"),
        ({"margin": -0.1}, "margin >= 0, got -0.1"),
        ({"margin": float("nan")}, "margin >= 0, got nan"),
    ],
)
def test_a_margin_gate_names_the_option_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=f"MarginGate expected {message}"):
        MarginGate(**options)
