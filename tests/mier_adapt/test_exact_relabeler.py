"""Stored experience of a known robot is, exactly, experience of the changed one."""

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt import ExactRelabeler, Transitions
from mier_adapt.compensation import Compensation
from mier_adapt.protocols import SyntheticSource
from mier_adapt_envs import RobotChange

STEPS = 20


def stored(env, steps=STEPS):
    """Transitions of an episode, and the simulator's states in which they begin."""
    env.reset(seed=1)
    generator, rows, states = np.random.default_rng(0), [], []
    robot = env.unwrapped
    for _ in range(steps):
        states.append((robot.data.qpos.copy(), robot.data.qvel.copy()))
        act = generator.uniform(-1, 1, env.action_space.shape)
        robot.set_state(*states[-1])  # which also forgets what the solver knew
        obs = robot._get_obs()
        obs_next, rew, terminated, _, _ = env.step(act)
        rows.append((obs, act, rew, obs_next, terminated))
    columns = zip(*rows, strict=True)
    return Transitions(*(torch.from_numpy(np.array(each)) for each in columns)), states


@pytest.mark.parametrize("robot", ["Hopper", "HalfCheetah"])
@pytest.mark.parametrize("kind", ["reversed, swapped and shifted", "weak", "sensors"])
def test_it_is_what_the_simulator_does(robot, kind):
    intact = gymnasium.make(f"MIER/Changed{robot}-v0", change=RobotChange("none"))
    known, states = stored(intact)
    dims = known.act.shape[-1], known.obs.shape[-1]
    matrix, offset = np.eye(dims[0]), np.zeros(dims[0])
    gain, shift = np.ones(dims[1]), np.zeros(dims[1])
    if kind == "weak":
        matrix[1, 1] = 0.6
    elif kind == "sensors":
        gain[2], shift[1] = -1.0, 0.25
    else:
        matrix = np.diag([-1.0, *[1.0] * (dims[0] - 1)])[[1, 0, *range(2, dims[0])]]
        offset[0] = 0.1
    change = RobotChange(
        "changed",
        motor_matrix=matrix.tolist(),
        motor_offset=offset.tolist(),
        sensor_gain=gain.tolist(),
        sensor_offset=shift.tolist(),
    )
    undone = Compensation(matrix, offset, np.diag(1 / gain), -shift / gain)
    relabeler = ExactRelabeler(undone)
    assert isinstance(relabeler, SyntheticSource)
    relabeled = relabeler.relabel(known)
    assert STEPS / 3 < len(relabeled) <= STEPS
    assert (len(relabeled) == STEPS) == (kind == "sensors")
    changed = gymnasium.make(f"MIER/Changed{robot}-v0", change=change)
    changed.reset(seed=0)
    executed = undone.executed(relabeled.act.numpy())
    for row, act in enumerate(executed):
        place = int(np.abs(known.act.numpy() - act).max(-1).argmin())  # which one it was
        changed.unwrapped.set_state(*states[place])
        obs_next, rew, terminated, *_ = changed.step(relabeled.act[row].numpy())
        np.testing.assert_allclose(relabeled.obs_next[row], obs_next, atol=1e-6)
        np.testing.assert_allclose(
            relabeled.obs[row], gain * known.obs[place].numpy() + shift, atol=1e-6
        )
        assert float(relabeled.rew[row]) == pytest.approx(rew, abs=1e-6)
        assert bool(relabeled.terminated[row]) == terminated


@given(st.permutations(range(3)), st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
def test_where_wires_are_only_exchanged_and_reversed_nothing_is_left_out(order, signs):
    matrix = np.diag(signs) @ np.eye(3)[list(order)]
    act = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    known = Transitions(act, act, act[:, 0], act, act[:, 0] > 0)
    relabeled = ExactRelabeler(Compensation(matrix, np.zeros(3))).relabel(known)
    assert torch.equal(relabeled.act @ torch.tensor(matrix).float().T, act)
    for name in ("obs", "rew", "obs_next", "terminated"):
        assert torch.equal(getattr(relabeled, name), getattr(known, name))


def test_what_the_changed_robot_cannot_do_is_left_out_and_nothing_at_all_is_refused():
    act = torch.tensor([[0.2, 0.0], [0.9, 0.0], [0.1, 0.5]])
    known = Transitions(act, act, torch.arange(3.0), act, torch.zeros(3, dtype=torch.bool))
    half = ExactRelabeler(Compensation(np.diag([0.5, 0.0]), np.zeros(2)))  # weak, and dead
    found = half.relabel(known)
    assert found.rew.tolist() == [0.0]
    np.testing.assert_allclose(found.act, [[0.4, 0.0]], atol=1e-6)
    assert list(half.stream([known[1:]])) == []
    with pytest.raises(ValueError, match="can execute, got none of 2"):
        half.relabel(known[1:])


def test_a_reward_of_what_is_told_is_asked_for_anew():
    act = torch.tensor([[0.2], [-0.4]])
    known = Transitions(act, act, torch.ones(2), act, torch.zeros(2, dtype=torch.bool))
    half = Compensation(np.diag([0.5]), np.zeros(1))
    charged = ExactRelabeler(half, reward_fn=lambda obs, act, obs_next: -act[:, 0].square())
    torch.testing.assert_close(charged.relabel(known).rew, torch.tensor([-0.16, -0.64]))
    wrong = ExactRelabeler(half, reward_fn=lambda obs, act, obs_next: act)
    with pytest.raises(ValueError, match=r"reward_fn's answer"):
        wrong.relabel(known)
