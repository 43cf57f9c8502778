"""Films of policies side by side, where this machine can draw."""

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from mier_adapt._checks import Seed, Size, checked
from mier_adapt._storage.files import replacing
from mier_adapt.agents.rollouts import collect
from mier_adapt.protocols import Actor
from mier_adapt_envs import Task

_WIDTH, _HEIGHT = 280, 200
"""Size of each picture, in pixels."""
_LINE = 20
"""Height of the text above it."""
_SHOWN = 80
"""Milliseconds for which each is shown, at least: some players take few for none."""
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
    env_id: str,
    task: Task,
    actors: Mapping[str, Actor],
    path: Path,
    *,
    seed: int,
    episode_steps: int,
) -> None:
    """Write a film of one deterministic episode of each actor, from the same start.

    Args:
        env_id: The family's.
        task: What they act on.
        actors: By label.
        path: File to write, an animated ``.gif``.
        seed: Fixes the start.
        episode_steps: Environment steps of the episode.

    Raises:
        RuntimeError: If MuJoCo cannot draw: see :func:`find_gl_backend`.
    """
    env: Any = gymnasium.make_vec(
        env_id,
        num_envs=1,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        render_mode="rgb_array",
        width=_WIDTH,
        height=_HEIGHT,
        camera_name="track",
    )
    films: list[list[Image.Image]] = []
    every, shown = _rhythm(env.metadata["render_fps"])
    try:
        for label, actor in actors.items():
            film: list[Image.Image] = []

            def picture(
                step: int,
                returns: NDArray[np.float64],
                label: str = label,
                film: list[Image.Image] = film,
            ) -> None:
                if step % every == 0:
                    film.append(_picture(env.render()[0], f"{label}: return {returns[0]:.0f}"))

            generator = np.random.default_rng(seed)  # the same start for each
            collect(
                env,
                [task],
                actor,
                steps=episode_steps,
                generator=generator,
                explore=False,
                until_end=True,
                on_step=picture,
            )
            films.append(film)
    finally:
        env.close()
    longest = max(map(len, films))  # where an episode has ended, its last picture stays
    films = [film + film[-1:] * (longest - len(film)) for film in films]
    _write([_side_by_side(same) for same in zip(*films, strict=True)], path, shown)


@checked
def play(
    policy: Any, environment: Mapping[str, Any], *, episodes: Size, seed: Seed, film: Path | None
) -> list[float]:
    """Undiscounted returns of an :class:`.AdaptedPolicy` in the environment that it is for.

    Args:
        policy: The policy.
        environment: Keywords of ``gymnasium.make``.
        episodes: How many.
        seed: Fixes their starts.
        film: Where a film of the first goes, an animated ``.gif``.

    Raises:
        ValueError: If a number is out of range, or the environment is not registered here, or
            cannot draw.
    """
    options: dict[str, Any] = {} if film is None else {"render_mode": "rgb_array"}
    try:
        env = gymnasium.make(**environment, **options)
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(
            f"play expected an environment that gymnasium makes here, got {dict(environment)}: "
            f"{error}. Import what registers it (--import MODULE), or step it yourself."
        ) from error
    returns, pictures = [], []
    every, shown = _rhythm(env.metadata.get("render_fps", 30))
    try:
        for episode in range(episodes):
            obs, _ = env.reset(seed=seed if episode == 0 else None)
            total, steps, over = 0.0, 0, False
            while not over:
                if film is not None and episode == 0 and steps % every == 0:
                    drawn = Image.fromarray(np.asarray(env.render()))
                    frame = ImageOps.pad(drawn, (_WIDTH, _HEIGHT))
                    pictures.append(_picture(np.asarray(frame), f"return {total:.0f}"))
                obs, reward, terminated, truncated, _ = env.step(policy.predict(obs))
                total, steps, over = total + float(reward), steps + 1, terminated or truncated
            returns.append(total)
    finally:
        env.close()
    if film is not None:
        _write(pictures, film, shown)
    return returns


def _rhythm(render_fps: float) -> tuple[int, int]:
    """Steps between two pictures, and milliseconds for which each is shown, in real time.

    GIF counts hundredths of a second: of the next few numbers of steps, the one that they fit best.
    """
    step = 1000 / render_fps
    fewest = math.ceil(_SHOWN / step)
    every = min(
        range(fewest, fewest + 5), key=lambda count: abs(round(count * step, -1) / count / step - 1)
    )
    return every, int(round(every * step, -1))


def _write(pictures: Sequence[Image.Image], path: Path, shown: int) -> None:
    with replacing(path) as file:
        pictures[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=shown,
            loop=0,
        )


def _picture(frame: Any, text: str) -> Image.Image:
    """A frame under a line of text."""
    picture = Image.new("RGB", (_WIDTH, _HEIGHT + _LINE), "white")
    picture.paste(Image.fromarray(frame), (0, _LINE))
    ImageDraw.Draw(picture).text((8, 4), text, fill="black")
    return picture


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    joined = Image.new("RGB", (len(pictures) * _WIDTH, _HEIGHT + _LINE))
    for slot, picture in enumerate(pictures):
        joined.paste(picture, (slot * _WIDTH, 0))
    return joined
