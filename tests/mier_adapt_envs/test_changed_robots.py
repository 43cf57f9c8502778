"""Gymnasium's robots after something changed: against the stock environments, and as values."""

import copy
import json
import math
import pickle
from collections import Counter
from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
from env_helpers import run_silently
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mier_adapt_envs import ChangeSet, RobotChange, change_set

ROBOTS = ("HalfCheetah", "Ant", "Hopper", "Walker2d")
SETS = [(robot, name) for robot in ROBOTS for name in ("development", "test")]
FALLING = ("Hopper", "Walker2d")
SINGLE_MOTORS = ("motor reversed", "motor weak", "motor dead")
PAIRS = ("motors reversed", "motors swapped", "motors mixed")


@pytest.fixture(autouse=True)
def _quiet_place(tmp_path, monkeypatch):
    """MuJoCo logs there what it thinks of gymnasium's model of the cheetah."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=ROBOTS)
def robot(request):
    return request.param


def stock(robot):
    options = {"include_cfrc_ext_in_observation": False} if robot == "Ant" else {}
    return gymnasium.make(f"{robot}-v5", max_episode_steps=200, **options)


def changed(robot, change=None, **options):
    return gymnasium.make(f"MIER/Changed{robot}-v0", change=change, **options)


def actions(env, num_steps, seed=0):
    shape = (num_steps, *env.action_space.shape)
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)


def episode(env, commands, **reset):
    """All that an episode returns, as one list."""
    obs, info = env.reset(**reset)
    returned = [obs, *info.values()]
    for act in commands:
        obs, rew, terminated, truncated, info = env.step(act)
        returned += [obs, rew, terminated, truncated, *info, *info.values()]
        if terminated or truncated:
            break
    return returned


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def differing_fields(model, other):
    names = [name for name in dir(model) if isinstance(getattr(model, name), np.ndarray)]
    return {
        name for name in names if not np.array_equal(getattr(model, name), getattr(other, name))
    }


# As gymnasium environments ----------------------------------------------------------------------


# gymnasium finds unbounded observations suspicious.
@pytest.mark.filterwarnings("ignore:.*Box observation space .* is -?infinity.*:UserWarning")
@pytest.mark.parametrize("position", [None, 1, -1])
def test_check_env(robot, position):
    change = None if position is None else change_set(robot, "test")[position]
    env = changed(robot, change)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.unwrapped.change == (change or RobotChange("none"))
    env.close()


@pytest.mark.parametrize(("robot", "name"), SETS)
def test_every_change_of_a_set_can_be_made_and_run(robot, name):
    changes = change_set(robot, name)
    for change in changes:
        env = gymnasium.make(changes.env_id, change=change)
        returned = episode(env, actions(env, 5), seed=0)
        assert all(np.isfinite(each).all() for each in returned if not isinstance(each, str))
        env.close()


def test_spec_survives_json(robot):
    change = change_set(robot, "test")[-1]
    env = changed(robot, change)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert gymnasium.make(spec).unwrapped.change == change
    assert (spec.max_episode_steps, spec.namespace) == (200, "MIER")
    assert changed(robot, json.loads(change.to_json())).unwrapped.change == change


def test_seeds_fix_episodes(robot):
    change = change_set(robot, "test")[-1]
    env, other = changed(robot, change), changed(robot, change)
    commands = actions(env, 10)
    first, second = (episode(env, commands, **reset) for reset in ({"seed": 5}, {}))
    assert_same(episode(other, commands, seed=5), first)
    assert_same(episode(other, commands), second)
    assert np.abs(first[0] - second[0]).max() > 1e-4


def test_episodes_end_after_200_steps():
    env = changed("HalfCheetah")
    env.reset(seed=0)
    ends = [env.step(act)[2:4] for act in actions(env, 200)]
    assert ends == [(False, False)] * 199 + [(False, True)]


def test_copies_are_robots_changed_in_the_same_way(robot):
    change = change_set(robot, "test")[-1]
    env = changed(robot, change, width=64).unwrapped
    commands = actions(env, 5)
    for twin in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert (twin.change, twin.width) == (change, 64)
        with pytest.raises(gymnasium.error.ResetNeeded, match="call reset first"):
            twin.step(commands[0])
        assert_same(episode(twin, commands, seed=1), episode(env, commands, seed=1))


def test_robots_do_not_share_a_model(robot):
    heavy, intact = changed(robot, RobotChange("masses", mass=2.0)), changed(robot)
    assert "body_mass" in differing_fields(heavy.unwrapped.model, intact.unwrapped.model)
    again = changed(robot, RobotChange("masses", mass=2.0)).unwrapped
    assert differing_fields(heavy.unwrapped.model, again.model) == set()


def test_observations_share_no_memory(robot):
    env = changed(robot)
    first, _ = env.reset(seed=0)
    second = env.step(actions(env, 1)[0])[0]
    assert not np.shares_memory(first, second)
    assert first.dtype == env.observation_space.dtype == np.float64


def test_use_is_silent_and_leaves_no_log(tmp_path):
    code = f"""
import gymnasium, mier_adapt_envs
for robot in {ROBOTS}:
    for change in mier_adapt_envs.change_set(robot, "test")[::6]:
        env = gymnasium.make(f"MIER/Changed{{robot}}-v0", change=change)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()
"""
    run_silently(code, tmp_path)


# Against the stock environments -----------------------------------------------------------------


@pytest.mark.parametrize("change", [None, RobotChange("none"), {"kind": "none"}])
def test_the_intact_robot_is_gymnasiums_bit_for_bit(robot, change):
    ours, theirs = changed(robot, change), stock(robot)
    assert (ours.action_space, ours.observation_space) == (
        theirs.action_space,
        theirs.observation_space,
    )
    for seed in (0, 1, 2):
        commands = actions(ours, 200, seed)
        if seed == 2:
            commands = commands.astype(np.float64)
        assert_same(*(episode(env, commands, seed=seed) for env in (ours, theirs)))
    one, other = ours.unwrapped.model, theirs.unwrapped.model
    assert differing_fields(one, other) == set()
    # MuJoCo adds it up in another order where it compiles the model itself: some builds differ by a
    # last bit, which no step shows.
    assert one.stat.meaninertia == pytest.approx(other.stat.meaninertia, rel=1e-14)


def numbers(size, largest=1.5):
    return st.lists(st.floats(-largest, largest), min_size=size, max_size=size).map(tuple)


@st.composite
def robots_and_changes(draw):
    """A robot and a change to what its motors and sensors do."""
    robot = draw(st.sampled_from(ROBOTS))
    env = changed(robot)
    (obs_dim,), (act_dim,) = env.observation_space.shape, env.action_space.shape
    matrix = st.lists(numbers(act_dim), min_size=act_dim, max_size=act_dim).map(tuple)
    change = RobotChange(
        "any",
        motor_matrix=draw(st.none() | matrix),
        motor_offset=draw(st.none() | numbers(act_dim)),
        sensor_gain=draw(st.none() | numbers(obs_dim)),
        sensor_offset=draw(st.none() | numbers(obs_dim)),
        delay=draw(st.integers(0, 4)),
    )
    return robot, change


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(robots_and_changes())
def test_a_changed_robot_is_the_stock_one_behind_other_motors_and_sensors(drawn):
    robot, change = drawn
    ours, theirs = changed(robot, change), stock(robot)
    commands = actions(ours, 8)
    executed = commands.astype(np.float64)
    if change.motor_matrix:
        executed = np.array([np.array(change.motor_matrix) @ each for each in executed])
    if change.motor_offset:
        executed = executed + change.motor_offset
    executed = executed.clip(-1.0, 1.0).astype(np.float32)
    executed = np.concatenate([np.zeros_like(executed[: change.delay]), executed])
    for seed in (0, 1):  # nothing of an episode is left in the next
        shown = [ours.reset(seed=seed)[0]]
        true = [theirs.reset(seed=seed)[0]]
        for commanded, applied in zip(commands, executed, strict=False):
            obs, *rest, info = ours.step(commanded)
            true_obs, *true_rest, true_info = theirs.step(applied)
            assert (rest, info) == (true_rest, true_info)
            shown.append(obs)
            true.append(true_obs)
            if rest[1]:
                break
        expected = np.array(true)
        if change.sensor_gain:
            expected = expected * change.sensor_gain
        if change.sensor_offset:
            expected = expected + change.sensor_offset
        np.testing.assert_array_equal(shown, expected)


def test_a_reversed_motor_pushes_the_other_way():
    change = RobotChange("motor reversed", motor_matrix=np.diag([1, -1, 1]))
    ours, theirs = changed("Hopper", change), stock("Hopper")
    assert_same(
        episode(ours, np.array([[0.3, 0.8, -0.1]]), seed=0),
        episode(theirs, np.array([[0.3, -0.8, -0.1]]), seed=0),
    )


def test_commands_are_clipped_before_and_after_the_motors_map_them():
    change = RobotChange(
        "weak", motor_matrix=np.diag([0.5, 1, 1]).tolist(), motor_offset=[0, 0.5, 0]
    )
    env = changed("Hopper", change).unwrapped
    env.reset(seed=0)
    env.step([3.0, 0.8, -3.0])
    assert env.data.ctrl.tolist() == [0.5, 1.0, -1.0]


def test_a_late_action_is_executed_that_many_steps_later():
    env = changed("Hopper", RobotChange("delay", delay=2)).unwrapped
    for _ in range(2):
        env.reset(seed=0)
        executed = []
        for value in (0.1, 0.2, 0.3, 0.4):
            env.step(np.full(3, value))
            executed.append(env.data.ctrl[0])
        assert executed == [0.0, 0.0, 0.1, 0.2]


def test_factors_reach_the_model_and_what_is_derived_from_it(robot):
    change = RobotChange("physics", mass=1.7, damping=2.5, friction=0.4, gravity=1.2)
    env, theirs = changed(robot, change), stock(robot)
    model, intact = env.unwrapped.model, theirs.unwrapped.model
    for name, factor in (
        *(("body_mass", 1.7), ("body_inertia", 1.7), ("body_subtreemass", 1.7)),
        *(("dof_damping", 2.5), ("geom_friction", 0.4)),
    ):
        np.testing.assert_allclose(getattr(model, name), factor * getattr(intact, name))
    assert model.opt.gravity.tolist() == [0.0, 0.0, -9.81 * 1.2]
    # Where cameras and lights are, seen from the centre of mass, moves by a last bit.
    seen_from = ("cam_", "light_")
    assert {each for each in differing_fields(model, intact) if not each.startswith(seen_from)} == {
        *("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "actuator_acc0"),
        *("dof_M0", "dof_invweight0", "dof_damping", "geom_friction"),
    }
    # The start is the same: gymnasium draws it around the model's own.
    assert_same(*(episode(each, [], seed=3) for each in (env, theirs)))


def test_factors_scale_the_model_of_any_robot():
    change = RobotChange("physics", mass=1.7, damping=2.5, friction=0.4, gravity=1.2)
    task_env = gymnasium.make("MIER/HalfCheetahNegatedJoints-v0").unwrapped
    change.scale_physics(task_env.model)
    scaled = changed("HalfCheetah", change).unwrapped.model
    for name in ("body_mass", "body_inertia", "body_subtreemass", "dof_damping", "geom_friction"):
        np.testing.assert_array_equal(getattr(task_env.model, name), getattr(scaled, name))
    assert task_env.model.opt.gravity.tolist() == scaled.opt.gravity.tolist()
    with pytest.raises(TypeError, match=r"to be a mujoco\.MjModel, got HalfCheetah.*unwrapped"):
        change.scale_physics(task_env)


def test_masses_are_those_of_a_model_file_of_such_masses():
    """All that MuJoCo derives is as if it had compiled a file of twice the density."""
    env = changed("Hopper", RobotChange("masses", mass=2.0)).unwrapped
    spec = mujoco.MjSpec.from_file(env.fullpath)
    for geom in spec.geoms:
        geom.density *= 2.0
    compiled = spec.compile()
    names = [name for name in dir(compiled) if name.startswith(("body_", "dof_", "actuator_acc"))]
    for name in names:
        np.testing.assert_allclose(getattr(env.model, name), getattr(compiled, name), atol=1e-12)
    assert env.model.stat.meaninertia == pytest.approx(compiled.stat.meaninertia)


@pytest.mark.parametrize("robot", FALLING)
def test_episodes_end_where_termination_fn_says(robot):
    env = changed(robot)
    ends = 0
    for seed in range(10):
        obs, _ = env.reset(seed=seed)
        for act in actions(env, 200, seed):
            obs_next, _, terminated, _, _ = env.step(act)
            (says,) = env.unwrapped.termination_fn(obs[None], act[None], obs_next[None])
            assert says == terminated
            ends += terminated
            obs = obs_next
            if terminated:
                break
    assert ends == 10


def test_termination_fn_is_the_rule_of_the_stock_environment(robot):
    """Of states on both sides of every limit."""
    env, random = stock(robot).unwrapped, np.random.default_rng(0)
    env.reset(seed=0)
    height, healthy, obs_BO = {"Ant": 2}.get(robot, 1), [], []
    for _ in range(400):
        qpos, qvel = env.init_qpos.copy(), random.normal(0.0, 2.0, env.model.nv)
        qpos[height] = random.uniform(0.0, 2.5)
        if robot != "Ant":
            qpos[2] = random.uniform(-0.4, 0.4) * (5.0 if robot == "Walker2d" else 1.0)
            qpos[-1] = random.choice([0.0, 99.0, 101.0])
        env.set_state(qpos, qvel)
        healthy.append(getattr(env, "is_healthy", True))
        obs_BO.append(env._get_obs())
    ended_B = changed(robot).unwrapped.termination_fn(None, None, np.array(obs_BO))
    np.testing.assert_array_equal(ended_B, ~np.array(healthy))
    assert ended_B.dtype == np.bool_
    assert 0 < ended_B.sum() < 400 or (robot == "HalfCheetah" and not ended_B.any())


@pytest.mark.parametrize("robot", ["Ant", *FALLING])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_observations_that_are_not_finite_end_an_episode(robot, value):
    env = changed(robot)
    obs, _ = env.reset(seed=0)
    rows = np.stack([obs, obs])
    rows[1, 1] = value
    ended_B = env.unwrapped.termination_fn(rows, np.zeros((2, 1)), rows)
    assert ended_B.tolist() == [False, True]


def test_what_an_unstable_simulation_returns():
    env = changed("HalfCheetah", RobotChange("gravity", gravity=1e9))
    obs, _ = env.reset(seed=0)
    obs_next, rew, terminated, truncated, info = env.step(np.zeros(6))
    np.testing.assert_array_equal(obs_next, obs)
    assert (rew, terminated, truncated) == (0.0, False, True)
    assert info.pop("unstable") == "mjWARN_BADQACC"
    assert set(info) == {"x_position", "x_velocity", "reward_forward", "reward_ctrl"}
    assert not any(info.values())
    env.reset(seed=0)  # and goes on


# Changes as values ------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
lists = st.none() | st.lists(finite, min_size=1, max_size=5)
factors = st.floats(0.0, 1e9)
changes = st.builds(
    RobotChange,
    st.text(min_size=1, max_size=9),
    st.text(max_size=9),
    motor_matrix=st.none()
    | st.integers(1, 4).flatmap(lambda n: st.lists(numbers(n), min_size=n, max_size=n)),
    motor_offset=lists,
    sensor_gain=lists,
    sensor_offset=lists,
    delay=st.integers(0, 10**6),
    mass=st.floats(1e-9, 1e9),
    damping=factors,
    friction=factors,
    gravity=factors,
)


@given(changes)
def test_changes_survive_json(change):
    read = RobotChange.from_json(change.to_json())
    assert read == change
    assert (read.label, hash(read)) == (change.label, hash(change))
    assert read.to_json() == change.to_json()
    assert RobotChange.from_dict(json.loads(json.dumps(change.to_dict()))) == change


def test_changes_are_equal_by_kind_and_numbers():
    change = RobotChange("masses", "heavy", mass=2)
    assert change == RobotChange("masses", mass=np.float32(2.0))
    assert change != replace(change, mass=2.5)
    assert change != replace(change, kind="weight")
    assert (str(change), str(replace(change, label=""))) == ("heavy", "masses")
    assert type(change.mass) is float
    assert type(RobotChange("delay", delay=np.int64(1)).delay) is int
    with pytest.raises(AttributeError):
        change.mass = 3.0


def test_a_dict_form_needs_a_kind_alone():
    assert RobotChange.from_dict({"kind": "masses", "mass": 2}) == RobotChange("masses", mass=2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": ""}, "kind must be a non-empty string and label a string, got ''"),
        ({"kind": 3}, "kind must be a non-empty string"),
        ({"label": None}, "label a string, got 'x' and None"),
        ({"motor_matrix": [[1.0, 0.0]]}, "motor_matrix must be None or a square matrix, row by"),
        ({"motor_matrix": [[1.0, 0.0], [1.0]]}, r"motor_matrix .* got \[\[1.0, 0.0\], \[1.0\]\]"),
        ({"motor_matrix": [1.0, 1.0]}, "motor_matrix must be None or a square matrix"),
        ({"motor_offset": 0.1}, "motor_offset must be None or a flat sequence of finite numbers"),
        ({"motor_offset": [math.nan]}, r"motor_offset .* finite numbers, got \[nan\]"),
        ({"sensor_gain": [1.0, None]}, "sensor_gain .* Give an entry also for what does not"),
        ({"sensor_gain": [10**400]}, "sensor_gain .* finite numbers"),
        ({"sensor_offset": "12"}, "sensor_offset .* got '12'"),
        ({"sensor_offset": {"a": 1}}, "sensor_offset .* got {'a': 1}"),
        ({"delay": -1}, "delay must be an int and >= 0, got -1"),
        ({"delay": 1.0}, "delay must be an int and >= 0, got 1.0"),
        ({"delay": True}, "delay must be an int and >= 0, got True"),
        ({"mass": 0.0}, "mass must be finite and > 0, got 0.0"),
        ({"mass": 10**400}, "mass must be finite and > 0, got 1000"),
        ({"damping": -0.1}, "damping must be finite and >= 0, got -0.1"),
        ({"friction": math.nan}, "friction must be finite and >= 0, got nan"),
        ({"gravity": math.inf}, "gravity must be finite and >= 0, got inf"),
        ({"gravity": "1"}, "gravity must be finite and >= 0, got '1'"),
    ],
)
def test_bad_changes(arguments, message):
    with pytest.raises(ValueError, match=message):
        RobotChange(**{"kind": "x", **arguments})


@pytest.mark.parametrize("values", [{}, {"mass": 2.0}, {"kind": "x", "speed": 1}, ["x"], 1.5, "x"])
def test_bad_dict_forms(values):
    with pytest.raises(ValueError, match="change must be a RobotChange or its dict form"):
        RobotChange.from_dict(values)
    with pytest.raises(ValueError, match="change must be a RobotChange or its dict form"):
        changed("Hopper", values)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, '{"kind":' * 20_000, "9" * 10_000, "1", "null", "{", '{"kind": [1]}'),
        *('{"kind": "x", "mass": 1e999}', '{"kind": "x", "delay": %s}' % ("9" * 10_000)),
        '{"kind": "x", "motor_matrix": ' + "[" * 500 + "]" * 500 + "}",
    ],
    ids=lambda text: text[:40],
)
def test_json_that_is_no_change_is_a_value_error(text):
    with pytest.raises(ValueError) as info:  # noqa: PT011
        RobotChange.from_json(text)
    assert len(str(info.value)) < 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"motor_matrix": np.eye(6)},
            r"motor_matrix .* ChangedHopperEnv .* \(3, 3\), got \(6, 6\)",
        ),
        ({"motor_offset": np.ones(1)}, r"motor_offset .* must have shape \(3,\), got \(1,\)"),
        ({"sensor_gain": np.ones(17)}, r"sensor_gain .* \(11,\), got \(17,\). Was the change made"),
        ({"sensor_offset": np.ones(3)}, r"sensor_offset .* \(11,\), got \(3,\)"),
    ],
)
def test_changes_of_another_robot_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        changed("Hopper", RobotChange("x", **change))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(4), r"action expected shape \(3,\), got \(4,\)"),
        (np.array([0.0, np.nan, 0.0]), "action must be finite"),
        ("abc", "action must be an array of real numbers"),
    ],
)
def test_bad_actions(action, message):
    env = changed("Hopper", RobotChange("delay", delay=1)).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    env.step(np.full(3, 0.5))
    env.step(np.zeros(3))
    assert env.data.ctrl.tolist() == [0.5] * 3  # what was refused is not on its way


# The sets ---------------------------------------------------------------------------------------

FROZEN = {
    "HalfCheetah development": "899f5a7ad17bcfb1",
    "HalfCheetah test": "4d237601f19abc85",
    "Ant development": "9db69b44bb16bc54",
    "Ant test": "461abc4bb1c05986",
    "Hopper development": "0b822db64a5684ac",
    "Hopper test": "624a3e2924b3e14a",
    "Walker2d development": "5191960d4a27f023",
    "Walker2d test": "c47e96b27ff363fb",
}


def test_every_set_is_frozen():
    assert {f"{r} {n}": change_set(r, n).hash[:16] for r, n in SETS} == FROZEN


def different(change):
    """What a change is about: motors, sensors, and the numbers that were drawn for it."""
    motors, sensors, values = set(), set(), set()
    if change.motor_matrix:
        matrix = np.array(change.motor_matrix)
        motors |= set(np.flatnonzero((matrix != np.eye(len(matrix))).any(axis=0)).tolist())
        values |= set(matrix.ravel()) - {-1.0, 0.0, 1.0}
    if change.sensor_gain:
        sensors |= set(np.flatnonzero(np.array(change.sensor_gain) != 1.0).tolist())
    if change.sensor_offset:
        sensors |= set(np.flatnonzero(change.sensor_offset).tolist())
    for offsets in (change.motor_offset or (), change.sensor_offset or ()):
        values |= set(offsets) - {0.0}
    factors = {change.mass, change.damping, change.friction, change.gravity}
    return frozenset(motors), frozenset(sensors), values | factors - {1.0}


def test_a_test_has_changes_of_every_kind_and_begins_with_none(robot):
    counted = Counter(change.kind for change in change_set(robot, "test"))
    assert list(counted.items()) == [
        *(("none", 1), ("motor reversed", 2 if robot == "Hopper" else 3), ("motors reversed", 1)),
        *(("motors swapped", 2), ("motor weak", 2), ("motor dead", 2), ("all motors weak", 1)),
        *(("motor offset", 1), ("motors mixed", 1), ("sensor reversed", 2), ("sensor offset", 2)),
        *(("masses", 1), ("damping", 1), ("friction", 1), ("gravity", 1), ("delay", 1)),
        ("two changes", 2),
    ]
    assert change_set(robot, "test")[0] == RobotChange("none")


def test_development_and_test_are_disjoint(robot):
    development, test = change_set(robot, "development"), change_set(robot, "test")
    assert len(development) == 12
    assert not set(development) & set(test)
    for change in development:
        motors, sensors, values = different(change)
        for other in (each for each in test if each.kind == change.kind):
            other_motors, other_sensors, other_values = different(other)
            assert not values & other_values
            assert not sensors & other_sensors
            if change.kind in SINGLE_MOTORS:
                assert not motors & other_motors
            elif change.kind in PAIRS:
                assert motors != other_motors
            else:
                assert values or sensors, change


@pytest.mark.parametrize(("robot", "name"), SETS)
def test_changes_are_as_large_as_their_kind_says(robot, name):
    env = changed(robot).unwrapped
    intact, num_motors = np.eye(env.model.nu), env.model.nu
    limits = {
        "motor weak": (0.3, 0.7),
        "all motors weak": (0.5, 0.8),
        "motor offset": (0.1, 0.3),
        "sensor offset": (0.2, 0.5),
        "masses": (1.5, 2.0),
        "damping": (2.0, 3.0),
        "friction": (0.3, 0.5),
        "gravity": (1.1, 1.13),
    }
    for change in change_set(robot, name):
        motors, sensors, values = different(change)
        least, most = limits.get(change.kind, (0.0, 1.0))
        assert all(least <= abs(value) <= most for value in values)
        assert bool(values) == (change.kind in {*limits, "motors mixed", "two changes"})
        assert bool(sensors) == change.kind.startswith("sensor")
        if change.kind in SINGLE_MOTORS:
            assert len(motors) == 1
        elif change.kind in PAIRS:
            assert len(motors) == 2
        elif change.kind == "all motors weak":
            assert (len(motors), len(values)) == (num_motors, 1)
        if change.kind in ("motors reversed", "motors swapped", "motors mixed"):
            # Turns and reflections: no motor is stronger than it was.
            matrix = np.array(change.motor_matrix)
            np.testing.assert_allclose(matrix @ matrix.T, intact, atol=1e-8)
            mixing = np.degrees(np.arccos(matrix.diagonal().min()))
            assert change.kind != "motors mixed" or 30.0 <= mixing <= 60.0
        assert change.delay == (change.kind == "delay")


@pytest.mark.parametrize(("robot", "name"), SETS)
def test_labels_name_motors_and_sensors_as_the_model_does(robot, name):
    model = changed(robot).unwrapped.model
    motors = [model.joint(joint).name for joint in model.actuator_trnid[:, 0]]
    skipped = 2 if robot == "Ant" else 1
    sensors = {}
    for joint in map(model.joint, motors):
        label = joint.name.removesuffix("_joint")
        sensors[int(joint.qposadr[0]) - skipped] = f"angle of {label}"
        sensors[model.nq - skipped + int(joint.dofadr[0])] = f"velocity of {label}"
    labels = []
    for change in change_set(robot, name):
        changed_motors, changed_sensors, _ = different(change)
        if change.kind in (*SINGLE_MOTORS, *PAIRS):
            named = [motors[motor].removesuffix("_joint") for motor in sorted(changed_motors)]
            assert change.label.startswith(" and ".join(named))
        for sensor in changed_sensors:
            assert change.label.startswith(sensors[sensor])
        labels.append(str(change))
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(("robot", "name"), SETS)
def test_no_sensor_of_a_set_decides_about_an_episodes_end(robot, name):
    """So that the rule holds for what is observed as well, as long as numbers stay small."""
    env, random = changed(robot).unwrapped, np.random.default_rng(0)
    true_BO = random.uniform(-2.0, 2.0, (500, *env.observation_space.shape))
    ended_B = env.termination_fn(true_BO, None, true_BO)
    for change in change_set(robot, name):
        shown_BO = true_BO * (change.sensor_gain or 1.0) + (change.sensor_offset or 0.0)
        np.testing.assert_array_equal(env.termination_fn(shown_BO, None, shown_BO), ended_B)


def test_the_sets_hash_depends_on_changes_and_robot_only():
    mine = (RobotChange("masses", "heavy", mass=2.0), RobotChange("delay", delay=1))
    changes = ChangeSet("Hopper", "mine", list(mine))
    assert (changes.env_id, len(changes), changes[1]) == ("MIER/ChangedHopper-v0", 2, mine[1])
    assert changes[:1] == mine[:1]
    assert tuple(changes) == mine
    assert hash(changes) == hash(ChangeSet("Hopper", "mine", mine))
    relabelled = ChangeSet("Hopper", "other", [replace(each, label="x") for each in mine])
    assert relabelled.hash == changes.hash
    hashes = [
        changes.hash,
        ChangeSet("Walker2d", "mine", mine).hash,
        ChangeSet("Hopper", "mine", mine[::-1]).hash,
        ChangeSet("Hopper", "mine", mine[:1]).hash,
        ChangeSet("Hopper", "mine", (replace(mine[0], kind="x"), mine[1])).hash,
    ]
    assert len(set(hashes)) == len(hashes)
    assert all(len(one) == 64 for one in hashes)


def test_drawing_leaves_numpys_global_generator_alone():
    from mier_adapt_envs.change_sets import _change_sets

    _, before, position, *_ = np.random.get_state()  # noqa: NPY002
    assert _change_sets.__wrapped__("Ant")["test"] == change_set("Ant", "test")
    _, after, new_position, *_ = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(before, after)
    assert position == new_position


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: change_set("Humanoid", "test"), "robot must be one of HalfCheetah, .* 'Humanoid'"),
        (lambda: change_set("Ant", "train"), "must be one of development, test, got 'train'"),
        (lambda: change_set(["Ant"], "test"), r"robot must be one of .*, got \['Ant'\]"),
        (lambda: change_set("Ant", ["test"]), r"name of a change_set .*, got \['test'\]"),
        (lambda: ChangeSet("Humanoid", "mine", ()), "robot must be one of HalfCheetah, Ant, Hop"),
        (lambda: ChangeSet("Ant", 3, ()), "name a string, got 'Ant' and 3"),
        (
            lambda: ChangeSet("Ant", "mine", [RobotChange("none"), {"kind": "none"}]),
            r"changes\[1\] must be a RobotChange, .* with RobotChange.from_dict",
        ),
        (lambda: ChangeSet("Ant", "mine", 5), "changes must be a sequence of RobotChange, got 5"),
    ],
)
def test_bad_sets(call, message):
    with pytest.raises(ValueError, match=message):
        call()
