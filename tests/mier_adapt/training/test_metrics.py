import json
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mier_adapt._storage.files import CheckpointError
from mier_adapt.training import meta_train
from mier_adapt.training.metrics import METRICS_FILE, MetricsLog, read_metrics

from ..doubles import TINY_ADAPT, tiny_config


def rows(count: int) -> list[dict]:
    return [{"updates": 10 * (n + 1), "env_steps": n, "model_loss": -n / 3} for n in range(count)]


def write(directory, some, *, updates: int = 0) -> None:
    log = MetricsLog(directory, updates=updates)
    for row in some:
        log.write(row)
    log.close()


def test_rows_come_back_as_they_were_written(tmp_path):
    assert read_metrics(tmp_path) == []
    write(tmp_path, rows(3))
    assert read_metrics(tmp_path) == rows(3)
    assert any((tmp_path / "tensorboard").iterdir())


def test_tensorboard_has_each_number_once_under_its_name(tmp_path):
    write(tmp_path, [{**row, "returns_adapted": [1.0, 2.0]} for row in rows(3)])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = {f"meta_train/{name}" for name in ("updates", "env_steps", "model_loss")}
    assert set(events.Tags()["scalars"]) == tags
    for tag in tags:
        found = [(each.step, each.value) for each in events.Scalars(tag)]
        name = tag.removeprefix("meta_train/")
        assert found == [(row["updates"], pytest.approx(row[name])) for row in rows(3)]


# Weights & Biases ---------------------------------------------------------------------------


class FakeRun:
    """What ``wandb.init`` gives, as far as it is used."""

    def __init__(self, options: dict, *, fails: bool) -> None:
        self.options, self.fails = options, fails
        self.rows: list[tuple[int, dict]] = []
        self.finished = False

    def log(self, scalars: dict, step: int) -> None:
        if self.fails:
            raise OSError("no network")
        self.rows.append((step, scalars))

    def finish(self) -> None:
        self.finished = True


class FakeWandb:
    """The package."""

    def __init__(self) -> None:
        self.runs: list[FakeRun] = []
        self.fails = False

    def init(self, **options: object) -> FakeRun:
        if options["project"] == "closed":
            raise RuntimeError("no API key")
        self.runs.append(FakeRun(options, fails=self.fails))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def train(directory, *, updates: int, log: str) -> None:
    config = tiny_config(updates=updates, updates_per_iteration=2)
    meta_train(config, directory, adapt_config=TINY_ADAPT, log=log)


def test_a_resumed_run_goes_on_as_the_same_run_of_wandb(wandb, tmp_path):
    directory = tmp_path / "mine"
    for updates in (4, 6):
        train(directory, updates=updates, log="wandb")
    first, second = wandb.runs
    assert first.options["id"] == second.options["id"]
    for run in wandb.runs:
        assert run.finished
        assert run.options["resume"] == "allow"
        assert (run.options["project"], run.options["name"]) == ("mier-adapt", "mine")
        assert run.options["config"]["config"]["family"] == "HalfCheetahNegatedJoints"
    measured = read_metrics(directory)
    steps = [(step, scalars["meta_train/env_steps"]) for step, scalars in first.rows + second.rows]
    assert steps == [(row["updates"], row["env_steps"]) for row in measured]
    assert [row["updates"] for row in measured] == [2, 4, 6]
    assert "meta_train/returns_adapted" not in first.rows[-1][1]
    assert list((directory / "tensorboard").iterdir())  # beside it
    train(tmp_path / "another", updates=2, log="wandb")
    assert wandb.runs[-1].options["id"] != first.options["id"]


def test_measurements_that_wandb_does_not_take_end_no_run(wandb, tmp_path, caplog):
    wandb.fails = True
    train(tmp_path / "run", updates=2, log="wandb")
    assert "wandb did not take the measurements: no network" in caplog.text
    assert read_metrics(tmp_path / "run")[-1]["updates"] == 2


@pytest.mark.parametrize("contents", ['{"id": "../x"}', '{"id": 3}', "{"])
def test_an_id_that_is_none_is_refused(wandb, tmp_path, contents):
    train(tmp_path / "run", updates=2, log="none")
    (tmp_path / "run" / "wandb.json").write_text(contents)
    with pytest.raises(CheckpointError, match=r"wandb\.json"):
        train(tmp_path / "run", updates=4, log="wandb")
    assert wandb.runs == []


def test_wandb_that_does_not_start_or_is_not_there_is_said_before_training(
    wandb, tmp_path, monkeypatch, command
):
    monkeypatch.setenv("WANDB_PROJECT", "closed")
    with pytest.raises(ValueError, match=r"wandb did not start: no API key\. Log in"):
        train(tmp_path / "run", updates=2, log="wandb")
    assert not (tmp_path / "run" / METRICS_FILE).exists() or read_metrics(tmp_path / "run") == []
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'mier-adapt\[wandb\]'"):
        train(tmp_path / "none", updates=2, log="wandb")
    code, _, err = command("meta-train", "smoke", "--out", tmp_path / "none", "--log", "wandb")
    assert (code, "needs wandb: pip install 'mier-adapt[wandb]'." in err) == (1, True)
    assert not (tmp_path / "none").exists()


def test_nothing_is_logged_elsewhere_where_that_is_asked_for(tmp_path):
    train(tmp_path / "run", updates=2, log="none")
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert read_metrics(tmp_path / "run")[-1]["updates"] == 2


# Rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("updates", "kept"), [(0, 0), (9, 0), (10, 1), (29, 2), (1000, 4)])
def test_a_resumed_run_drops_what_it_will_write_again(tmp_path, updates, kept):
    write(tmp_path, rows(4))
    write(tmp_path, [{"updates": 1001, "env_steps": 0}], updates=updates)
    assert read_metrics(tmp_path) == [*rows(4)[:kept], {"updates": 1001, "env_steps": 0}]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_last_line_that_a_kill_cut_short_is_left_out(tmp_path, cut):
    write(tmp_path, rows(3))
    path = tmp_path / METRICS_FILE
    whole = path.read_text()
    path.write_text(whole[:-cut])
    assert read_metrics(tmp_path) == rows(3 if cut == 1 else 2)
    write(tmp_path, rows(3)[2:], updates=20)
    assert path.read_text() == whole


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\x00",
        b"[" * 100_000,
        b'{"updates": %s, "env_steps": 1}' % (b"9" * 10_000),
        b'{"env_steps": 1}',
        b'{"updates": "20", "env_steps": 1}',
        b'{"updates": 20, "env_steps": 1, "model_loss": "x"}',
        b'{"updates": 20, "env_steps": 1, "return_adapted": 1.0}',
        b'{"updates": 20, "env_steps": 1, "split": 1}',
        b'{"updates": 20, "env_steps": 1, "split": "meta"}',
    ],
    ids=lambda damage: repr(damage[:30]),
)
def test_damaged_lines_are_left_out_and_the_others_kept(tmp_path, damage, caplog):
    write(tmp_path, rows(4))
    path = tmp_path / METRICS_FILE
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], damage, *lines[2:], damage]) + b"\n")
    assert read_metrics(tmp_path) == [rows(4)[0], *rows(4)[2:]]
    (record,) = caplog.records
    assert f"{path} is damaged in line(s) 2, 5" in record.message
    write(tmp_path, [], updates=40)
    caplog.clear()
    assert read_metrics(tmp_path) == [rows(4)[0], *rows(4)[2:]]
    assert caplog.text == ""


def test_a_row_has_both_losses_or_none(tmp_path, caplog):
    returns = {"return_initial": 1.5, "return_adapted": 2.5, "returns_adapted": [1.0, 4.0]}
    without, whole, half, wrong = (
        {**row, **returns, **losses}
        for row, losses in zip(
            rows(4),
            (
                {},
                {"loss_initial": 1.0, "loss_adapted": 0.5},
                {"loss_adapted": 0.5},
                {"loss_initial": 1.0, "loss_adapted": [0.5]},
            ),
            strict=True,
        )
    )
    lines = "".join(json.dumps(row) + "\n" for row in (without, whole, half, wrong))
    (tmp_path / METRICS_FILE).write_text(lines)
    assert read_metrics(tmp_path) == [without, whole]
    assert "line(s) 3, 4" in caplog.text


def test_rows_with_returns_draw_the_learning_curve(tmp_path):
    write(tmp_path, rows(1))
    picture = tmp_path / "learning_curve.png"
    assert not picture.exists()
    names = ("return_initial", "return_adapted", "loss_initial", "loss_adapted")
    write(tmp_path, [{**rows(1)[0], **dict.fromkeys(names, 1.5), "returns_adapted": [1.0, 2.0]}])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / METRICS_FILE).read_text())["returns_adapted"] == [1.0, 2.0]
