"""Every environment as a gymnasium environment, and its task."""

import copy
import dataclasses
import pickle
import re

import gymnasium
import numpy as np
import pytest
from env_helpers import make, random_actions, run_silently, spread_tasks
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import mier_adapt_envs
from mier_adapt_envs import Task
from mier_adapt_envs.half_cheetah import HalfCheetahVelEnv

ALL_SETS = [
    (family, name)
    for family in mier_adapt_envs.families()
    for name in mier_adapt_envs.task_sets(family)
]


def rollout(env, actions, **reset):
    """All that an episode returns, as one list."""
    obs, _ = env.reset(**reset)
    returned = [obs]
    for action in actions:
        obs, rew, terminated, truncated, info = env.step(action)
        returned += [obs, rew, terminated, truncated, *info.values()]
        if terminated or truncated:
            break
    return returned


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


# gymnasium finds unbounded observations suspicious.
@pytest.mark.filterwarnings("ignore:.*Box observation space .* is -?infinity.*:UserWarning")
@pytest.mark.parametrize(("family", "name"), ALL_SETS)
def test_check_env(family, name):
    tasks = mier_adapt_envs.task_set(family, name)
    for task in (tasks[0], tasks[-1]):
        env = gymnasium.make(tasks.env_id, task=task)
        check_env(env.unwrapped, skip_render_check=True)
        assert env.unwrapped.task == task
        env.close()


def test_spec_survives_json(family):
    task = spread_tasks(family, 3)[-1]
    env = make(family, task=task)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert gymnasium.make(spec).unwrapped.task == task
    assert spec.max_episode_steps == 200
    assert spec.namespace == "MIER"


def test_default_task_is_the_first_of_the_default_set(family):
    assert make(family).unwrapped.task == mier_adapt_envs.task_set(family).meta_train[0]


def test_only_a_task_option_changes_the_task(family):
    first, second = spread_tasks(family, 2)
    env = make(family, task=first)
    assert env.reset(seed=0)[1]["task"] == first
    assert env.reset(options={"task": second.to_dict()})[1]["task"] == second
    assert env.reset()[1]["task"] == second
    assert env.reset(options={})[1]["task"] == second
    assert env.step(env.action_space.sample())[4]["task"] == second


def test_a_task_comes_alone(family):
    """An environment that has seen other tasks behaves as a new one."""
    first, second = spread_tasks(family, 2)
    actions = random_actions(family, 20)
    used, new = make(family, task=first), make(family, task=second)
    used.reset(seed=1)
    used.step(actions[0])
    assert_same(
        rollout(used, actions, seed=3, options={"task": second}), rollout(new, actions, seed=3)
    )


def test_a_switch_within_an_episode_acts_on_the_next_step():
    names = ("HalfCheetahNegatedJoints", "Walker2dRandParams")
    for family in names:
        first, second = spread_tasks(family, 2)
        switched, kept = make(family, task=first), make(family, task=first)
        action = random_actions(family, 1)[0]
        for env in (switched, kept):
            env.reset(seed=0)
        switched.unwrapped.set_task(second)
        obs, _, _, _, info = switched.step(action)
        assert info["task"] == second
        assert np.abs(obs - kept.step(action)[0]).max() > 1e-6


def test_a_step_begins_where_the_simulation_was_put(family):
    env = make(family)
    env.reset(seed=0)
    *before, action = random_actions(family, 4)
    for each in before:
        env.step(each)
    unwrapped = env.unwrapped
    put = unwrapped.data.qpos.copy(), unwrapped.data.qvel.copy()
    outcomes = []
    for _ in range(3):
        unwrapped.set_state(*put)  # gymnasium's
        obs, rew, _, _, info = env.step(action)
        outcomes.append([*obs, rew, *(value for name, value in info.items() if name != "task")])
    np.testing.assert_allclose(outcomes[1:], outcomes[:1] * 2, atol=1e-4)


def test_a_family_that_measures_in_another_shape_is_named():
    class Column(HalfCheetahVelEnv):
        @staticmethod
        def measure(before, after, act_BA, parameters_BP):
            found = HalfCheetahVelEnv.measure(before, after, act_BA, parameters_BP)
            return {**found, "reward_speed": 1.0 - parameters_BP}

    class Always(HalfCheetahVelEnv):
        @staticmethod
        def termination_fn(obs_BO, act_BA, obs_next_BO):
            return False

    for kind, name in ((Column, "measure: 'reward_speed'"), (Always, "termination_fn")):
        env = kind()
        env.reset(seed=0)
        with pytest.raises(ValueError, match=rf"HalfCheetahVel expected .*\(1,\).*its {name}, got"):
            env.step(np.zeros(6))


def test_reward_is_the_sum_of_its_terms(family):
    for task in spread_tasks(family, 3):
        env = make(family, task=task)
        env.reset(seed=0)
        for action in random_actions(family, 30):
            _, rew, terminated, _, info = env.step(action)
            terms = [value for name, value in info.items() if name.startswith("reward_")]
            assert len(terms) >= 2
            assert rew == pytest.approx(sum(terms), abs=1e-12)
            if terminated:
                break


def test_actions_are_clipped(family):
    actions = random_actions(family, 10)
    env = make(family)
    assert_same(rollout(env, actions, seed=0), rollout(env, np.clip(actions, -1, 1), seed=0))


def test_episodes_end_after_200_steps():
    env = make("HalfCheetahVel")
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in random_actions("HalfCheetahVel", 200)]
    assert ends == [(False, False)] * 199 + [(False, True)]


def test_seeds_fix_episodes(family):
    actions = random_actions(family, 10)
    env, other = make(family), make(family)
    first, second = rollout(env, actions, seed=5), rollout(env, actions)
    assert_same(rollout(other, actions, seed=5), first)
    assert_same(rollout(other, actions), second)
    assert np.abs(first[0] - second[0]).max() > 1e-4


@pytest.mark.parametrize("kind", [np.int64, np.uint32])
def test_seeds_and_sizes_may_be_numpys(kind):
    env = gymnasium.make("MIER/HalfCheetahVel-v0").unwrapped
    starts = [env.reset(seed=seed)[0] for seed in (3, kind(3))]
    np.testing.assert_array_equal(*starts)
    robot = dataclasses.replace(env.robot, frame_skip=kind(5), timestep=np.float32(0.01))
    assert type(robot.frame_skip) is int
    assert type(robot.timestep) is float
    mier_adapt_envs.register(type(env), max_episode_steps=kind(200))
    assert type(gymnasium.spec(env.env_id).max_episode_steps) is int


def test_numpys_global_generator_is_left_alone(family):
    env_class = mier_adapt_envs.env_class(family)
    _, before, position, *_ = np.random.get_state()  # noqa: NPY002
    env_class.task_sets.__wrapped__(env_class)  # draws them anew
    rollout(make(family), random_actions(family, 5))
    _, after, new_position, *_ = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(before, after)
    assert position == new_position


def test_observations_share_no_memory(family):
    env = make(family)
    first, _ = env.reset(seed=0)
    second = env.step(env.action_space.sample())[0]
    kept = second.copy()
    second[:] = 7.0
    third = env.step(env.action_space.sample())[0]
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(second, third)
    assert np.abs(third - kept).max() < 1e3
    assert first.dtype == env.observation_space.dtype == np.float32


def test_a_pickled_environment_is_a_new_one_with_the_same_task(family):
    task = spread_tasks(family, 2)[1]
    env = make(family)
    env.reset(seed=0, options={"task": task})
    actions = random_actions(family, 10)
    for twin in (pickle.loads(pickle.dumps(env.unwrapped)), copy.deepcopy(env.unwrapped)):
        assert twin.task == task
        with pytest.raises(gymnasium.error.ResetNeeded):
            twin.step(actions[0])
        assert_same(rollout(twin, actions, seed=1), rollout(env.unwrapped, actions, seed=1))


def test_environments_do_not_share_a_model():
    one, other = make("HalfCheetahVel").unwrapped, make("HalfCheetahVel").unwrapped
    one.model.body_mass[1] = 100.0
    assert other.model.body_mass[1] < 100.0


def test_multipliers_of_1_leave_the_walker_as_it_is():
    family = "Walker2dRandParams"
    ones = Task(family, (1.0,) * 65)
    env, reference = make(family, task=ones).unwrapped, mier_adapt_envs.env_class(family).robot
    model = reference.compile()
    for field in ("body_mass", "body_inertia", "dof_damping", "geom_friction", "body_invweight0"):
        np.testing.assert_array_equal(getattr(env.model, field), getattr(model, field))


def test_multipliers_reach_the_walker():
    family = "Walker2dRandParams"
    values = np.arange(1.0, 66.0)
    env = make(family, task=Task(family, values)).unwrapped
    model = env.robot.compile()
    np.testing.assert_allclose(env.model.body_mass, model.body_mass * values[:8])
    np.testing.assert_allclose(
        env.model.body_inertia.ravel(), model.body_inertia.ravel() * values[8:32]
    )
    np.testing.assert_allclose(env.model.dof_damping, model.dof_damping * values[32:41])
    np.testing.assert_allclose(
        env.model.geom_friction.ravel(), model.geom_friction.ravel() * values[41:]
    )
    assert env.model.body_subtreemass[0] == pytest.approx(env.model.body_mass.sum())
    assert len(env.parameter_names) == len(set(env.parameter_names)) == 65
    assert env.parameter_names[8] == "body_inertia[0]"


# Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "task", "message"),
    [
        ("HalfCheetahVel", Task("AntDir", (1.0,)), "task must be of the family HalfCheetahVel"),
        ("HalfCheetahNegatedJoints", Task("HalfCheetahNegatedJoints", (1, 1)), "6 values .*got 2"),
        ("AntNegatedJoints", Task("AntNegatedJoints", (2,) * 8), r"mask of \+1 and -1"),
        ("HalfCheetahDir", Task("HalfCheetahDir", (0.5,)), r"must be \+1 or -1, got 0.5"),
        ("Walker2dRandParams", Task("Walker2dRandParams", (-1,) * 65), "must be positive"),
        (
            "AntDir",
            {"family": "AntDir", "parameters": [float("nan")]},
            r"finite numbers, got \[nan\]",
        ),
        ("AntDir", {"family": "AntDir"}, "dict form"),
        ("AntDir", 1.5, "Task or its dict form"),
    ],
)
def test_tasks_that_do_not_fit(family, task, message):
    with pytest.raises(ValueError, match=message):
        make(family, task=task)
    env = make(family)
    env.reset(seed=0)
    before = env.unwrapped.task
    with pytest.raises(ValueError, match=message):
        env.reset(options={"task": task})
    with pytest.raises(ValueError, match=message):
        env.unwrapped.set_task(task)
    assert env.unwrapped.task == before
    env.step(env.action_space.sample())


def test_unknown_options_are_rejected():
    with pytest.raises(
        ValueError, match=r"options must be None or a dict of \['task'\], got {'tusk'"
    ):
        make("AntDir").reset(options={"tusk": 1})


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(7), r"action expected shape \(8,\), got \(7,\)"),
        (np.zeros((1, 8)), "action expected shape"),
        (np.full(8, np.nan), "action must be finite"),
        (np.full(8, np.inf), "action must be finite"),
    ],
)
def test_bad_actions(action, message):
    env = make("AntDir").unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    env.step(np.zeros(8))


def test_steps_out_of_order():
    env = make("AntDir")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(8))
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset first"):
        env.unwrapped.step(np.zeros(8))
    env.reset(seed=0)
    env.close()
    env.close()
    for call in (lambda: env.unwrapped.step(np.zeros(8)), env.reset, env.unwrapped.render):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="after close"):
            call()


def test_unknown_id():
    with pytest.raises(gymnasium.error.Error, match="Did you mean: `HalfCheetahVel`"):
        gymnasium.make("MIER/HalfCheetahVelo-v0")


class AnotherAntEnv(mier_adapt_envs.env_class("AntDir")):
    pass


class BadlyNamedAntEnv(mier_adapt_envs.env_class("AntDir")):
    family = "BadlyNamedAnt"


def test_a_family_that_gymnasium_takes_no_id_of_is_none(monkeypatch):
    for env_id, wanted in (
        ("Badly Named!", "must have an env_id that gymnasium takes, such as 'MyRobots/Robot-v0'"),
        (5, "must have an env_id that gymnasium takes"),
        ("HalfCheetah-v5", "env_id HalfCheetah-v5 is already taken by gymnasium.envs.mujoco"),
        ("MIER/AntDir-v0", "env_id MIER/AntDir-v0 is already taken by mier_adapt_envs.ant:"),
    ):
        monkeypatch.setattr(BadlyNamedAntEnv, "env_id", env_id)
        with pytest.raises(ValueError, match=re.escape(wanted)):
            mier_adapt_envs.register(BadlyNamedAntEnv)
        assert "BadlyNamedAnt" not in mier_adapt_envs.families()
    assert gymnasium.spec("MIER/AntDir-v0").entry_point == "mier_adapt_envs.ant:AntDirEnv"


def test_registration():
    env_class = mier_adapt_envs.env_class("AntDir")
    with pytest.raises(ValueError, match=r"family AntDir is already taken by mier_adapt_envs.ant:"):
        mier_adapt_envs.register(AnotherAntEnv)
    with pytest.raises(ValueError, match=r"must define family, env_id, varies, .*, termination_fn"):
        mier_adapt_envs.register(mier_adapt_envs.TaskEnv)
    with pytest.raises(ValueError, match="top level of its module"):
        mier_adapt_envs.register(type("Nested", (env_class,), {"__qualname__": "Outer.Nested"}))
    mier_adapt_envs.register(env_class)
    assert mier_adapt_envs.env_class("AntDir") is env_class
    assert isinstance(make("AntDir").unwrapped, env_class)


# The process around them --------------------------------------------------------------------


def test_import_is_light_and_use_is_silent(tmp_path):
    """No torch, and neither a warning nor MuJoCo's log file."""
    code = """
import sys, gymnasium, mier_adapt_envs
assert not {"torch", "mier_adapt", "tianshou", "matplotlib"} & set(sys.modules)
for family in mier_adapt_envs.families():
    env = gymnasium.make(f"MIER/{family}-v0")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
    envs = gymnasium.make_vec(
        f"MIER/{family}-v0", num_envs=2, vectorization_mode="vector_entry_point"
    )
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    envs.close()
"""
    run_silently(code, tmp_path)


def test_the_cheetahs_model_is_gymnasiums(tmp_path, monkeypatch):
    """Compiled without the deprecated attribute, and yet the same to the last bit."""
    import mujoco

    monkeypatch.chdir(tmp_path)  # MuJoCo logs its complaint there
    robot = mier_adapt_envs.env_class("HalfCheetahVel").robot
    ours, theirs = robot.compile(), mujoco.MjModel.from_xml_path(robot.path)
    fields = [name for name in dir(ours) if isinstance(getattr(ours, name), np.ndarray)]
    assert {"body_mass", "body_inertia", "dof_invweight0", "geom_size"} <= set(fields)
    for name in fields:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


@pytest.mark.parametrize(
    ("family", "typical", "first"),
    [("HalfCheetahNegatedJoints", 2e-5, 0.1), ("AntNegatedJoints", 0.15, 0.15)],
)
def test_a_known_reward_is_the_reward_of_all_tasks_as_far_as_observations_tell(
    family, typical, first
):
    """Root mean square under random actions; the cheetah's is exact but for the first step."""
    reward_fn = mier_adapt_envs.env_class(family).reward_fn
    misses, rewards = [], []
    for task in spread_tasks(family, 3):
        env = make(family, task=task)
        obs, _ = env.reset(seed=1)
        for step, action in enumerate(random_actions(family, 60)):
            obs_next, rew, terminated, *_ = env.step(action)
            act = action.clip(-1, 1)
            (told,) = reward_fn(obs[None], act[None], obs_next[None])
            if step == 0:
                assert abs(told - rew) < first
            else:
                misses.append(told - rew)
                rewards.append(rew)
            obs = obs_next
            if terminated:
                break
    assert np.sqrt(np.mean(np.square(misses))) < typical
    assert np.std(rewards) > 0.5


def test_a_reward_is_known_only_where_all_tasks_share_it(family):
    known = mier_adapt_envs.env_class(family).reward_fn is not None
    assert known == (family in ("HalfCheetahNegatedJoints", "AntNegatedJoints"))
