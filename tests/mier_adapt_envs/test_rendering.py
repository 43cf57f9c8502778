"""Pictures and films, without a display."""

import gymnasium
import imageio.v3 as imageio
import numpy as np
import pytest
from env_helpers import make, spread_tasks

import mier_adapt_envs
from mier_adapt_envs.vector import TaskVectorEnv


@pytest.fixture(autouse=True)
def _headless(gl_backend, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", gl_backend)


def test_frames(family):
    env = make(family, render_mode="rgb_array", width=96, height=64)
    env.reset(seed=0)
    first = env.render()
    assert (first.shape, first.dtype) == ((64, 96, 3), np.uint8)
    assert len(np.unique(first)) > 20
    for _ in range(5):
        env.step(env.action_space.sample())
    assert (env.render() != first).any()
    assert env.metadata["render_fps"] == round(1 / env.unwrapped.dt)
    env.close()


@pytest.mark.parametrize("family", ["HalfCheetahVel", "Walker2dRandParams"])
def test_the_engine_renders_what_single_environments_do(family):
    tasks = spread_tasks(family, 2)
    size = {"width": 64, "height": 48}
    envs = TaskVectorEnv(family, 2, tasks=tasks, render_mode="rgb_array", **size)
    envs.reset(seed=0)
    action = np.ones((2, 6))
    envs.step(action)
    frames = envs.render()
    for slot in range(2):
        env = make(family, task=tasks[slot], render_mode="rgb_array", **size)
        env.reset(seed=slot)
        env.step(action[slot])
        np.testing.assert_array_equal(frames[slot], env.render())
        env.close()
    envs.close()
    assert TaskVectorEnv(family, 2).render() is None


# moviepy and imageio leave closing ffmpeg's pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_record_video_writes_a_playable_film(tmp_path):
    task = mier_adapt_envs.task_set("AntDir", "ood")[-1]
    env = gymnasium.wrappers.RecordVideo(
        make(
            "AntDir",
            task=task,
            render_mode="rgb_array",
            width=96,
            height=64,
            max_episode_steps=20,
        ),
        str(tmp_path / "films"),
        disable_logger=True,
    )
    env.reset(seed=0)
    for _ in range(20):
        _, _, _, truncated, _ = env.step(np.zeros(8))
    assert truncated
    env.close()
    (film,) = tmp_path.glob("films/*.mp4")
    frames = imageio.imread(film, plugin="FFMPEG")
    assert frames.shape[1:] == (64, 96, 3)
    assert 20 <= len(frames) <= 22
    assert frames[0].std() > 5
