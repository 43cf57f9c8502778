"""Which policy acts, which one is kept, and when learning has lost its way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt.adaptation.progress import Progress


def played(first, learned, *, window=3, margin=0.0):
    """A progress of named candidates whose episodes returned so much."""
    progress = Progress([name for name, _ in first], window=window, margin=margin)
    for version, (_, returns) in zip(progress.first, first, strict=True):
        version.returns += returns
    for number, returned in enumerate(learned):
        progress.learn(number)
        progress.learned[-1].returns += [] if returned is None else [returned]
    return progress


def test_the_first_ones_each_play_before_anything_else_does():
    progress = played([("safe", []), ("undone", [])], [])
    assert progress.acting.candidate == "safe"
    progress.acting.returns.append(1.0)
    assert progress.acting.candidate == "undone"
    assert progress.kept.candidate == "safe"  # nobody has seen the other
    progress.acting.returns.append(2.0)
    assert progress.untried is None
    assert progress.acting.candidate == progress.kept.candidate == "undone"
    progress.learn("learned")
    assert progress.acting.candidate == "learned"
    assert progress.kept.candidate == "undone"


@pytest.mark.parametrize(
    ("learned", "kept"),
    [
        ([9.0], "safe"),  # a single episode says little
        ([9.0, 8.0], 1),
        ([4.0, 6.0, 5.0], "safe"),  # no better in the mean
        ([4.0, 6.0, 6.0, 8.0, 1.0], 3),  # the best three in a row, the last of these
        ([7.0, 8.0, 9.0, None], 2),  # what has not played is not kept
    ],
)
def test_several_in_a_row_have_to_be_better(learned, kept):
    assert played([("safe", [5.0])], learned).kept.candidate == kept


def test_they_have_to_be_better_by_the_margin():
    assert played([("safe", [-100.0])], [-97.0] * 3, margin=0.04).kept.candidate == "safe"
    assert played([("safe", [-100.0])], [-95.0] * 3, margin=0.04).kept.candidate == 2


@pytest.mark.parametrize(
    ("learned", "kept"),
    [
        (97.0, 2),  # the best of several was chosen by its luck as well
        (95.0, "best"),
        (83.0, "best"),
    ],
)
def test_the_best_of_the_first_ones_need_not_be_beaten_by_a_margin(learned, kept):
    first = [("safe", [80.0]), ("undone", [90.0]), ("best", [100.0])]
    assert played(first, [learned] * 3, margin=0.04).kept.candidate == kept


def test_what_came_has_to_be_beaten_by_the_margin_wherever_learning_began():
    first = [("safe", [100.0]), ("best", [105.0])]
    assert played(first, [103.0] * 3, margin=0.04).kept.candidate == "best"
    assert played(first, [104.5] * 3, margin=0.04).kept.candidate == 2


def test_learning_is_lost_where_the_last_ones_are_all_worse_than_the_best_ever_were():
    best = [6.0, 7.0, 8.0]
    assert not played([("safe", [5.0])], best).lost
    assert not played([("safe", [5.0])], [*best, 5.0, 5.0]).lost  # too few
    assert not played([("safe", [5.0])], [*best, 5.0, 6.5, 5.0]).lost
    progress = played([("safe", [5.0])], [*best, 5.0, 5.5, 5.9])
    assert progress.lost
    assert progress.restore() == 2
    assert not progress.lost  # and has time again
    for returned in (1.0, 1.0, 1.0):
        progress.learn("again")
        progress.learned[-1].returns.append(returned)
    assert progress.lost


def test_what_never_was_better_goes_back_to_what_came():
    progress = played([("safe", [5.0])], [4.9, 4.9, 4.9], margin=0.04)
    assert not progress.lost  # by less than the margin, against a single episode
    progress = played([("safe", [5.0])], [4.0, 4.0, 4.0], margin=0.04)
    assert progress.lost
    assert progress.restore() == "safe"


def test_what_was_forgotten_is_not_kept_where_the_best_one_plays_again_and_worse():
    progress = played([("safe", [5.0])], [7.0, 6.0, 9.0], window=1)
    progress.learn("new")
    assert progress.kept.candidate == 2  # so that 0 and 1 were forgotten
    progress.learned[2].returns.append(-9.0)
    assert progress.kept.candidate == "safe"
    progress.learned[2].returns.append(30.0)
    assert progress.kept.candidate == 2


@given(
    returns=st.lists(st.none() | st.integers(-3, 3).map(float), max_size=12),
    window=st.integers(1, 4),
)
def test_what_can_no_longer_be_kept_is_forgotten_and_nothing_else(returns, window):
    progress = Progress(["safe"], window=window, margin=0.0)
    progress.first[0].returns.append(0.0)
    for number, returned in enumerate(returns):
        progress.learn(number)
        progress.learned[-1].returns += [] if returned is None else [returned]
        # Versions are their numbers: whatever is kept or goes on has not been forgotten.
        everything = ["safe", *range(number + 1)]
        assert progress.kept.candidate in everything
        assert progress.restore() in everything
        held = [each for each in progress.learned if each.candidate is not None]
        unplayed = sum(not each.returns for each in progress.learned)
        assert len(held) <= window + 2 + unplayed
