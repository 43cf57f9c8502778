"""A simulation that becomes unstable ends its episode and says why, single or batched."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import mier_adapt_envs  # noqa: F401  # registers the environments

STABLE, UNSTABLE = 0, 1
# One that MuJoCo's own threads step, and one that Python's do.
FAMILIES = ["HalfCheetahVel", "AntDir"]
FAULTS = [("qpos", np.nan, "mjWARN_BADQPOS"), ("qvel", 1e11, "mjWARN_BADQVEL")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes MUJOCO_LOG.TXT into the working directory."""
    monkeypatch.chdir(tmp_path)


def batched(family: str, mode: AutoresetMode, threads: int = 2) -> Any:
    return gymnasium.make_vec(
        f"MIER/{family}-v0",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        autoreset_mode=mode,
        num_threads=threads,
    )


def disturb(simulation: Any, name: str, value: float) -> None:
    """Write a value into a state that the next step then finds."""
    getattr(simulation, name)[0] = value


def disturb_slot(envs: Any, slot: int, name: str, value: float) -> None:
    simulations = envs._simulations
    if hasattr(simulations, "_batch"):
        simulations._batch.bind(name)[slot, 0] = value
    else:
        disturb(simulations.data(slot), name, value)


def assert_same(one: Any, other: Any, at: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for key in one:
            assert_same(one[key], other[key], f"{at}/{key}")
    elif isinstance(one, np.ndarray) and one.dtype == object:
        for first, second in zip(one, other, strict=True):
            assert_same(first, second, at)
    else:
        np.testing.assert_array_equal(one, other, err_msg=at)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "value", "reason"), FAULTS)
def test_the_single_environment_truncates_and_says_why(
    family: str, name: str, value: float, reason: str
) -> None:
    env = gymnasium.make(f"MIER/{family}-v0")
    env.reset(seed=0)
    before, *_ = env.step(env.action_space.sample() * 0)
    disturb(env.unwrapped.data, name, value)  # type: ignore[attr-defined]
    obs, rew, terminated, truncated, info = env.step(np.ones(env.action_space.shape or ()))
    assert (terminated, truncated, rew, info["unstable"]) == (False, True, 0.0, reason)
    np.testing.assert_array_equal(obs, before)
    env.reset()
    *_, truncated, info = env.step(env.action_space.sample() * 0)
    assert not truncated
    assert "unstable" not in info
    env.close()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "value", "reason"), FAULTS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_batched_environment_does_the_same(
    family: str, name: str, value: float, reason: str, mode: AutoresetMode
) -> None:
    ours = batched(family, mode)
    oracle = SyncVectorEnv(
        [lambda: gymnasium.make(f"MIER/{family}-v0") for _ in range(2)], autoreset_mode=mode
    )
    for envs in (ours, oracle):
        envs.reset(seed=7)
    actions = np.full(ours.action_space.shape, 0.3, dtype=np.float32)
    for step in range(6):
        if step == 2:
            disturb_slot(ours, UNSTABLE, name, value)
            disturb(oracle.envs[UNSTABLE].unwrapped.data, name, value)  # type: ignore[attr-defined]
        got, expected = ours.step(actions), oracle.step(actions)
        for mine, theirs in zip(got, expected, strict=True):
            assert_same(theirs, mine, f"step {step}")
        *_, terminated, truncated, infos = got
        assert not terminated.any()
        assert truncated.tolist() == [False, step == 2]
        if step == 2:
            final = infos["final_info"] if mode is AutoresetMode.SAME_STEP else infos
            assert final["unstable"].tolist() == [None, reason]
            assert final["_unstable"].tolist() == [False, True]
        else:
            assert "unstable" not in infos
    ours.close()
    oracle.close()
