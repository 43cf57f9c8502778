import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import gymnasium
import numpy as np
import pytest
import torch
from rich.table import Table

import mier_adapt_envs
from mier_adapt import AdaptedPolicy, NewTask, __version__, doctor, meta_train
from mier_adapt._storage.checkpoints import load_tree
from mier_adapt.agents import films, presets, pretrained
from mier_adapt.agents import run as runs
from mier_adapt.agents import run_file as run_files
from mier_adapt.agents.run_file import read_run_file
from mier_adapt.cli import terminal
from mier_adapt.cli.commands import COMMANDS
from mier_adapt.cli.runs import group_by_configuration
from mier_adapt.doctor import Examination
from mier_adapt.training.metrics import read_metrics

from ..conftest import CHECKPOINT
from ..doubles import REPOSITORY, TINY_ADAPT, start_python, tiny_config


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cli") / "run"
    meta_train(tiny_config(updates=4), directory, adapt_config=TINY_ADAPT)
    return directory


def test_says_which_versions_are_installed(command):
    code, out, _ = command("--version")
    (line,) = out.splitlines()
    assert code == 0
    assert line.startswith(f"mier-adapt {__version__} (")
    for name in ("torch", "mujoco", "tianshou", "gymnasium"):
        assert f"{name} {version(name)}" in line


# Threads -------------------------------------------------------------------------------------


@pytest.fixture
def torch_threads(monkeypatch):
    """Numbers of torch's threads that were set; none is taken."""
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    return numbers


def test_computes_on_one_thread_unless_someone_says_otherwise(
    command, finished_run, torch_threads, tmp_path, monkeypatch
):
    before = torch.get_num_threads()
    adapt = ("adapt", finished_run, "--task", 12, "--episodes", 0, "--out", tmp_path)
    for environment, options, wanted in (
        ({}, (), 1),
        ({"OMP_NUM_THREADS": str(before)}, (), before),
        ({"OMP_NUM_THREADS": str(before)}, ("--threads", 3), 3),
    ):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert command(*adapt, *options)[0] == 0
        assert torch_threads == [wanted, before]  # and then as it was
        torch_threads.clear()
    code, _, err = command(*adapt, "--threads", 0)
    assert (code, "Expected --threads from 1 to 1024, got 0" in err) == (1, True)


def test_doctor_measures_on_the_threads_that_training_takes(command, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    measured: list[int] = []

    def examine(*given, **named):
        measured.append(torch.get_num_threads())
        return Examination(versions={}, machine={}, checks=(), slow=())

    monkeypatch.setattr(doctor, "examine", examine)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert command("doctor")[0] == 0
        assert command("doctor", "--threads", 3)[0] == 0
    finally:
        torch.set_num_threads(before)
    assert measured == [1, 3]


def test_a_run_goes_on_with_the_number_of_threads_that_it_began_with(
    command, tiny_preset, tmp_path, caplog, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    out = ("meta-train", "tiny", "--out", tmp_path / "run")
    assert command(*out, "--threads", 2, "--updates", 4)[0] == 0
    assert command(*out, "--updates", 6)[0] == 0
    assert load_tree(tmp_path / "run" / CHECKPOINT)["manifest"]["threads"] == 2
    assert not caplog.records
    assert command(*out, "--updates", 8, "--threads", 1)[0] == 0
    assert "--threads 2 (torch.set_num_threads) keeps them" in caplog.text
    run_file = tmp_path / "run" / "run.json"
    run_file.write_text(run_file.read_text().replace('"threads": 1', '"threads": -7'))
    assert command(*out, "--updates", 10)[0] == 0
    assert load_tree(tmp_path / "run" / CHECKPOINT)["manifest"]["threads"] == 1


def test_lists_families(command):
    code, out, _ = command("tasks")
    assert code == 0
    for family in mier_adapt_envs.families():
        assert family in out
    assert "medium" in out


def test_lists_a_familys_tasks(command):
    code, out, _ = command("tasks", "HalfCheetahVel", "--set", "hard")
    assert code == 0
    lines = [line for line in out.splitlines() if "velocity" in line]
    tasks = mier_adapt_envs.task_set("HalfCheetahVel", "hard")
    assert len(lines) == len(tasks) == 130
    assert "meta-train" in lines[99]
    assert "meta-test" in lines[100]
    assert str(tasks[129]) in lines[129]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("meta-train", "smok", "--out", "{tmp}"), "Did you mean smoke?"),
        (("tasks", "HalfCheetah"), "HalfCheetahNegatedJoints"),
        (("evaluate", "{tmp}"), "meta-train PRESET --out"),
        (("adapt", "{tmp}", "--task", "0"), "meta-train PRESET --out"),
        (("adapt", "{run}", "--task", "20"), "--task from 0 to 19, got 20"),
        (("adapt", "{run}"), "--task INDEX ... or --all-ood"),
        (("adapt", "{run}", "--task", "3", "--all-ood"), "--task INDEX ... or --all-ood"),
        (("adapt", "{run}", "--task", "3", "--seed", "1", "0", "1"), "each --seed once, got 1 0 1"),
        (("adapt", "nothing", "--task", "0"), "name of a pretrained run"),
        (("pretrained", "nothing"), "name of a run, one of"),
        (("export", "{tmp}", "--name", "x", "--out", "{tmp}/x"), "meta-train PRESET --out"),
        (("quickstart", "--task", "9"), "--task from 10 to 19, got 9"),
        (("plot", "{tmp}", "--out", "{tmp}/x.png"), "meta-train PRESET --out"),
        (
            ("plot", "{run}", "--out", "{tmp}/x.png", "--kind", "tasks", "--over", "time"),
            "--over time is of --kind learning",
        ),
        (("plot", "{run}", "--out", "{tmp}/x.txt"), "'txt' is not supported (supported formats: "),
        (("meta-trian", "smoke"), "Did you mean meta-train?"),
        (("adapt", "{run}", "--tsk", "12"), "Did you mean --task?"),
        (("adapt", "{run}", "--epsiodes=2", "--task", "12"), "Did you mean --episodes?"),
        (("tasks", "HalfCheetahVelocity"), "Did you mean HalfCheetahVel?"),
        (("evaluate", "{run}", "--seeds", "0"), "--seeds expected >= 1, got 0"),
        (("evaluate", "{run}", "--episodes", "0"), "--episodes expected >= 1, got 0"),
        (("adapt", "{run}", "--task", "12", "--episodes", "-1"), "episodes"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_1(
    command, arguments, message, finished_run, tmp_path
):
    places = {"tmp": tmp_path, "run": finished_run}
    code, _, err = command(*(argument.format(**places) for argument in arguments))
    assert code == 1
    assert err.startswith("mier-adapt: ")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (("evaluate", "{run}", "--split", "middle"), ("train", "test", "all")),
        (("plot", "{run}", "--out", "{tmp}/x.png", "--kind", "pie"), ("learning", "tasks")),
    ],
)
def test_a_choice_that_is_not_there_lists_those_that_are(
    command, arguments, choices, finished_run, tmp_path
):
    places = {"tmp": tmp_path, "run": finished_run}
    code, _, err = command(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert arguments[-2] in err
    assert all(repr(each) in err for each in (*choices, arguments[-1]))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_preset_lists_the_presets_and_makes_no_directory(command, tmp_path):
    code, _, err = command("meta-train", "nothing", "--out", tmp_path / "run")
    assert code == 1
    assert "halfcheetah-negated-joints" in err.replace("\n", "")
    assert not (tmp_path / "run").exists()


def test_adapts_and_writes_reports_and_figures(command, finished_run, tmp_path):
    out = tmp_path / "adapted"
    code, shown, _ = command(
        "adapt", finished_run, "--task", 12, 3, "--episodes", 1, "--seed", 5, "--out", out
    )
    assert code == 0
    tasks = mier_adapt_envs.task_set("HalfCheetahNegatedJoints")
    for index in (12, 3):
        report = json.loads((out / f"task-{index}-seed-5.json").read_text())
        assert report["task"] == str(tasks[index])
        (after,) = report["returns"]["adapted context"]
        assert f"{after:.0f} ± 0" in shown
        assert (out / f"task-{index}-seed-5.png").read_bytes().startswith(b"\x89PNG")
        assert f"{index}: {tasks[index]}" in shown
    written = {each.name for each in out.glob("*.safetensors")}
    # and no checkpoints, of adaptations that are done
    assert written == {f"task-{index}-seed-5.policy.safetensors" for index in (12, 3)}

    path = out / "task-12-seed-5.policy.safetensors"
    code, shown, _ = command("play", path, "--episodes", 1, "--seed", 3)
    assert code == 0
    policy, length = AdaptedPolicy.load(path), read_run_file(finished_run).config.episode_steps
    env = gymnasium.make(tasks.env_id, task=tasks[12], max_episode_steps=length)
    (obs, _), total, over = env.reset(seed=3), 0.0, False
    while not over:
        obs, reward, _, over, _ = env.step(policy.predict(obs))
        total += reward
    assert f"{tasks[12]}: return {total:.0f} ± 0 in 1 episode(s)" in shown


class DrawnEnv(gymnasium.Env):
    """Three steps long, and a grey picture."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def __init__(self, render_mode=None, colour=100):
        self.render_mode, self.colour = render_mode, colour

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(3, np.float32), float(action[0]), self.steps == 3, False, {}

    def render(self):
        return np.full((20, 30, 3), self.colour, np.uint8)


def test_plays_in_any_environment_that_gymnasium_makes_and_films_it(command, tmp_path, monkeypatch):
    gymnasium.register("Drawn-v0", entry_point=DrawnEnv, max_episode_steps=9)
    try:
        env = gymnasium.make("Drawn-v0", colour=200)
        network = torch.nn.Sequential(torch.nn.Linear(3, 2))
        torch.nn.init.zeros_(network[0].weight)
        torch.nn.init.constant_(network[0].bias, 0.5)
        policy = AdaptedPolicy(
            network=network,
            context=torch.zeros(0),
            low=env.action_space.low,
            high=env.action_space.high,
            about={"task": "grey", "environment": NewTask.of_env(env).environment},
        )
        policy.save(tmp_path / "policy")
        monkeypatch.setenv("MUJOCO_GL", "")
        monkeypatch.setattr(films, "find_gl_backend", lambda: "egl")
        options = (tmp_path / "policy", "--episodes", 2, "--film", tmp_path / "it.gif")
        code, shown, _ = command("play", *options)
        assert code == 0
        assert "grey: return 2 ± 0 in 2 episode(s)" in shown  # 1.5, rounded
        assert (tmp_path / "it.gif").read_bytes().startswith(b"GIF")
        for name, least in (("seed", 0), ("episodes", 1)):
            code, _, err = command("play", tmp_path / "policy", f"--{name}={least - 1}")
            assert code == 1
            assert f"--{name} expected >= {least}, got {least - 1}." in err
    finally:
        del gymnasium.registry["Drawn-v0"]
    code, _, err = command("play", tmp_path / "policy")
    assert code == 1
    assert "Import what registers it (--import MODULE)" in err
    dataclasses.replace(policy, about={}).save(tmp_path / "policy")
    code, _, err = command("play", tmp_path / "policy")
    assert code == 1
    assert "does not say what makes its environment" in err


def test_an_adaptation_takes_as_many_transitions_as_it_is_told(command, finished_run, tmp_path):
    options = ("--task", 12, "--episodes", 0, "--out", tmp_path, "--no-diagnose")
    code, _, err = command("adapt", finished_run, *options, "--transitions", 0)
    assert code == 1
    assert err == "mier-adapt: --transitions expected >= 1, got 0.\n"
    code, _, err = command("adapt", finished_run, *options[:-1], "--diagnose", "--transitions", 9)
    assert (code, "--transitions expected >= " in err) == (1, True)
    assert "Gather more, or set --no-diagnose." in err
    code, _, _ = command("adapt", finished_run, *options, "--transitions", 20)
    assert code == 0
    report = json.loads((tmp_path / "task-12-seed-0.json").read_text())
    assert report["real_transitions"] == 20
    assert report["diagnosis"] is None


def test_adapts_to_all_meta_test_tasks_with_several_seeds(command, finished_run, tmp_path):
    out = tmp_path / "adapted"
    options = ("--episodes", 1, "--seed", 0, 1, "--num-models", 1, "--out", out)
    code, shown, _ = command("adapt", finished_run, "--all-ood", *options)
    assert code == 0
    names = [f"task-{index}-seed-{seed}.json" for index in range(10, 20) for seed in (0, 1)]
    assert sorted(path.name for path in out.glob("*.json")) == ["comparison.json", *names]
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    reports = [json.loads((out / name).read_text()) for name in names]
    arms = json.loads((out / "comparison.json").read_text())["arms"]
    for stage in ("initial context", "adapted context", "actor only", "relabeled"):
        mean = np.mean([each["returns"][stage] for each in reports])
        assert arms[stage]["mean"] == pytest.approx(mean)
        low, high = arms[stage]["mean_interval"]
        row = re.search(rf"│ {stage} .*", shown).group()
        assert f" {mean:.0f} │ {low:.0f} to {high:.0f} │" in re.sub(" +", " ", row)
    kept = [each["returns"][each["decision"]] for each in reports]
    assert arms["kept"]["mean"] == pytest.approx(np.mean(kept))


def test_compares_all_arms_of_a_run_that_leaves_stages_out(command, finished_run, tmp_path):
    arguments = ("adapt", finished_run, "--task", 12, "--episodes", 1, "--out", tmp_path / "out")
    arguments += ("--refresh-updates", 0, "--validation-threshold", "-1e9")
    code, shown, _ = command(*arguments)
    assert (code, "actor only" in shown, "relabeled  " in shown) == (0, False, False)
    assert not (tmp_path / "out" / "comparison.json").exists()
    code, shown, _ = command(*arguments, "--compare")
    assert (code, "one seed" in shown) == (0, True)
    arms = json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"]
    stages = ["initial context", "adapted context", "actor only", "relabeled"]
    assert list(arms) == [*stages, "kept"]


def test_evaluates_and_writes_figures(command, finished_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(finished_run, copied)
    code, shown, _ = command("evaluate", copied, "--split", "test", "--episodes", 1, "--seeds", 2)
    assert code == 0
    results = json.loads((copied / "evaluation.json").read_text())
    tasks = mier_adapt_envs.task_set("HalfCheetahNegatedJoints")
    assert list(results["splits"]) == ["test"]
    rows = results["splits"]["test"]
    assert [row["task"] for row in rows] == [str(task) for task in tasks.meta_test]
    assert [row["parameters"] for row in rows] == [list(task.parameters) for task in tasks[10:]]
    for name in ("return_initial", "return_adapted", "loss_initial", "loss_adapted"):
        assert all(len(row[name]) == 2 for row in rows)
        assert f"{np.mean([row[name] for row in rows]):.0f}" in shown.split("mean of test tasks")[1]
    summary = results["summary"]["test"]["adapted"]
    (line,) = [line for line in shown.splitlines() if "interquartile mean" in line]
    assert f" {summary['iqm']:.0f} " in line
    low, high = summary["iqm_interval"]
    assert f"{low:.0f} to {high:.0f}" in shown
    assert low <= summary["iqm"] <= high
    own = sum(np.mean(row["loss_adapted"]) < np.mean(row["loss_others"]) for row in rows)
    assert results["identified"] == {"test": own}
    assert f"Own context predicts best: {own} of {len(rows)} test tasks" in shown
    assert f"10: {tasks[10]}" in shown
    assert "mean of test tasks" in shown


def test_draws_learning_curves_and_returns_by_task(command, finished_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(finished_run, copied)
    code, _, err = command("plot", copied, "--kind", "tasks", "--out", tmp_path / "tasks.png")
    assert code == 1
    assert "mier-adapt evaluate" in err
    command("evaluate", copied, "--episodes", 1)
    for kind, name in (("tasks", "tasks.png"), ("learning", "curves.svg")):
        code, _, _ = command("plot", copied, "--kind", kind, "--out", tmp_path / name)
        assert code == 0
    assert (tmp_path / "tasks.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


@pytest.mark.parametrize("subcommand", COMMANDS)
def test_the_help_of_a_subcommand_fits_a_terminal_and_gives_an_example(forked, subcommand):
    _, out, err = forked(HELP, subcommand)
    lines = out.splitlines()
    assert len(lines) <= 36, err
    assert max(map(len, lines[1:])) <= 80  # the first one, the usage, is tyro's
    assert f"Example: mier-adapt {subcommand} " in out
    # Every option says what it takes: a default, or that there is none.
    text = " ".join(line.strip("│ ") for line in lines)
    said = sum(text.count(each) for each in ("(default: ", "(required)", "(repeatable)"))
    assert said == len(dataclasses.fields(COMMANDS[subcommand]))
    if subcommand in ("meta-train", "adapt"):  # and those of configurations are named
        for field in COMMANDS[subcommand].options()._fields:
            assert field.path[0] == "adapt" or field.name.rpartition(".")[2] in text


def test_the_help_shows_each_subcommand_with_its_example(forked):
    _, out, err = forked(HELP)
    assert len(out.splitlines()) <= 48, err
    for subcommand in COMMANDS:
        assert f"Example: mier-adapt {subcommand} " in out


HELP = """
import os, sys

os.environ["COLUMNS"] = "80"
sys.argv = ["mier-adapt", *sys.argv[1:], "--help"]
from mier_adapt import cli

cli.main()
"""

# Output that fails ---------------------------------------------------------------------------


class Failing(io.StringIO):
    """A standard output that takes a while and then nothing more."""

    def __init__(self, error: Exception, *, lines: int) -> None:
        super().__init__()
        self.error, self.lines = error, lines

    def write(self, text: str) -> int:
        self.lines -= text.count("\n")
        if self.lines < 0:
            raise self.error
        return len(text)

    def flush(self) -> None:
        if self.lines < 0:
            raise self.error


FAILURES = {
    "closed pipe": BrokenPipeError(32, "Broken pipe"),
    "full disk": OSError(28, "No space left on device"),
    "closed file": ValueError("I/O operation on closed file."),
    "another's error": RuntimeError("the window is gone"),
}


@pytest.fixture
def tiny_preset(monkeypatch):
    config = tiny_config(updates=20)
    monkeypatch.setitem(presets.PRESETS, "tiny", presets.Preset(config, TINY_ADAPT))


@pytest.mark.parametrize("lines", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_output_that_fails_ends_no_work(
    command, error, lines, tiny_preset, finished_run, tmp_path, monkeypatch
):
    for arguments, written in (
        (("meta-train", "tiny", "--out", "{tmp}/run"), [f"run/{CHECKPOINT}"]),
        (
            ("adapt", "{run}", "--task", "12", "3", "--episodes", "1", "--out", "{tmp}/adapt"),
            ["adapt/task-12-seed-0.json", "adapt/task-3-seed-0.png", "adapt/comparison.png"],
        ),
        (
            ("evaluate", "{tmp}/run", "--split", "test", "--episodes", "1"),
            ["run/evaluation.json"],
        ),
        (("plot", "{run}", "--out", "{tmp}/x.png"), ["x.png"]),
    ):
        words = [each.format(tmp=tmp_path, run=finished_run) for each in arguments]
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", Failing(error, lines=lines))
            code, _, err = command(*words)
        assert (code, err) == (0, "")
        assert all((tmp_path / name).is_file() for name in written)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_characters_that_a_terminal_lacks_are_replaced(
    command, encoding, tiny_preset, tmp_path, monkeypatch
):
    out = tmp_path / "ü€"
    with monkeypatch.context() as patch:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        patch.setattr("sys.stdout", stream)
        code, _, err = command("meta-train", "tiny", "--out", out)
        shown = stream.buffer.getvalue().decode(encoding)
    assert (code, err) == (0, "")
    assert load_tree(out / CHECKPOINT)["updates"] == 20
    assert re.search(r"return +-?\d+\.\d \? +-?\d", shown)
    assert ("ü?" if encoding == "latin-1" else "??") in shown


def test_a_pipe_that_is_closed_leaves_a_whole_run_and_a_clean_exit(tmp_path):
    with meta_train_command(tmp_path / "run", updates=24) as process:
        process.stdout.close()
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert load_tree(tmp_path / "run" / CHECKPOINT)["updates"] == 24


def test_an_evaluation_is_written_before_it_is_shown(command, finished_run, tmp_path, monkeypatch):
    copied = tmp_path / "run"
    shutil.copytree(finished_run, copied)

    def fail(shown, **_):
        if isinstance(shown, Table):
            raise RuntimeError("no table")

    monkeypatch.setattr(terminal.console, "print", fail)
    with pytest.raises(RuntimeError, match="no table"):
        command("evaluate", copied, "--split", "test", "--episodes", 1)
    assert (copied / "evaluation.json").is_file()


NAME = "curves [seed0] [bold]:fire: " + "long " * 40


def test_the_same_seed_again_is_no_other_seed(finished_run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(finished_run, again)
    groups = group_by_configuration([finished_run, again])
    assert [paths for _, paths in groups.values()] == [[finished_run], [again]]
    assert list(groups)[1] == "again"
    text = (again / "run.json").read_text()
    (again / "run.json").write_text(text.replace('"seed": 0', '"seed": 7'))
    ((_, paths),) = group_by_configuration([finished_run, again]).values()
    assert paths == [finished_run, again]


def test_one_task_in_two_places_is_told_before_it_is_adapted_to(command, tmp_path):
    config = tiny_config("HalfCheetahDir", updates=4)
    meta_train(config, tmp_path / "run", adapt_config=TINY_ADAPT)
    tasks = config.tasks
    other = len(tasks.meta_train) + tasks.meta_test.index(tasks[0])
    code, _, err = command("adapt", tmp_path / "run", "--task", 0, other)
    assert (code, f"but --task 0 and {other} are one" in err.replace("\n", " ")) == (1, True)
    assert not (tmp_path / "run" / "adapt").exists()


def test_paths_are_shown_as_they_are(command, tiny_preset, finished_run, tmp_path):
    code, shown, _ = command("plot", finished_run, "--out", tmp_path / f"{NAME}.png")
    assert (code, shown) == (0, f"Figure: {tmp_path / NAME}.png\n")
    out = tmp_path / NAME
    for _ in range(2):
        code, shown, _ = command("meta-train", "tiny", "--out", out)
        assert code == 0
        assert f"Finished: {out} (learning curve: {out / 'learning_curve.png'})\n" in shown
    code, shown, _ = command("adapt", out, "--task", 12, "--episodes", 1)
    assert (code, f"Reports and figures: {out / 'adapt'}\n" in shown) == (0, True)
    code, _, err = command("evaluate", tmp_path / f"{NAME}x")
    assert (code, err.startswith("mier-adapt: Expected a run directory, but ")) == (1, True)
    assert f"{tmp_path / NAME}x holds no" in err


def test_updates_that_are_done_are_finished_and_fewer_are_refused(command, tiny_preset, tmp_path):
    arguments = ("meta-train", "tiny", "--out", tmp_path / "run")
    assert command(*arguments)[0] == 0
    before = (tmp_path / "run" / "run.json").read_bytes()
    code, _, err = command(*arguments, "--updates", 19)
    assert (code, "has taken 20 updates" in err) == (1, True)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    code, shown, _ = command(*arguments, "--updates", 20)
    assert (code, "Finished" in shown) == (0, True)


def test_an_adaptation_writes_into_no_link_of_a_run(command, finished_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(finished_run, copied)
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(copied / "adapt", ignore_errors=True)
    (copied / "adapt").symlink_to(tmp_path / "elsewhere")
    code, _, err = command("adapt", copied, "--task", 12, "--episodes", 1)
    assert (code, "adapt is a link" in err) == (1, True)
    assert list((tmp_path / "elsewhere").iterdir()) == []


ADAPT = """
import sys

import torch

torch.set_num_threads(1)
from mier_adapt import cli

sys.argv = ["mier-adapt", "adapt", sys.argv[1], "--task", "12", "--out", sys.argv[2]]
cli.main()
"""


def test_the_same_adaptation_may_run_twice_at_once(finished_run, tmp_path):
    out = tmp_path / "out"
    processes = [start_python(ADAPT, finished_run, out) for _ in range(2)]
    for process in processes:
        with process:
            _, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == [
        "config.toml",
        "task-12-seed-0.json",
        "task-12-seed-0.png",
        "task-12-seed-0.policy.safetensors",
    ]


META_TRAIN = """
import sys

import torch

torch.set_num_threads(1)
from mier_adapt import cli
from mier_adapt.agents import presets
from tests.mier_adapt.doubles import TINY_ADAPT, tiny_config

presets.PRESETS["tiny"] = presets.Preset(tiny_config(updates={updates}), TINY_ADAPT)
sys.argv = ["mier-adapt", "meta-train", "tiny", "--checkpoint-seconds", "0", "--out", sys.argv[1]]
cli.main()
"""


def meta_train_command(directory, updates: int):
    return start_python(META_TRAIN.format(updates=updates), directory)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupt_saves_a_checkpoint_and_the_same_command_finishes(number, tmp_path):
    directory = tmp_path / "run"
    with meta_train_command(directory, updates=100_000) as process:
        deadline = time.monotonic() + 60
        while not (directory / CHECKPOINT).exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "checkpoint saved" in out
    assert "Traceback" not in err
    done = load_tree(directory / CHECKPOINT)["updates"]

    if number == signal.SIGINT:
        with meta_train_command(directory, updates=done + 7) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Finished" in out
        assert load_tree(directory / CHECKPOINT)["updates"] == done + 7
        assert read_metrics(directory)[-1]["updates"] == done + 7


def test_exports_a_run_that_is_then_known_by_its_name(command, finished_run, tmp_path, monkeypatch):
    arguments = ("--episodes", 1, "--seeds", 1, "--command", "made it", "--commit", "c0ffee")
    code, shown, _ = command(
        "export", finished_run, "--name", "tiny", "--out", tmp_path / "data" / "tiny", *arguments
    )
    assert code == 0
    assert "tiny" in shown
    for module in (run_files, pretrained):
        monkeypatch.setattr(module, "PRETRAINED", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    card = json.loads((tmp_path / "data" / "tiny" / "card.json").read_text())
    code, listed, _ = command("pretrained")
    table = [line for line in shown.splitlines() if not line.startswith(("export: ", "Exported"))]
    assert (code, listed.splitlines()) == (0, table)
    code, shown, _ = command("pretrained", "tiny")
    assert (code, json.loads(shown)) == (0, card)
    code, _, _ = command("evaluate", "tiny", "--split", "test", "--episodes", 1)
    record = json.loads((tmp_path / "tiny" / "evaluation.json").read_text())
    assert (code, record["splits"]["test"]) == (0, card["evaluation"]["splits"]["test"])
    code, _, _ = command("adapt", "tiny", "--task", 3, "--episodes", 1)
    assert (code, (tmp_path / "tiny" / "adapt" / "task-3-seed-0.json").is_file()) == (0, True)


def test_exports_where_there_is_no_git_checkout(finished_run, tmp_path):
    for package in ("mier_adapt", "mier_adapt_envs"):
        leave_out = shutil.ignore_patterns("pretrained", "__pycache__")
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=leave_out)
    arguments = ("export", finished_run, "--out", "out", "--name", "x", "--command", "it")
    few = ("--episodes", "1", "--seeds", "1")
    done = subprocess.run(
        [sys.executable, "-c", "from mier_adapt.cli import main; main()", *arguments, *few],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["commit"] == "unknown"
    assert card["versions"]["mier-adapt"] == __version__


def test_a_run_of_no_preset_asks_for_its_command(command, finished_run, tmp_path):
    code, _, err = command("export", finished_run, "--out", tmp_path / "x", "--name", "x")
    assert (code, err.startswith("mier-adapt: --command expected to be given")) == (1, True)


@pytest.mark.parametrize("backend", ["egl", None])
def test_quickstart_adapts_a_pretrained_run_and_says_why_there_is_no_film(
    command, finished_run, tmp_path, monkeypatch, backend
):
    def find() -> str:
        if backend is None:
            raise RuntimeError("MuJoCo cannot draw here (egl: no display)")
        return backend

    filmed = []
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(films, "find_gl_backend", find)
    monkeypatch.setattr(films, "film_side_by_side", lambda *args, **options: filmed.append(args))
    load_run = runs.load_run
    monkeypatch.setattr(runs, "load_run", lambda name: load_run(finished_run))
    code, shown, _ = command("quickstart", "--episodes", 1, "--out", tmp_path / "out")
    assert code == 0
    report = json.loads((tmp_path / "out" / "task-12-seed-0.json").read_text())
    for stage in ("initial context", "adapted context", "relabeled"):
        (value,) = report["returns"][stage]
        assert re.search(rf"{stage} +{value:.0f} ± 0 ", shown)
    assert (tmp_path / "out" / "task-12-seed-0.png").is_file()
    assert ("No film: MuJoCo cannot draw here (egl: no display)." in shown) == (backend is None)
    assert [list(actors) for _, _, actors, _ in filmed] == [["before", "after"]] * bool(backend)
