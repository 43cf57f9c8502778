"""A changed robot behind what undoes the change is the known robot."""

import copy

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import RescaleAction, TransformObservation
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt._storage.checkpoints import CheckpointError
from mier_adapt.compensation import Compensation
from mier_adapt.wrappers import CompensatedAction, vector
from mier_adapt.wrappers.compensated_action import command

from ..doubles import OBS_DIM, DriftEnv

SWAP = Compensation(np.array([[0.0, -1.0], [1.0, 0.0]]), np.array([0.0, 0.1]))
SENSOR = Compensation(np.eye(2), np.zeros(2), np.diag([1.0, -1.0, 1.0]), np.array([0.0, 0.0, 0.5]))


class Swapped(gymnasium.ActionWrapper):
    """A robot whose motors execute what :data:`SWAP` says."""

    def action(self, action):
        return np.clip(SWAP.act_matrix @ action + SWAP.act_offset, -1, 1)


def shifted(env):
    """A robot whose sensors show what :data:`SENSOR` undoes."""
    return TransformObservation(
        env,
        lambda obs: ((obs - SENSOR.obs_offset) * [1, -1, 1]).astype(np.float32),
        env.observation_space,
    )


def steps(env, count=10):
    """Observations of an episode, whatever the space of the actions."""
    obs, _ = env.reset(seed=0)
    found = [obs]
    generator = np.random.default_rng(0)
    space = env.action_space
    for _ in range(count):
        action = space.low + generator.uniform(0.1, 0.9, space.shape) * (space.high - space.low)
        found.append(env.step(action.astype(np.float32))[0])
    return np.array(found)


@pytest.mark.parametrize(
    ("changed", "compensation"), [(Swapped, SWAP), (shifted, SENSOR)], ids=["motors", "sensors"]
)
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-2.0, 6.0)])
def test_a_changed_robot_behaves_as_the_known_one(changed, compensation, bounds):
    low, high = np.float32(bounds)
    env = CompensatedAction(RescaleAction(changed(DriftEnv()), low, high), compensation)
    expected = steps(RescaleAction(DriftEnv(), low, high))
    np.testing.assert_allclose(steps(env), expected, atol=1e-4)
    assert env.observation_space.contains(env.reset()[0])


MIXED = Compensation(np.array([[0.8, -0.6], [0.6, 0.8]]), np.zeros(2))
BOUNDS = st.floats(-10, 10, width=32)


@given(action=st.tuples(BOUNDS, BOUNDS))
def test_an_action_beyond_the_bounds_is_taken_as_the_bounds(action):
    space = gymnasium.spaces.Box(-1, 1, (2,))
    beyond, within = (
        command(MIXED, np.array(each), space) for each in (action, np.clip(action, -1, 1))
    )
    np.testing.assert_array_equal(beyond, within)


@given(bounds=st.tuples(BOUNDS, BOUNDS), share=st.floats(0, 1), sign=st.sampled_from([-1.0, 1.0]))
def test_what_is_commanded_is_an_action_also_where_a_motor_has_no_choice(bounds, share, sign):
    low, high = np.float32(sorted(bounds))
    space = gymnasium.spaces.Box(low, high, (1,))
    action = np.array([low + share * (high - low)], np.float32)
    told = command(Compensation(np.array([[sign]]), np.zeros(1)), action, space)
    assert space.contains(told)
    if sign > 0:
        np.testing.assert_allclose(told, action.clip(low, high), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "compensation"), [(Swapped, SWAP), (shifted, SENSOR)], ids=["motors", "sensors"]
)
def test_so_do_many_side_by_side(changed, compensation):
    slots = SyncVectorEnv([lambda: changed(DriftEnv())] * 3)
    slots = vector.CompensatedAction(slots, compensation)
    np.testing.assert_allclose(steps(slots), steps(SyncVectorEnv([DriftEnv] * 3)), atol=1e-4)
    assert slots.observation_space.contains(slots.reset()[0])


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.filterwarnings("ignore:.*A Box observation space")
def test_gymnasium_accepts_it():
    check_env(CompensatedAction(Swapped(DriftEnv()), SWAP), skip_render_check=True)


@pytest.mark.parametrize("compensation", [SWAP, SENSOR])
def test_a_saved_one_acts_the_same(compensation, tmp_path):
    compensation.save(tmp_path / "file.json")
    loaded = Compensation.load(tmp_path / "file.json")
    generator = np.random.default_rng(0)
    act, obs = generator.uniform(-1, 1, (5, 2)), generator.normal(size=(5, OBS_DIM))
    for method, rows in (("action", act), ("observation", obs)):
        expected = getattr(compensation, method)(rows)
        np.testing.assert_array_equal(getattr(loaded, method)(rows), expected)


OTHERS = '"act_offset": [0.0], "obs_matrix": [], "obs_offset": []}'


@pytest.mark.parametrize(
    "text", ["", "{}", *(f'{{"act_matrix": {each}, ' for each in ("[[1, 0]]", "[[1], [0]]", "1"))]
)
def test_another_file_is_refused(text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text + OTHERS * text.endswith(", "))
    with pytest.raises(CheckpointError, match=r"file\.json"):
        Compensation.load(path)


def test_other_dimensions_and_spaces_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\), got one of \(1, 0\)"):
        CompensatedAction(DriftEnv(), Compensation(np.eye(1), np.zeros(1)))
    with pytest.raises(ValueError, match=r"\(2, 3\), got one of \(2, 2\)"):
        CompensatedAction(DriftEnv(), Compensation(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2)))
    with pytest.raises(ValueError, match="CompensatedAction expected env's actions"):
        CompensatedAction(gymnasium.make("CartPole-v1"), SWAP)


def test_what_motors_reach_is_told():
    weak = Compensation(0.5 * np.eye(2), np.zeros(2))
    assert weak.shortfall(np.array([[0.5, -0.4], [0.1, 0.0]])) == pytest.approx(0)
    assert weak.shortfall(np.array([[1.0, -0.9], [0.1, 0.0]])) == pytest.approx(0.5 / 2)
    assert copy.deepcopy(SWAP).shortfall(np.zeros((3, 2))) == pytest.approx(0)


def test_one_dead_motor_of_many_is_not_made_little_of_by_the_others():
    gains = np.ones(10)
    gains[3] = 0.0
    dead = Compensation(np.diag(gains), np.zeros(10))
    act = np.random.default_rng(0).uniform(-0.8, 0.8, (100, 10))
    assert dead.shortfall(act) == pytest.approx(np.abs(act[:, 3]).mean())
    assert dead.shortfall(act[0]) == pytest.approx(abs(act[0, 3]))
