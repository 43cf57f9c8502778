import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mier_adapt.workflows import films
from mier_adapt.workflows.films import film_side_by_side, find_gl_backend
from mier_adapt.workflows.runs import load_run


def answers(monkeypatch, working: str) -> list[str]:
    """Let one backend work; the ones that are tried."""
    tried = []

    def probe(*_args, env, **_options):
        tried.append(env["MUJOCO_GL"])
        failed = env["MUJOCO_GL"] != working
        return SimpleNamespace(returncode=int(failed), stderr="Traceback\nno display" * failed)

    monkeypatch.setattr(subprocess, "run", probe)
    return tried


def test_the_backend_that_is_set_is_the_only_one_tried(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert (answers(monkeypatch, "osmesa"), find_gl_backend()) == (["osmesa"], "osmesa")
    answers(monkeypatch, "egl")
    with pytest.raises(RuntimeError, match=r"cannot draw here \(osmesa: no display\)"):
        find_gl_backend()


def test_without_a_choice_the_first_backend_that_works_is_found(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    tried = answers(monkeypatch, "glfw")
    assert (find_gl_backend(), tried) == ("glfw", ["egl", "glfw"])
    answers(monkeypatch, "none")
    with pytest.raises(RuntimeError, match="egl: no display; glfw: no display; osmesa: no"):
        find_gl_backend()


def test_a_film_shows_each_actor_from_the_same_start(
    negated_joints_run, negated_joints_envs, tmp_path, monkeypatch
):
    try:
        monkeypatch.setenv("MUJOCO_GL", find_gl_backend())
    except RuntimeError as error:
        pytest.skip(str(error))
    run = load_run(negated_joints_run, negated_joints_envs)
    context = run.model.initial_context.detach()
    actors = {"before": (run.algorithm, context), "after": (run.algorithm, context + 9)}
    task = negated_joints_envs.task_set[12]
    film_side_by_side(run, task, actors, tmp_path / "film.gif", seed=1)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == run.config.episode_steps // films._EVERY
        pictures = []
        for number in (0, film.n_frames - 1):
            film.seek(number)
            pictures.append(np.asarray(film.convert("RGB"), dtype=float))
    first, last = pictures
    assert first.shape == (films._LINE + films._HEIGHT, 2 * films._WIDTH, 3)
    below = slice(films._LINE, None)
    np.testing.assert_array_equal(first[below, : films._WIDTH], first[below, films._WIDTH :])
    assert (last[below, : films._WIDTH] != last[below, films._WIDTH :]).any()
    assert (last[below] != first[below]).any()


def test_refuses_a_task_of_another_family(
    negated_joints_run, negated_joints_envs, velocity_envs, tmp_path
):
    run = load_run(negated_joints_run, negated_joints_envs)
    actors = {"one": (run.algorithm, run.model.initial_context.detach())}
    for task, name in ((velocity_envs.task_set[0], "x.gif"), (run.task_set[0], "x.mp4")):
        with pytest.raises(ValueError, match=r"another|one of HalfCheetahVel|\.gif"):
            film_side_by_side(run, task, actors, tmp_path / name, seed=1)
