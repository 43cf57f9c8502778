"""What surprises a model of a task, and what takes the surprise away."""

import pytest
import torch

from mier_adapt.adaptation.surprise import Expectation

from ..doubles import LinearModel, random_transitions


class Knows(LinearModel):
    """A model whose loss is the mean reward."""

    def loss(self, transitions, context):
        return transitions.rew.mean()


def of_loss(*losses):
    """Twenty transitions in a row of each loss."""
    transitions = random_transitions(20 * len(losses))
    transitions.rew.copy_(torch.tensor(losses).repeat_interleave(20))
    return transitions


@pytest.fixture
def expects():
    return Expectation.of(Knows(), torch.zeros(0), of_loss(*range(-20, 1)))


def test_an_episode_as_usual_is_no_surprise_and_few_bad_steps_are_none(expects):
    assert expects.highest == pytest.approx(-1.0)  # the highest twentieth is no measure
    assert expects.surprise(of_loss(-10.0, -5.0, -20.0)) < 0
    assert expects.surprise(of_loss(-10.0, 1_000.0, -10.0)) < 0
    assert expects.surprise(of_loss(5.0, 3.0, 9.0)) == pytest.approx(6.0)
    assert expects.surprise(of_loss(5.0, 3.0, 9.0), 0.0) == pytest.approx(4.0)
    assert expects.surprise(of_loss(5.0, -3.0, 9.0), 0.0) < 0  # a part of it is as usual


def test_what_leaves_a_quarter_of_a_surprise_at_most_explains_it(expects):
    fresh = of_loss(19.0, 19.0)
    assert expects.is_explained_by(-9.0, fresh)
    assert expects.is_explained_by(3.9, fresh)  # 4.9 of 20 nats are left
    assert not expects.is_explained_by(4.1, fresh)
    assert not expects.is_explained_by(2.0, of_loss(4.0, 4.0))
