import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mier_adapt.training.metrics import METRICS_FILE, MetricsLog, read_metrics


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


def test_rows_with_returns_draw_the_learning_curve(tmp_path):
    write(tmp_path, rows(1))
    picture = tmp_path / "learning_curve.png"
    assert not picture.exists()
    names = ("return_initial", "return_adapted", "loss_initial", "loss_adapted")
    write(tmp_path, [{**rows(1)[0], **dict.fromkeys(names, 1.5), "returns_adapted": [1.0, 2.0]}])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / METRICS_FILE).read_text())["returns_adapted"] == [1.0, 2.0]
