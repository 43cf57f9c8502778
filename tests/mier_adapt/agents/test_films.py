import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import mier_adapt_envs
from mier_adapt.agents import films
from mier_adapt.agents.films import film_side_by_side, find_gl_backend
from mier_adapt.agents.run import load_run
from mier_adapt_envs.vector import TaskVectorEnv


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


class Leaning:
    """Pushes every joint alike, and notes how it is asked."""

    def __init__(self, push: float) -> None:
        self.push, self.asked = push, []

    def act(self, obs, *, explore: bool):
        self.asked.append((obs.copy(), explore))
        return np.full((len(obs), 6), self.push, dtype=np.float32)


def film(task_set, actors, path, *, steps: int):
    """The film's pictures, if MuJoCo can draw here."""
    film_side_by_side(task_set.env_id, task_set[12], actors, path, seed=1, episode_steps=steps)
    with Image.open(path) as opened:
        for number in range(opened.n_frames):
            opened.seek(number)
            yield np.asarray(opened.convert("RGB"), dtype=float)


@pytest.fixture
def _drawing(monkeypatch):
    try:
        monkeypatch.setenv("MUJOCO_GL", find_gl_backend())
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_drawing")
def test_a_film_shows_each_actor_from_the_same_start(
    negated_joints_run, negated_joints_envs, tmp_path
):
    run = load_run(negated_joints_run, negated_joints_envs)
    context = run.model.initial_context.detach()
    actors = {"before": run.initial_actor(1), "after": run.actor(context + 9)}
    pictures = list(film(run.task_set, actors, tmp_path / "film.gif", steps=20))
    assert len(pictures) == 20 // 2
    first, last = pictures[0], pictures[-1]
    assert first.shape == (films._LINE + films._HEIGHT, 2 * films._WIDTH, 3)
    below = slice(films._LINE, None)
    np.testing.assert_array_equal(first[below, : films._WIDTH], first[below, films._WIDTH :])
    assert (last[below, : films._WIDTH] != last[below, films._WIDTH :]).any()
    assert (last[below] != first[below]).any()
    # Labels differ from the first picture on.
    above = slice(0, films._LINE)
    assert (first[above, : films._WIDTH] != first[above, films._WIDTH :]).any()


def test_a_films_pictures_are_taken_in_the_loop_in_which_all_actors_act(
    negated_joints_envs, tmp_path, monkeypatch
):
    """Without drawing: a picture's colour tells its step, its text the return so far."""
    written, rendered, loops = [], [], []
    collect, picture = films.collect, films._picture
    monkeypatch.setattr(films, "_picture", lambda *args: written.append(args[1]) or picture(*args))

    def watched(env, *args, on_step, **options):
        loops.append(options)
        steps = iter(range(10**6))

        def drawn():
            rendered.append(len(loops))
            return [np.full((films._HEIGHT, films._WIDTH, 3), 10 * next(steps), dtype=np.uint8)]

        monkeypatch.setattr(type(env.unwrapped), "render", lambda self: drawn())
        return collect(env, *args, on_step=on_step, **options)

    monkeypatch.setattr(films, "collect", watched)
    actors = {"still": Leaning(0.0), "pushing": Leaning(0.8)}
    task_set = negated_joints_envs.task_set
    pictures = list(film(task_set, actors, tmp_path / "film.gif", steps=7))
    assert len(pictures) == 4  # of steps 0, 2, 4 and 6
    assert rendered == [1] * 4 + [2] * 4
    for number, each in enumerate(pictures):
        assert np.unique(each[films._LINE :]).tolist() == [10.0 * number]
    for label, actor in actors.items():
        told = [text for text in written if text.startswith(f"{label}: return ")]
        assert len(told) == 4
        assert told[0] == f"{label}: return 0"
        assert len(actor.asked) == 7
        assert not any(explore for _, explore in actor.asked)
    starts = [actor.asked[0][0] for actor in actors.values()]
    np.testing.assert_array_equal(*starts)
    assert [loop["steps"] for loop in loops] == [7, 7]


@pytest.mark.parametrize("render_fps", [10, 20, 30, 50, 60, 67, 100, 125, 500])
def test_films_run_in_real_time(render_fps):
    every, shown = films._rhythm(render_fps)
    assert 80 <= shown <= 400
    assert shown % 10 == 0  # of which GIF counts
    assert shown == pytest.approx(1000 * every / render_fps, rel=0.03)


def test_a_film_of_an_episode_that_ends_stays_with_its_last_picture(tmp_path, monkeypatch):
    shot, written = iter(range(10**6)), []
    monkeypatch.setattr(TaskVectorEnv, "render", lambda self: [np.zeros((200, 280, 3), np.uint8)])
    picture = films._picture

    def told(frame, text):
        written.append(text)
        return picture(np.full_like(frame, next(shot)), text)

    monkeypatch.setattr(films, "_picture", told)
    tasks, path = mier_adapt_envs.task_set("Walker2dRandParams"), tmp_path / "film.gif"
    actors = {"long": Leaning(0.0), "short": Leaning(-1.0)}
    film_side_by_side(tasks.env_id, tasks[0], actors, path, seed=0, episode_steps=200)
    kind = mier_adapt_envs.env_class("Walker2dRandParams")
    every = films._rhythm(kind.metadata["render_fps"])[0]
    shots = {label: [text for text in written if text.startswith(label)] for label in actors}
    assert len(shots["short"]) < len(shots["long"]) < 200 / every  # both fall
    for label, actor in actors.items():
        assert len(shots[label]) == -(-len(actor.asked) // every)
    with Image.open(path) as opened:
        opened.seek(opened.n_frames - 1)
        last = np.asarray(opened.convert("RGB"))[-1]
    assert last[0, 0] == len(shots["long"]) - 1
    assert last[-1, 0] == len(written) - 1
