"""Environments in other processes, spawned and forked."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import gymnasium
import numpy as np
import pytest
from env_helpers import make, random_actions, spread_tasks
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import mier_adapt_envs
from mier_adapt_envs.vector import TaskVectorEnv

pytestmark = [
    pytest.mark.parametrize("start_method", ["spawn", "fork"]),
    # From Python 3.12 on: forking while other tests' threads wait is what we want to survive.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def single_rollouts(seed):
    returned = []
    for family in mier_adapt_envs.families():
        env = make(family, task=spread_tasks(family, 3)[1])
        returned.append(env.reset(seed=seed))
        returned += [env.step(action) for action in random_actions(family, 5)]
    return returned


def engine_rollout(envs, seed):
    actions = random_actions(envs.tasks[0].family, 5, envs.num_envs)
    return [envs.reset(seed=seed), *map(envs.step, actions)]


INHERITED = {
    family: TaskVectorEnv(family, 4, num_threads=2) for family in ("HalfCheetahVel", "AntDir")
}


def inherited_engine_rollout(family, seed):
    return engine_rollout(INHERITED[family], seed)


def test_seeds_give_identical_episodes_across_processes(start_method):
    context = multiprocessing.get_context(start_method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        elsewhere = list(pool.map(single_rollouts, [3, 4, 3], timeout=120))
    assert data_equivalence(elsewhere[0], single_rollouts(3), exact=True)
    assert data_equivalence(elsewhere[0], elsewhere[2], exact=True)
    assert not data_equivalence(elsewhere[0], elsewhere[1], exact=True)


@pytest.mark.parametrize("family", INHERITED)
def test_an_engine_works_in_a_child_process(start_method, family):
    """Made there, sent there, or, with its threads running, inherited by a fork."""
    expected = inherited_engine_rollout(family, 5)
    context = multiprocessing.get_context(start_method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        inherited = pool.submit(inherited_engine_rollout, family, 5).result(timeout=120)
        sent = pool.submit(engine_rollout, INHERITED[family], 5).result(timeout=120)
    assert data_equivalence(inherited, expected, exact=True)
    assert data_equivalence(sent, expected, exact=True)
    assert data_equivalence(inherited_engine_rollout(family, 5), expected, exact=True)


def test_gymnasiums_async_vector_env(start_method):
    tasks = spread_tasks("Walker2dRandParams", 2)
    makers = [
        lambda t=t: gymnasium.make("mier_adapt_envs:MIER/Walker2dRandParams-v0", task=t)
        for t in tasks
    ]
    workers, here = AsyncVectorEnv(makers, context=start_method), SyncVectorEnv(makers)
    try:
        assert data_equivalence(workers.reset(seed=0), here.reset(seed=0), exact=True)
        for actions in random_actions("Walker2dRandParams", 40, 2):
            assert data_equivalence(workers.step(actions), here.step(actions), exact=True)
    finally:
        workers.close()
    np.testing.assert_array_equal(here.step(actions)[4]["task"], np.array(tasks, dtype=object))
