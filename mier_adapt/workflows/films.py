"""Films of policies side by side, where this machine can draw."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from PIL import Image, ImageDraw

from mier_adapt._checks import require_seed, require_type, require_types
from mier_adapt.integration.collection import act
from mier_adapt.workflows.runs import Run
from mier_adapt_envs import Task

__all__ = ["film_side_by_side", "find_gl_backend"]

_WIDTH, _HEIGHT = 280, 200
"""Size of each picture, in pixels."""
_LINE = 20
"""Height of the text above it."""
_EVERY = 2
"""Environment steps between two pictures."""
_PROBE = """
import gymnasium, mier_adapt_envs
env = gymnasium.make("MIER/HalfCheetahNegatedJoints-v0", render_mode="rgb_array")
env.reset(seed=0)
assert env.render().any()
"""


def find_gl_backend() -> str:
    """A value of ``MUJOCO_GL`` with which MuJoCo draws on this machine.

    The one that is set, or else the first of egl, glfw and osmesa that works.

    Raises:
        RuntimeError: If none does; the message has each one's last words.
    """
    chosen = os.environ.get("MUJOCO_GL")
    failures = []
    for backend in (chosen,) if chosen else ("egl", "glfw", "osmesa"):
        # In a process of its own: window libraries may end it.
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            return backend
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        failures.append(f"{backend}: {words}")
    raise RuntimeError(f"MuJoCo cannot draw here ({'; '.join(failures)})")


def film_side_by_side(
    run: Run, task: Task, actors: Mapping[str, tuple[Any, torch.Tensor]], path: Path, *, seed: int
) -> None:
    """Write a film of one deterministic episode of each actor, from the same start.

    Args:
        run: Gives the length of an episode.
        task: What they act on.
        actors: For each label a Tianshou algorithm and the context, ``(C,)``, that it acts under.
        path: File to write, an animated ``.gif``.
        seed: Fixes the start.

    Raises:
        ValueError: If there are no actors, the task is of another family, or ``path`` does not
            end in ``.gif``.
        RuntimeError: If MuJoCo cannot draw: see :func:`find_gl_backend`.
    """
    require_types(
        "film_side_by_side",
        run=(run, Run),
        task=(task, Task),
        actors=(actors, Mapping),
        path=(path, Path),
    )
    require_seed("film_side_by_side", seed)
    if not actors or path.suffix != ".gif":
        raise ValueError(
            "film_side_by_side expected at least one of actors and path to end in .gif, got "
            f"{len(actors)} and {path}."
        )
    if task.family != run.config.family:
        raise ValueError(
            f"film_side_by_side expected a task of {run.config.family}, got one of {task.family}."
        )
    for label, actor in actors.items():
        require_type("film_side_by_side", f"actors[{label!r}]", actor, tuple)
    count = len(actors)
    env: Any = gymnasium.make_vec(
        run.task_set.env_id,
        num_envs=count,
        vectorization_mode="vector_entry_point",
        render_mode="rgb_array",
        width=_WIDTH,
        height=_HEIGHT,
        camera_name="track",
    )
    contexts = [context.cpu().numpy() for _, context in actors.values()]
    returns, pictures = np.zeros(count), []
    try:
        obs, _ = env.reset(seed=[seed] * count, options={"tasks": [task] * count})
        for step in range(run.config.episode_steps):
            if step % _EVERY == 0:
                pictures.append(_picture(env.render(), list(actors), returns))
            actions = []
            for slot, (algorithm, _) in enumerate(actors.values()):
                seen = np.concatenate((obs[slot], contexts[slot]), dtype=np.float32)[None]
                action = act(algorithm.policy, seen, explore=False)
                actions.append(algorithm.policy.map_action(action))
            obs, rew, *_ = env.step(np.concatenate(actions))
            returns += rew
    finally:
        env.close()
    milliseconds = round(1000 * _EVERY / env.metadata["render_fps"])
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)


def _picture(frames: Any, labels: list[str], returns: np.ndarray) -> Image.Image:
    """The frames side by side, each with its label and return so far above it."""
    picture = Image.new("RGB", (len(labels) * _WIDTH, _HEIGHT + _LINE), "white")
    draw = ImageDraw.Draw(picture)
    for slot, (frame, label, value) in enumerate(zip(frames, labels, returns, strict=True)):
        picture.paste(Image.fromarray(frame), (slot * _WIDTH, _LINE))
        draw.text((slot * _WIDTH + 8, 4), f"{label}: return {value:.0f}", fill="black")
    return picture
