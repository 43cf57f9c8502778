"""How far things are, with a terminal and without."""

import io
import itertools

import pytest
from rich.console import Console

from mier_adapt.agents import presets
from mier_adapt.cli import terminal

from ..doubles import TINY_ADAPT, tiny_config


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_a_stage_says_that_it_begins_and_then_seldom(capsys):
    clock = Clock()
    with terminal.Progress(clock) as progress:
        for second in range(100):
            clock.now = second
            progress.show("run", "first", second / 200, f"{second} s")
        for second in range(100, 110):
            clock.now = second
            progress.show("run", "second")
        progress.show("another", "second", 1.0)
    assert capsys.readouterr().out.splitlines() == [
        "run: 0%, first, 0 s",
        "run: 15%, first, 30 s",
        "run: 30%, first, 60 s",
        "run: 45%, first, 90 s",
        "run: second",
        "another: 100%, second",
    ]


def test_on_a_terminal_there_are_bars(monkeypatch):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(terminal, "console", console)
    with terminal.Progress() as progress:
        progress.show("run [1]", "first", 0.25, "quick")
        progress.print("beside it")
        progress.show("run [1]", "first", 1.0)
    assert "run [1]" in shown.getvalue()
    assert "100%" in shown.getvalue()
    assert "beside it\n" in shown.getvalue().replace("\r", "")


def test_a_line_of_text_stays_one_line_in_a_file(capsys):
    line = "a return of 5 " * 20
    with terminal.Progress() as progress:
        progress.print(line)
    assert capsys.readouterr().out == f"{line}\n"


def test_every_command_that_takes_long_says_how_far_it_is(
    command, negated_joints_run, tmp_path, monkeypatch
):
    small = presets.Preset(tiny_config(), TINY_ADAPT)
    monkeypatch.setitem(presets.PRESETS, "tiny", small)
    task = ("--task", 12, "--episodes", 1, "--out", tmp_path / "adapted")
    few = ("--episodes", 1, "--seeds", 1)
    export = ("export", tmp_path / "run", "--out", tmp_path / "x", "--name", "x", *few)
    for arguments, stages in (
        (
            ("meta-train", "tiny", "--out", tmp_path / "run"),
            ("tiny: 0%, collecting first", "pre-training the model, ", "meta-training, 1 updates"),
        ),
        (
            ("adapt", negated_joints_run, *task),
            [f"task-12, seed 0: 0%, {stage}" for stage in ("identify", "refine", "gate")],
        ),
        (
            ("evaluate", tmp_path / "run", *few),
            ("evaluate: 0%, train tasks, seed 0", "evaluate: 50%, test tasks, seed 0"),
        ),
        (
            (*export, "--command", "it", "--commit", "c0ffee"),
            ("export: reading", "export: writing", "export: evaluating test tasks, seed 0"),
        ),
    ):
        code, out, err = command(*arguments)
        assert (code, err) == (0, "")
        places = [out.find(stage) for stage in stages]
        assert min(places) >= 0, (out, stages)
        assert all(first < second for first, second in itertools.pairwise(places))


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_console_shows_texts_as_they_are(name, capsys):
    terminal.console_on(name).print("[bold] :fire: 3.5")
    assert getattr(capsys.readouterr(), name[3:]) == "[bold] :fire: 3.5\n"


class Job:
    """A job that is as far as a file in its directory says."""

    def __init__(self, name):
        self.name = name

    def state(self, out):
        share = float((out / self.name / "share").read_text()) if self.begun(out) else 0.0
        return share, f"{share:.2f} of it"

    def begun(self, out):
        return (out / self.name).is_dir()

    def done(self, out):
        return self.state(out)[0] == 1


def test_a_sweep_shows_all_of_it_and_what_is_under_way(capsys, tmp_path):
    now = [0.0]
    jobs = [Job(name) for name in ("a", "b", "c", "d")]

    def at(name, share):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "share").write_text(str(share))

    at("a", 1.0)
    shown = terminal.SweepProgress(
        terminal.Progress(clock=lambda: now[0]), jobs, tmp_path, clock=lambda: now[0]
    )
    at("b", 0.0)
    shown.now_and_then()
    assert capsys.readouterr().out == "sweep: 25%, 1 of 4 jobs done, b 0%\n"
    at("b", 0.5)
    now[0] = 1.0
    shown.now_and_then()  # too soon
    assert capsys.readouterr().out == ""
    at("b", 1.0)
    at("c", 0.5)
    shown.ended(jobs[1], None)
    assert capsys.readouterr().out.splitlines() == [
        "b: done, 1.00 of it",
        "sweep: 62%, 2 of 4 jobs done, c 50%",
    ]
    shown.ended(jobs[2], "first line\nlast line")
    assert capsys.readouterr().out.splitlines() == [
        "c: failed. last line",
        "sweep: 62%, 2 of 4 jobs done, 1 failed, c 50%",
    ]
