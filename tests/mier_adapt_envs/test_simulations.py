"""Both kinds of simulations against each other, and their threads."""

import gc
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from env_helpers import random_actions, spread_tasks

from mier_adapt_envs import env_class, vector
from mier_adapt_envs.thread_simulations import ThreadSimulations
from mier_adapt_envs.vector import TaskVectorEnv

pytest.importorskip("mujoco.batch", reason="MuJoCo before 4.0 has no batches")
from mier_adapt_envs.batch_simulations import BatchSimulations

KINDS = [BatchSimulations, ThreadSimulations]


def generators(*slots, seed=0):
    return {slot: np.random.default_rng([seed, slot]) for slot in slots}


def simulations(kind, family, num_threads=2, num_slots=5):
    robot = env_class(family).robot
    models = [robot.compile() for _ in range(num_slots)]
    if env_class(family).per_task_physics:
        for model, task in zip(models, spread_tasks(family, num_slots), strict=True):
            env_class(family).set_physics(model, robot.compile(), np.array(task.parameters))
    return kind(robot, models, num_threads=num_threads)


@pytest.mark.parametrize("family", ["HalfCheetahVel", "Walker2dRandParams"])
def test_both_kinds_agree(family):
    """MuJoCo's batch against a thread's loop over MjData, to the last bit."""
    batch, threads = (simulations(kind, family) for kind in KINDS)
    actions = random_actions(family, 40, 5)

    def assert_same():
        assert batch.state.keys() == threads.state.keys()
        for name in batch.state:
            np.testing.assert_array_equal(batch.state[name], threads.state[name])

    for both in (batch, threads):
        both.reset(generators(*range(5)))
    assert_same()
    for number, ctrl in enumerate(actions):
        for both in (batch, threads):
            both.step(ctrl, generators(4, 1, seed=number) if number % 7 == 3 else {})
        assert_same()
        if number == 20:
            for both in (batch, threads):
                both.reset(generators(2, seed=99))
                both.models[0].body_mass[1] *= 2.0
                both.update_models()
            assert_same()
    for slot in range(5):
        for field in ("qpos", "qacc", "xpos", "geom_xpos"):
            np.testing.assert_array_equal(
                getattr(batch.data(slot), field), getattr(threads.data(slot), field)
            )
        assert batch.data(slot) is batch.data(slot)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_before_a_step_stays(kind):
    both = simulations(kind, "HalfCheetahVel")
    both.reset(generators(*range(5)))
    before = both.state
    copied = {name: values.copy() for name, values in before.items()}
    both.step(np.ones((5, 6)), {})
    for name in before:
        np.testing.assert_array_equal(before[name], copied[name])
    assert (both.state["qpos"] != before["qpos"]).any()


def test_the_engine_takes_batches_where_it_can(family, monkeypatch):
    contacts = env_class(family).robot.contact_forces
    engine = TaskVectorEnv(family, 2)
    assert type(engine._simulations) is (ThreadSimulations if contacts else BatchSimulations)
    # As with MuJoCo before 4.0
    monkeypatch.setitem(sys.modules, "mier_adapt_envs.batch_simulations", None)
    old = TaskVectorEnv(family, 2)
    assert type(old._simulations) is ThreadSimulations
    np.testing.assert_array_equal(old.reset(seed=0)[0], engine.reset(seed=0)[0])
    for step in random_actions(family, 10, 2):
        np.testing.assert_array_equal(old.step(step)[0], engine.step(step)[0])


def num_threads():
    """Of the whole process, MuJoCo's own included."""
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads through /proc")
@pytest.mark.parametrize("family", ["HalfCheetahVel", "AntDir"])
def test_threads_end_with_the_engine(family):
    gc.collect()
    before, python_threads = num_threads(), set(threading.enumerate())
    closed, dropped = (TaskVectorEnv(family, 4, num_threads=3) for _ in range(2))
    for envs in (closed, dropped):
        envs.reset(seed=0)
        envs.step(np.zeros(envs.action_space.shape))
    assert num_threads() == before + 4
    ours = set(threading.enumerate()) - python_threads
    closed.close()
    closed.close()
    del dropped, envs
    gc.collect()
    for thread in ours:
        thread.join(timeout=10)
    deadline = time.monotonic() + 10  # the system's thread goes a moment after Python's
    while num_threads() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_threads() == before


def test_an_error_in_a_thread_reaches_the_caller():
    threads = simulations(ThreadSimulations, "HalfCheetahVel", num_threads=4)
    threads.reset(generators(*range(5)))

    def fail(slot):
        raise RuntimeError(f"slot {slot}")

    with pytest.raises(RuntimeError, match="slot"):
        threads._threads.run(fail, range(5))
    threads.step(np.zeros((5, 6)), {})


def test_default_number_of_threads():
    assert vector._usable_cores() >= 1
