"""What a changed robot is like to a policy that acts behind a compensation."""

import numpy as np
import pytest
import torch

from mier_adapt import Transitions
from mier_adapt.adaptation.known_terms import as_wanted, in_known_terms
from mier_adapt.compensation import Compensation

SIZE = 4_000
TURNED = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
MOTORS = {
    "dead": (np.diag([1.0, 0.0, 1.0]), np.zeros(3)),
    "dead, and off": (np.diag([1.0, 0.0, 1.0]), np.array([0.0, 0.3, 0.0])),
    "nearly dead": (np.diag([1.0, 0.02, 1.0]), np.zeros(3)),
    "weak": (np.diag([0.5, -0.4, 1.0]), np.zeros(3)),
    "weak, and off": (np.diag([0.5, 0.4, 1.0]), np.array([0.2, -0.3, 0.1])),
    "weak and mixed": (0.7 * TURNED, np.zeros(3)),
}


def told(acts):
    acts = torch.as_tensor(acts).float()
    obs, flags = torch.zeros(len(acts), 2), torch.zeros(len(acts), dtype=torch.bool)
    return Transitions(obs, acts, flags.float(), obs, flags)


def drawn(size=SIZE):
    """Many of them at the ends of what motors can be told."""
    return (2 * np.random.default_rng(0).uniform(-1, 1, (size, 3))).clip(-1, 1)


@pytest.mark.parametrize("motors", MOTORS)
def test_what_may_have_been_wanted_is_executed_as_what_was_told(motors):
    undone = Compensation(*MOTORS[motors])
    known = in_known_terms(told(drawn()), undone)
    wanted = as_wanted(known, undone, np.random.default_rng(1)).act.numpy()
    assert np.abs(wanted).max() <= 1
    executed = undone.executed(undone.action(wanted))
    nearly_dead = 0.021 if motors == "nearly dead" else 0.0
    np.testing.assert_allclose(executed, known.act, atol=1e-5 + nearly_dead)


def test_of_a_dead_motor_anything_may_have_been_wanted_and_of_a_weak_one_what_it_cannot():
    undone = Compensation(np.diag([1.0, 0.0, 0.5]), np.zeros(3))
    known = in_known_terms(told(drawn()), undone)
    wanted = as_wanted(known, undone, np.random.default_rng(1)).act.numpy()
    np.testing.assert_allclose(wanted[:, 0], known.act[:, 0], atol=1e-6)
    quantiles = np.quantile(wanted[:, 1], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [-0.8, 0.0, 0.8], atol=0.05)
    within = known.act[:, 2].abs().numpy() < 0.49
    np.testing.assert_allclose(wanted[within, 2], known.act[within, 2], atol=1e-6)
    beyond = np.abs(wanted[known.act[:, 2].abs().numpy() == 0.5, 2])
    np.testing.assert_allclose(np.quantile(beyond, [0.1, 0.5, 0.9]), [0.55, 0.75, 0.95], atol=0.03)


@pytest.mark.parametrize("matrix", [np.eye(3), TURNED, -np.eye(3)[[2, 0, 1]]])
def test_within_reach_nothing_else_was_wanted(matrix):
    undone = Compensation(matrix, np.zeros(3))
    known = in_known_terms(told(0.7 * drawn()), undone)
    wanted = as_wanted(known, undone, np.random.default_rng(1))
    torch.testing.assert_close(wanted.act, known.act, atol=1e-6, rtol=0)
    assert as_wanted(known, None, np.random.default_rng(1)) is known
