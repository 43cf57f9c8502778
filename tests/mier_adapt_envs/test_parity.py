"""Our families, where they coincide with gymnasium's v5 environments, against these."""

import gymnasium
import numpy as np
import pytest
from env_helpers import make

from mier_adapt_envs import Task


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # HalfCheetah-v5 makes MuJoCo write a log file


def compare(ours, theirs, *, obs_ours, obs_theirs, scale=1.0, survival=0.0):
    """Step both with the same actions and return the number of steps that were compared."""
    steps = 0
    actions = np.random.default_rng(0)
    for seed in range(3):
        ours_obs, _ = ours.reset(seed=seed)
        theirs_obs, _ = theirs.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated):
            np.testing.assert_allclose(
                ours_obs[obs_ours], theirs_obs[obs_theirs].astype(np.float32), rtol=1e-6, atol=1e-7
            )
            action = actions.uniform(-1, 1, ours.action_space.shape)
            ours_obs, rew, terminated, truncated, info = ours.step(action)
            theirs_obs, their_rew, their_end, _, their_info = theirs.step(scale * action)
            assert terminated == their_end
            # v4 and v5 withhold the survival reward on the step that terminates.
            withheld = survival if terminated else 0.0
            assert rew == pytest.approx(their_rew + withheld, abs=1e-9)
            for term in their_info.keys() & info.keys() - {"reward_survive"}:
                assert info[term] == pytest.approx(their_info[term], abs=1e-9)
            steps += 1
    return steps


def test_half_cheetah():
    ours = make("HalfCheetahNegatedJoints", task=Task("HalfCheetahNegatedJoints", (1,) * 6))
    theirs = gymnasium.make("HalfCheetah-v5")
    same = slice(0, 17)
    assert compare(ours, theirs, obs_ours=same, obs_theirs=same) == 600


@pytest.mark.parametrize(
    "task", [Task("AntDir", (0.0,)), Task("AntNegatedJoints", (1,) * 8)], ids=lambda t: t.family
)
def test_ant(task):
    same = slice(0, 27)
    ours, theirs = make(task.family, task=task), gymnasium.make("Ant-v5")
    assert compare(ours, theirs, obs_ours=same, obs_theirs=same, survival=1.0) > 100


def test_ant_goal_observes_what_ant_v5_does():
    ours, theirs = make("AntGoal"), gymnasium.make("Ant-v5", terminate_when_unhealthy=False)
    ours.reset(seed=0)
    theirs.reset(seed=0)
    contacts = 0
    for _ in range(100):
        action = theirs.action_space.sample()
        obs, _, _, _, info = ours.step(action)
        theirs_obs, _, _, _, their_info = theirs.step(action)
        np.testing.assert_allclose(
            np.delete(obs, [0, 1, *range(29, 35)]), theirs_obs.astype(np.float32), atol=1e-7
        )
        assert info["reward_contact"] == pytest.approx(their_info["reward_contact"], abs=1e-12)
        contacts += info["reward_contact"] < 0
    assert contacts > 10


def test_ant_goal_reward():
    goal = Task("AntGoal", (1.0, -2.0))
    env = make("AntGoal", task=goal)
    env.reset(seed=0)
    action = np.linspace(-0.5, 0.5, 8)
    _, _, _, _, info = env.step(action)
    x, y = env.unwrapped.data.body("torso").xpos[:2]
    assert info["reward_goal"] == pytest.approx(-abs(x - 1.0) - abs(y + 2.0))
    assert info["reward_ctrl"] == pytest.approx(-0.1 * np.sum(action**2))


def test_walker2d():
    ours = make("Walker2dRandParams", task=Task("Walker2dRandParams", (1.0,) * 65))
    theirs = gymnasium.make("Walker2d-v5", xml_file="walker2d.xml")
    theirs.unwrapped.model.opt.timestep = 0.004
    same = slice(0, 17)
    assert compare(ours, theirs, obs_ours=same, obs_theirs=same, survival=1.0) > 30


def test_humanoid():
    ours = make("HumanoidDir", task=Task("HumanoidDir", (0.0,)))
    theirs = gymnasium.make("Humanoid-v5")
    # v5 leaves out the world body's rows and the root's actuator forces.
    cinert, cvel, actuator, cfrc = 45, 185, 269, 292
    left_out = np.r_[
        cinert : cinert + 10, cvel : cvel + 6, actuator : actuator + 6, cfrc : cfrc + 6
    ]
    shared = np.delete(np.arange(376), left_out)
    steps = compare(ours, theirs, obs_ours=shared, obs_theirs=slice(None), scale=0.4, survival=5.0)
    assert steps > 30


def test_half_cheetah_velocity_and_direction_rewards():
    action = np.array([1.0, -0.5, 0.25, 0.0, 0.5, -1.0])
    for task, expected in (
        (Task("HalfCheetahVel", (2.0,)), lambda v: -abs(v - 2.0)),
        (Task("HalfCheetahDir", (-1.0,)), lambda v: -v),
    ):
        env = make(task.family, task=task)
        env.reset(seed=0)
        before = env.unwrapped.data.qpos[0]
        _, rew, _, _, info = env.step(action)
        velocity = (env.unwrapped.data.qpos[0] - before) / 0.05
        assert info["x_velocity"] == pytest.approx(velocity)
        assert rew == pytest.approx(expected(velocity) - 0.05 * np.sum(action**2))


def test_half_cheetah_observes_the_torso_as_the_simulation_left_it():
    env = make("HalfCheetahVel")
    env.reset(seed=0)
    obs = env.step(np.ones(6))[0]
    np.testing.assert_array_equal(obs[17:], env.unwrapped.data.xpos[1].astype(np.float32))


def test_ant_direction_turns_the_reward():
    rewards = {}
    for direction in (0.0, np.pi / 2, np.pi):
        env = make("AntDir", task=Task("AntDir", (direction,)))
        env.reset(seed=0)
        rewards[direction] = env.step(np.ones(8))[4]
    info = rewards[0.0]
    assert info["reward_forward"] == pytest.approx(info["x_velocity"])
    assert rewards[np.pi]["reward_forward"] == pytest.approx(-info["x_velocity"])
    assert rewards[np.pi / 2]["reward_forward"] == pytest.approx(info["y_velocity"])


def test_negated_joints_negate():
    """The mask on actions is the mask on controls."""
    family = "AntNegatedJoints"
    mask = (-1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0)
    masked, plain = make(family, task=Task(family, mask)), make(family, task=Task(family, (1,) * 8))
    masked.reset(seed=0)
    plain.reset(seed=0)
    action = np.linspace(-1, 1, 8)
    np.testing.assert_array_equal(masked.step(action)[0], plain.step(mask * action)[0])


def test_termination_agrees_with_the_definition():
    """Against bounds written down again, on states set by hand."""
    bounds = {"AntDir": (0.2, 1.0, True), "HumanoidDir": (1.0, 2.0, True)}
    for family, (low, high, closed) in bounds.items():
        env = make(family).unwrapped
        obs = np.zeros((5, env.observation_space.shape[0]), dtype=np.float32)
        obs[:, 0] = [low - 0.01, low, (low + high) / 2, high, high + 0.01]
        ends = env.termination_fn(obs, np.zeros((5, env.model.nu)), obs)
        assert ends.tolist() == [True, not closed, False, not closed, True]
    walker = make("Walker2dRandParams").unwrapped
    obs = np.zeros((6, 17), dtype=np.float32)
    obs[:, 0] = [0.8, 0.81, 1.99, 2.0, 1.0, 1.0]
    obs[:, 1] = [0.0, 0.99, -0.99, 0.0, 1.0, -1.01]
    ends = walker.termination_fn(obs, np.zeros((6, 6)), obs)
    assert ends.tolist() == [True, False, False, True, True, True]
    broken = np.full((1, 27), np.nan, dtype=np.float32)
    assert make("AntDir").unwrapped.termination_fn(broken, np.zeros((1, 8)), broken).tolist() == [
        True
    ]
