"""The batched engine against gymnasium's SyncVectorEnv over single environments."""

import itertools
import pickle

import gymnasium
import numpy as np
import pytest
from env_helpers import random_actions, spread_tasks
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import mier_adapt_envs
from mier_adapt_envs.vector import TaskVectorEnv

MODES = [mode.value for mode in AutoresetMode]
LIMIT = 70


def make_vec(family, num_envs, **kwargs):
    return gymnasium.make_vec(
        mier_adapt_envs.env_class(family).env_id,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        **kwargs,
    )


def singles(family, tasks, mode):
    env_id = mier_adapt_envs.env_class(family).env_id
    return SyncVectorEnv(
        [lambda t=t: gymnasium.make(env_id, task=t, max_episode_steps=LIMIT) for t in tasks],
        autoreset_mode=mode,
    )


def assert_same(ours, theirs):
    assert data_equivalence(ours, theirs, exact=True), f"\n{ours}\n{theirs}"


@pytest.mark.parametrize("mode", MODES)
def test_equals_single_environments(family, mode):
    """Over 200 steps: every output and info, to the last bit, ends and new episodes included."""
    tasks = spread_tasks(family, 5)
    ours = make_vec(
        family, 5, tasks=tasks, autoreset_mode=mode, max_episode_steps=LIMIT, num_threads=2
    )
    theirs = singles(family, tasks, mode)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    num_ends = 0
    for actions in random_actions(family, 200, 5):
        returned = ours.step(actions)
        assert_same(returned, theirs.step(actions))
        ended = returned[2] | returned[3]
        num_ends += ended.sum()
        if mode == "Disabled" and ended.any():
            masks = ({"reset_mask": ended.copy()} for _ in range(2))
            returned = ours.reset(options=next(masks))
            expected = theirs.reset(options=next(masks))
            assert_same(returned[0], expected[0])
            assert_same(returned[1], expected[1])
    assert num_ends >= 10
    ours.close()


@pytest.mark.parametrize("family", ["HalfCheetahNegatedJoints", "Walker2dRandParams", "AntGoal"])
def test_number_of_threads_changes_nothing(family):
    tasks, actions = spread_tasks(family, 9), random_actions(family, 60, 9)
    outputs = []
    for num_threads in (1, 2, 4, None):
        envs = TaskVectorEnv(family, 9, tasks=tasks, num_threads=num_threads, max_episode_steps=40)
        outputs.append([envs.reset(seed=1), *map(envs.step, actions)])
        envs.close()
    for other in outputs[1:]:
        assert_same(other, outputs[0])


def test_seeds_per_slot():
    envs = TaskVectorEnv("HalfCheetahVel", 3)
    from_list, _ = envs.reset(seed=[7, 8, 9])
    np.testing.assert_array_equal(envs.reset(seed=7)[0], from_list)
    np.testing.assert_array_equal(envs.reset(seed=np.int64(7))[0], from_list)
    # Slot 1 is seeded anew, the others go on.
    mixed, _ = envs.reset(seed=[None, 8, None])
    assert (mixed == from_list).all(axis=1).tolist() == [False, True, False]
    unseeded = [TaskVectorEnv("HalfCheetahVel", 1).reset()[0] for _ in range(2)]
    assert np.abs(unseeded[0] - unseeded[1]).max() > 1e-4


def test_says_which_seeds_it_was_given():
    family = "HalfCheetahVel"
    ours, theirs = TaskVectorEnv(family, 3), singles(family, spread_tasks(family, 3), "NextStep")
    drawn = ours.np_random_seed  # before any reset
    assert len(set(drawn)) == 3
    ours.reset()
    assert ours.np_random_seed == drawn
    mask = np.array([True, False, True])
    for seed, options in (
        (7, None),
        (None, None),
        ([1, None, 3], None),
        (11, {"reset_mask": mask}),
    ):
        for envs in (ours, theirs):
            envs.reset(seed=seed, options=None if options is None else dict(options))
        assert ours.np_random_seed == theirs.np_random_seed
        for mine, other in zip(ours.np_random, theirs.np_random, strict=True):
            assert mine.bit_generator.state == other.bit_generator.state


def test_numpys_whole_numbers_are_counts():
    one, other = (
        TaskVectorEnv("HalfCheetahVel", kind(3), num_threads=kind(1), max_episode_steps=kind(2))
        for kind in (int, np.uint8)
    )
    assert_same(one.reset(seed=0), other.reset(seed=np.uint32(0)))
    for actions in random_actions("HalfCheetahVel", 4, 3):
        assert_same(one.step(actions), other.step(actions))
    assert type(other.num_envs) is int
    assert one.__getstate__() == other.__getstate__()
    assert {type(value) for value in other.__getstate__().values()} & {np.uint8} == set()


def test_tasks_can_be_switched(family):
    first, second = spread_tasks(family, 4)[:2], spread_tasks(family, 4)[2:]
    ours, fresh = (TaskVectorEnv(family, 2, tasks=tasks) for tasks in (first, second))
    actions = random_actions(family, 5, 2)
    assert ours.tasks == tuple(first)
    ours.reset(seed=1)
    ours.step(actions[0])
    returned = ours.reset(seed=2, options={"tasks": [task.to_dict() for task in second]})
    assert_same(returned, fresh.reset(seed=2))
    assert ours.tasks == tuple(second)
    for step in actions:
        assert_same(ours.step(step), fresh.step(step))
    ours.set_tasks(first[0])
    assert ours.tasks == (first[0],) * 2
    assert ours.reset()[1]["task"].tolist() == [first[0]] * 2


def test_a_reset_mask_leaves_other_slots_alone(family):
    tasks, others = spread_tasks(family, 6)[:3], spread_tasks(family, 6)[3:]
    ours, untouched = (TaskVectorEnv(family, 3, tasks=tasks) for _ in range(2))
    actions = random_actions(family, 6, 3)
    for envs in (ours, untouched):
        envs.reset(seed=0)
        envs.step(actions[0])
    mask = np.array([False, True, False])
    _, infos = ours.reset(seed=5, options={"reset_mask": mask, "tasks": others})
    assert infos["_task"].tolist() == mask.tolist()
    assert ours.tasks == (tasks[0], others[1], tasks[2])
    for step in actions[1:]:
        ours_out, untouched_out = ours.step(step), untouched.step(step)
        for ours_part, untouched_part in zip(ours_out[:4], untouched_out[:4], strict=True):
            np.testing.assert_array_equal(ours_part[~mask], untouched_part[~mask])


def test_a_switch_within_an_episode_acts_on_the_next_step():
    family = "Walker2dRandParams"
    first, second = spread_tasks(family, 2)
    envs, env = TaskVectorEnv(family, 2, tasks=first), gymnasium.make(f"MIER/{family}-v0")
    actions = random_actions(family, 4, 2)
    envs.reset(seed=0)
    env.reset(seed=1, options={"task": first})
    for number, step in enumerate(actions):
        if number == 2:
            envs.set_tasks([first, second])
            env.unwrapped.set_task(second)
        np.testing.assert_array_equal(envs.step(step)[0][1], env.step(step[1])[0])


def test_outputs_are_the_callers(family):
    """Writing to what was returned does not reach the engine."""
    ours, theirs = (TaskVectorEnv(family, 2, autoreset_mode="SameStep") for _ in range(2))

    def scribble(part):
        if isinstance(part, dict):
            for value in part.values():
                scribble(value)
        elif part.dtype == object:
            part[:] = None
        else:
            part[:] = 1

    returned = ours.reset(seed=0)
    theirs.reset(seed=0)
    for step in random_actions(family, 40, 2):
        for part in returned:
            scribble(part)
        returned = ours.step(step)
        assert_same(returned, theirs.step(step))


def test_default_length_of_episodes():
    envs = make_vec("HalfCheetahDir", 2)
    envs.reset(seed=0)
    truncated = [envs.step(step)[3].all() for step in random_actions("HalfCheetahDir", 200, 2)]
    assert truncated == [False] * 199 + [True]


def test_spec_survives_json(family):
    tasks = spread_tasks(family, 2)
    envs = make_vec(family, 2, tasks=tasks, autoreset_mode="SameStep")
    spec = EnvSpec.from_json(envs.spec.to_json())
    again = gymnasium.make_vec(spec)
    assert isinstance(again, TaskVectorEnv)
    assert again.tasks == tuple(tasks)
    assert again.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_gymnasiums_wrappers_fit():
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(
        make_vec("HalfCheetahDir", 2, max_episode_steps=5)
    )
    envs.reset(seed=0)
    rewards = []
    for step in random_actions("HalfCheetahDir", 5, 2):
        _, rew, _, _, infos = envs.step(step)
        rewards.append(rew)
    np.testing.assert_allclose(infos["episode"]["r"], np.sum(rewards, axis=0))


def test_a_pickled_engine_is_a_new_one_with_the_same_tasks():
    tasks = spread_tasks("AntDir", 3)
    envs = TaskVectorEnv("AntDir", 3, tasks=tasks, autoreset_mode="SameStep", num_threads=2)
    envs.reset(seed=0)
    twin = pickle.loads(pickle.dumps(envs))
    assert twin.tasks == tuple(tasks)
    assert twin.metadata == envs.metadata
    np.testing.assert_array_equal(twin.reset(seed=1)[0], envs.reset(seed=1)[0])


# Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1 and whole, got 0"),
        ({"num_threads": 0}, "num_threads must be at least 1 and whole, got 0"),
        ({"max_episode_steps": -1}, "max_episode_steps must be at least 1 and whole, got -1"),
        ({"render_mode": "human"}, "render_mode must be 'rgb_array' or None, got 'human'"),
        ({"autoreset_mode": "Never"}, "autoreset_mode must be one of .* got 'Never'"),
        ({"tasks": spread_tasks("AntDir", 3)}, "tasks expected one task or one .* 2 slots, got 3"),
        ({"tasks": spread_tasks("AntGoal", 2)}, "task must be of the family AntDir"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskVectorEnv("AntDir", **{"num_envs": 2, **arguments})


def test_the_engine_stays_usable_after_rejected_calls():
    family = "HalfCheetahNegatedJoints"
    first, second = spread_tasks(family, 2)
    foreign = spread_tasks("AntDir", 1)[0]
    ours, twin = (TaskVectorEnv(family, 2, tasks=first) for _ in range(2))
    actions = random_actions(family, 3, 2)
    for envs in (ours, twin):
        envs.reset(seed=0)

    def rejected(message, call, *args, **kwargs):
        with pytest.raises(ValueError, match=message):
            call(*args, **kwargs)

    rejected(r"expected shape \(2, 6\), got \(6,\)", ours.step, actions[0, 0])
    rejected("must be finite", ours.step, np.full((2, 6), np.nan))
    rejected("task must be of the family", ours.set_tasks, [second, foreign])
    rejected("got 1", ours.set_tasks, [second])
    rejected("Task or its dict form", ours.set_tasks, [second, 3])
    # may never end
    rejected("one task or one for each of 2 slots", ours.set_tasks, itertools.repeat(second))
    rejected("got 3 seeds", ours.reset, seed=[1, 2, 3], options={"tasks": second})
    for seed in (1.5, [1, 2.5], "12"):
        rejected("seed expected integers", ours.reset, seed=seed, options={"tasks": second})
    rejected("task must be of", ours.reset, seed=1, options={"tasks": [second, foreign]})
    rejected(r"dict of \['tasks', 'reset_mask'\]", ours.reset, seed=1, options={"task": second})
    for mask in (np.zeros(2, dtype=bool), np.ones(3, dtype=bool), np.ones(2), [True, False]):
        rejected("reset_mask must", ours.reset, seed=1, options={"reset_mask": mask})
    with pytest.raises(gymnasium.error.Error, match="Seed must be greater"):
        ours.reset(seed=[1, -5], options={"tasks": second})
    assert ours.tasks == (first, first)
    for step in actions:
        assert_same(ours.step(step), twin.step(step))
    assert_same(ours.reset(), twin.reset())


def test_steps_out_of_order():
    envs = TaskVectorEnv("HalfCheetahVel", 2, max_episode_steps=2, autoreset_mode="Disabled")
    actions = np.zeros((2, 6))
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset first"):
        envs.step(actions)
    envs.reset(seed=0, options={"reset_mask": np.array([True, False])})
    with pytest.raises(gymnasium.error.ResetNeeded, match="every slot"):
        envs.step(actions)
    envs.reset(seed=0)
    envs.step(actions)
    assert envs.step(actions)[3].all()
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"slots \[0 1\] have ended"):
        envs.step(actions)
    envs.reset()
    envs.step(actions)
    envs.close()
    for call in (lambda: envs.step(actions), envs.reset, lambda: envs.set_tasks(envs.tasks)):
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="after close"):
            call()


def test_unknown_families():
    with pytest.raises(ValueError, match="family must be one of"):
        TaskVectorEnv("Cheetah", 2)
    with pytest.raises(AttributeError, match="no attribute 'Cheetah'"):
        mier_adapt_envs.vector.Cheetah  # noqa: B018


# Termination --------------------------------------------------------------------------------


def test_termination_fn_agrees_with_random_rollouts(family):
    """On every transition, also when these come as one batch, in another order."""
    envs = TaskVectorEnv(family, 8, tasks=spread_tasks(family, 8), autoreset_mode="SameStep")
    obs, _ = envs.reset(seed=0)
    transitions = []
    for step in random_actions(family, 60, 8):
        obs_next, _, terminated, _, infos = envs.step(step)
        last = obs_next.copy()
        for slot in np.flatnonzero(terminated):
            last[slot] = infos["final_obs"][slot]
        transitions.append((obs, step, last, terminated))
        obs = obs_next
    obs, act, obs_next, terminated = (np.concatenate(part) for part in zip(*transitions))  # noqa: B905
    order = np.random.default_rng(0).permutation(len(obs))
    ends = mier_adapt_envs.env_class(family).termination_fn(obs[order], act[order], obs_next[order])
    assert ends.dtype == np.bool_
    np.testing.assert_array_equal(ends, terminated[order])
    never = family.startswith("HalfCheetah") or family == "AntGoal"
    assert terminated.any() == (not never)
