"""Changes that no single step shows, and the same robot, by the mean error of stretches."""

import dataclasses

import numpy as np
import pytest
import torch

from mier_adapt import Transitions
from mier_adapt._score_test import score_test
from mier_adapt.changes import Actuators
from mier_adapt.diagnosis import diagnose

from .test_diagnosis import ACT, OBS, PULL, Robot

LENGTH, EPISODE = 100, 50
NONE = torch.zeros(0)


def walked(count, seed, *, pull=0.0, drift=0.0, gains=(1.0, 1.0, 1.0), damped=0.0, struck=0.0):
    """Episodes of a robot that is pulled aside, damped, or struck at every tenth step.

    Its noise drifts as a model's error does.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(count // EPISODE, *shape, generator=generator)

    obs, error, rows = noise(OBS), drift * noise(OBS), []
    for _ in range(EPISODE):
        act = torch.rand(len(obs), ACT, generator=generator) * 1.6 - 0.8
        rew, after = Robot().mean(obs, act * torch.tensor(gains), NONE)
        after = after + pull + error + 0.01 * noise(OBS) - damped * obs
        after = after + struck * noise(OBS) * (noise(1) > 1.28)
        rows.append((obs, act, rew + 0.01 * noise(), after, torch.zeros(len(obs)).bool()))
        obs = after
    return Transitions(*(torch.stack(each, 1) for each in zip(*rows, strict=True))).flatten()


def p_value(known, new, model=None):
    """Of the same robot, or of this model's."""
    return score_test(model or Robot(), NONE, known, new).p_value


@pytest.fixture(scope="module")
def known():
    """As many stretches as there are on a robot that a user has driven for a while."""
    return walked(40 * LENGTH, 0, drift=0.004)


def test_the_same_robot_is_rarely_called_another(known) -> None:
    found = np.array([p_value(known, walked(LENGTH, seed, drift=0.004)) for seed in range(1, 101)])
    assert (found < 1e-4).sum() == 0
    assert 0 < (found < 0.2).mean() < 0.45  # a probability, not merely a score
    assert 0.25 < np.median(found) < 0.75


def test_a_drift_of_the_known_robot_is_taken_for_what_it_is(known) -> None:
    """A test by the noise of single steps would call every other episode another robot's."""
    steady = walked(40 * LENGTH, 0)
    new = [walked(LENGTH, seed, drift=0.004) for seed in range(1, 21)]
    by_steps = [p_value(steady, each) for each in new]
    assert sum(each < 1e-4 for each in by_steps) >= 10
    assert all(p_value(known, each) > 1e-4 for each in new)


@pytest.mark.parametrize("pull", [0.004, -0.004])
def test_what_moves_every_step_a_little_is_told(pull) -> None:
    """0.4 standard deviations, of which a comparison of losses sees 0.08."""
    known, new = walked(40 * LENGTH, 0, drift=0.001), walked(LENGTH, 1, pull=pull, drift=0.001)
    options = {"known": Transitions.stack([known]), "changes": []}

    def told(same_policy):
        generator = torch.Generator().manual_seed(0)
        return diagnose(Robot(), new, **options, same_policy=same_policy, generator=generator)

    assert told(False).sentences == ("nothing changed",)
    assert told(False).p_value is None
    diagnosis = told(True)
    assert diagnosis.changed
    assert diagnosis.compensation is None
    assert diagnosis.p_value < 1e-4
    assert "something in the dynamics changed" in diagnosis.sentences[-1]
    assert diagnosis.to_dict()["changed"] is True


def test_what_moves_most_steps_a_little_is_told_among_strikes() -> None:
    """Which no model predicts, and which move the mean ten times as far."""
    known, new = (
        walked(count * LENGTH, seed, pull=pull, drift=0.001, struck=0.3)
        for count, seed, pull in ((40, 0, 0.0), (1, 1, 0.006))
    )
    assert p_value(known, new) < 1e-4
    assert p_value(known, walked(LENGTH, 1, drift=0.001, struck=0.3)) > 1e-4


def test_what_acts_in_few_steps_alone_is_told() -> None:
    """As friction does, where a foot touches the ground."""
    known, new = walked(40 * LENGTH, 0, drift=0.001), walked(LENGTH, 1, drift=0.001)
    slips = torch.rand(LENGTH, 1, generator=torch.Generator().manual_seed(0)) < 0.08
    slid = dataclasses.replace(new, obs_next=new.obs_next + 0.1 * slips)
    assert p_value(known, new) > 1e-4
    assert p_value(known, slid) < 1e-4


def test_what_moves_a_step_by_a_share_of_where_it_is_is_told() -> None:
    known, new = walked(40 * LENGTH, 0, drift=0.001), walked(LENGTH, 3, damped=0.004, drift=0.001)
    assert p_value(known, new) < 1e-4
    assert p_value(known, walked(LENGTH, 3, drift=0.001)) > 1e-4


def test_a_policy_that_was_learning_strays_from_block_to_block() -> None:
    """The new transitions are of a later one than all that are known."""
    blocks = [walked(8 * LENGTH, seed, pull=0.006 * seed, drift=0.001) for seed in range(5)]
    new = walked(LENGTH, 9, pull=0.006 * 5, drift=0.001)
    assert p_value(Transitions.cat(blocks), new) > 0.01
    assert p_value(Transitions.cat([blocks[2]] * 5), new) < 1e-4


def test_a_change_that_leaves_no_mean_error_is_told_as_what_it_is() -> None:
    """A motor that is a little weak wins less than what is forgiven, and is no other dynamics."""

    class Unsure(Robot):
        std = 0.12

    known, new = walked(40 * LENGTH, 0, drift=0.001), walked(LENGTH, 1, gains=(1, 0.86, 1))
    options = {"known": Transitions.stack([known])}

    def told(same_policy):
        generator = torch.Generator().manual_seed(0)
        return diagnose(Unsure(), new, **options, same_policy=same_policy, generator=generator)

    assert told(False).sentences == ("nothing changed",)
    diagnosis = told(True)
    assert diagnosis.chosen.name == "actuators order and actuators gains"
    assert diagnosis.p_value is None
    assert diagnosis.changed
    undone = diagnosis.compensation.act_matrix
    np.testing.assert_allclose(np.diag(undone), (1, 0.86, 1), atol=0.03)


def test_a_change_that_leaves_most_of_the_mean_error_is_not_it() -> None:
    """A motor at 0.8, by single steps; but all of them move as no motor moves them."""

    class Unsure(Robot):
        std = 0.05

    aside = 0.06 * torch.linalg.qr(PULL.mT, mode="complete").Q[:, -1]  # where no motor pulls
    known, new = (
        walked(count * LENGTH, seed, pull=pull, gains=gains, drift=0.001)
        for count, seed, pull, gains in ((40, 0, 0.0, (1, 1, 1)), (1, 1, aside, (1, 0.8, 1)))
    )
    options = {"known": Transitions.stack([known]), "changes": [Actuators(ACT, "gains")]}

    def told(same_policy):
        generator = torch.Generator().manual_seed(0)
        return diagnose(Unsure(), new, **options, same_policy=same_policy, generator=generator)

    assert told(False).chosen.name == "actuators gains"
    diagnosis = told(True)
    assert diagnosis.chosen.name == "nothing changed"
    assert diagnosis.p_value < 1e-4
    assert diagnosis.compensation is None


@pytest.mark.parametrize(("pull", "chosen"), [(0.02, "actuators signs"), (0.05, "nothing changed")])
def test_signs_may_leave_half_of_the_mean_error(pull, chosen) -> None:
    """A third of it, and all of it; they have no numbers that could be fitted to it."""

    class Unsure(Robot):
        std = 0.5

    known, new = (
        walked(count * LENGTH, seed, pull=pull, gains=gains, drift=0.001)
        for count, seed, pull, gains in ((40, 0, 0.0, (1, 1, 1)), (1, 1, pull, (1, -1, 1)))
    )
    diagnosis = diagnose(
        Unsure(),
        new,
        known=Transitions.stack([known]),
        changes=[Actuators(ACT, "signs")],
        same_policy=True,
        generator=torch.Generator().manual_seed(0),
    )
    assert diagnosis.chosen.name == chosen


def test_no_change_stays_none(known) -> None:
    stacked = Transitions.stack([known])
    new = walked(LENGTH, 3, drift=0.004)
    diagnosis = diagnose(Robot(), new, known=stacked, changes=[], same_policy=True)
    assert diagnosis.sentences == ("nothing changed",)
    assert diagnosis.p_value > 1e-4
    assert diagnosis.compensation is not None


def test_single_rows_do_not_decide(known) -> None:
    """A fall or two that the model predicts wrongly are no other dynamics."""
    new = walked(LENGTH, 5, drift=0.004)
    obs_next = new.obs_next.clone()
    obs_next[[10, 60]] += 3.0
    assert p_value(known, dataclasses.replace(new, obs_next=obs_next)) > 1e-4


def test_it_is_not_asked_where_it_says_nothing(known) -> None:
    new = walked(LENGTH, 1)
    assert score_test(Robot(), NONE, known[: 9 * LENGTH], new) is None
    shuffled = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))]
    assert score_test(Robot(), NONE, shuffled, new) is None
    resting = known._map(torch.zeros_like)  # and predicted without any error
    assert score_test(Robot(), NONE, resting, new) is None
    repeated = Transitions.cat([known[:LENGTH]] * 40)
    assert score_test(Robot(), NONE, repeated, new) is None


def test_the_latest_of_many_are_enough(known) -> None:
    new = walked(LENGTH, 1, drift=0.004)
    older = Transitions.cat([walked(100 * LENGTH, 9), known, known, known[: 20 * LENGTH]])
    assert p_value(older, new) == p_value(older[-100 * LENGTH :], new)


def test_of_new_ones_the_latest_for_which_there_are_enough_known(known) -> None:
    new = walked(10 * LENGTH, 1, pull=0.008, drift=0.004)
    assert p_value(known, new) == p_value(known, new[-2 * LENGTH :]) < 1e-4
    assert score_test(Robot(), NONE, known[: 10 * LENGTH], new) is not None
    assert score_test(Robot(), NONE, known[: 9 * LENGTH], new) is None


class Rewarded(Robot):
    """Its tasks differ by rewards."""

    varies = "reward"

    def loss(self, transitions, context):
        error = self.mean(transitions.obs, transitions.act, context)[0] - transitions.rew
        return (error / self.std).square().mean(-1)


def test_rewards_alone(known) -> None:
    new = walked(LENGTH, 1, drift=0.004)
    assert p_value(known, new, Rewarded()) > 1e-4
    more = dataclasses.replace(new, rew=new.rew + 0.01)
    assert p_value(known, more, Rewarded()) < 1e-4
