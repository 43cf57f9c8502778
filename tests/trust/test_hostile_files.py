"""Files of a run that someone else wrote: one error of ours, whatever they say; little memory."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from mier_adapt import figures, load_run
from mier_adapt._storage.checkpoints import CHECKPOINT_FILE, CheckpointError, load_tree, save_tree
from mier_adapt._storage.locks import LOCK_FILE, RunLockedError, run_lock
from mier_adapt.agents import pretrained
from mier_adapt.agents import run_file as run_files
from mier_adapt.agents.pretrained import export_run, read_card, read_evaluation
from mier_adapt.agents.run_file import read_run_file
from mier_adapt.training import meta_train
from mier_adapt.training.metrics import read_metrics
from tests.mier_adapt.doubles import TINY_ADAPT, run_python, tiny_config
from tests.trust.test_checkpoint_fuzz import nodes_of, replaced

FOREIGN = [None, True, -1, 10**18, float("inf"), "x", [], {}, ["a"], {"a": 1}]
"""What may stand anywhere in JSON."""
CONTENTS = {
    "nested lists": b"[" * 100_000,
    "nested dictionaries": b'{"seed":' * 50_000,
    "closed lists": b"[" * 500 + b"]" * 500,
    "a long number": b"9" * 10_000,
    "a number beyond floats": b'{"seed": %s}' % (b"9" * 400),
    "many lists": b"[" + b"[]," * 300_000 + b"[]]",
    "another encoding": '{"seed": 1}'.encode("utf-16"),
    "no text": bytes(range(256)),
    "nothing": b"",
    "a number": b"1",
    "a long text": b'"' + b"x" * 10_000_000 + b'"',
}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A run that may be written to."""
    copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def evaluated() -> dict[str, Any]:
    """What ``mier-adapt evaluate`` writes, as far as it is read."""
    row = {"task": "one", "parameters": [1.0], "return_initial": [1.0], "return_adapted": [2.0]}
    return {"splits": {"train": [row], "test": [row]}}


def readers(run: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    """What reads each file of a run."""
    for module in (run_files, pretrained):
        monkeypatch.setattr(module, "PRETRAINED", run.parent)

    def draw() -> None:
        figures.plot_task_returns({"it": [read_evaluation(run)]}, run.parent / "x.png", family="x")

    def lock() -> None:
        with run_lock(run):
            pass

    return {
        "run.json": lambda: load_run(run),
        "card.json": lambda: read_card("run"),
        "evaluation.json": draw,
        LOCK_FILE: lock,
    }


# Contents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("contents", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("name", ["run.json", "card.json", "evaluation.json", LOCK_FILE])
def test_a_file_of_anything_is_refused_by_an_error_of_ours(
    name: str, contents: bytes, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = readers(run, monkeypatch)[name]
    (run / name).write_bytes(contents)
    if name == "run.json":  # its checkpoint would help out
        (run / CHECKPOINT_FILE).unlink()
    if name == LOCK_FILE and len(contents) <= 4096:  # counts as left by a process that died
        os.utime(run / name, (time.time() - 60,) * 2)
        read()
        return
    with pytest.raises(CheckpointError, match=name):
        read()


def test_every_place_of_a_run_file_may_hold_anything(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        run_files, "load_checkpoint", lambda directory: (_ for _ in ()).throw(OSError)
    )
    honest = json.loads((run / "run.json").read_text())
    refused = 0
    for at in nodes_of(honest):
        for value in FOREIGN:
            (run / "run.json").write_text(json.dumps(replaced(honest, at, value)))
            try:
                read_run_file(run)
            except CheckpointError:
                refused += 1
    assert refused > 300


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, of means of nothing
def test_every_place_of_an_evaluation_may_hold_anything(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = readers(run, monkeypatch)["evaluation.json"]
    monkeypatch.setattr(figures, "_save", lambda figure, path: None)
    refused = 0
    for at in nodes_of(evaluated()):
        for value in FOREIGN:
            contents = json.dumps(replaced(evaluated(), at, value))
            (run / "evaluation.json").write_text(contents)
            try:
                read()
            except ValueError:
                refused += 1
    assert refused > 100


def test_every_place_of_the_measurements_may_hold_anything(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][:1]
    refused = 0
    for at in nodes_of(rows)[1:]:
        for value in FOREIGN:
            lines = map(json.dumps, replaced(rows, at, value))
            (run / "metrics.jsonl").write_text("\n".join(lines))
            found = read_metrics(run)
            refused += not found
            for row in found:  # what is read of them
                assert type(row["updates"]) is type(row["env_steps"]) is int
                assert row.pop("split", "meta_train") in ("meta_train", "meta_test")
                assert all(isinstance(each, float | int | list) for each in row.values())
                if "return_adapted" in row:
                    assert all(isinstance(each, float | int) for each in row["returns_adapted"])
    assert refused > 50


@pytest.mark.parametrize(
    "owner",
    [
        {"pid": 10**18},
        {"pid": -1},
        {"taken": 10**18},
        {"taken": float("inf")},
        {"taken": float("nan")},
        {"process_start": "\ud800"},
    ],
)
def test_a_lock_may_name_any_owner(owner: dict[str, Any], run: Path) -> None:
    contents = {"pid": 2**22 + 1, "host": socket.gethostname(), "taken": 0, "process_start": "1"}
    (run / LOCK_FILE).write_text(json.dumps({**contents, **owner}))
    with run_lock(run):
        assert json.loads((run / LOCK_FILE).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("path", [("updates",), ("manifest", "versions"), ("env_steps",)])
@pytest.mark.parametrize("value", [None, "x", [1]])
def test_an_export_of_a_checkpoint_of_anything_is_refused(
    path: tuple[str, ...], value: Any, run: Path
) -> None:
    tree = load_tree(run / CHECKPOINT_FILE)
    save_tree(run / CHECKPOINT_FILE, replaced(tree, path, value))
    with pytest.raises(CheckpointError, match=CHECKPOINT_FILE):
        export_run(run, run.parent / "out", name="x", command="x", commit="x")


# Claims -------------------------------------------------------------------------------------

LOAD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from mier_adapt import load_run

def memory(name):
    (line,) = [l for l in Path("/proc/self/status").read_text().splitlines() if name in l]
    return int(line.split()[1]) / 1024

honest, *hostile = map(Path, sys.argv[1:])
load_run(honest)  # imports what loading needs
for directory in hostile:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = memory("VmRSS"), memory("VmSize")
    try:
        load_run(directory)
        print("loaded")
    except Exception as error:
        growth = memory("VmHWM") - before[0], memory("VmPeak") - before[1]
        print(type(error).__name__, *growth)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_claims_of_giant_networks_are_refused_before_they_are_made(
    finished_run: Path, tmp_path: Path
) -> None:
    most = 2**31 - 1
    claims: list[dict[tuple[str, ...], Any]] = [
        {("model", "hidden_sizes"): [12_000, 12_000]},
        {("model", "hidden_sizes"): [most, most]},
        {("model", "hidden_sizes"): [1] * 20_000},
        {("policy", "hidden_sizes"): [12_000, 12_000]},
        {("policy", "hidden_sizes"): [1] * 20_000},
        {("model", "context_dim"): 100_000_000},
        {("model", "context_dim"): most, ("model", "learn_initial_context"): True},
    ]
    directories = []
    for number, claim in enumerate([*claims, {("replay_per_task",): most}]):
        directory = tmp_path / str(number)
        copytree(finished_run, directory)
        contents = json.loads((directory / "run.json").read_text())
        for path, value in claim.items():
            contents = replaced(contents, ("config", *path), value)
        tree = load_tree(directory / CHECKPOINT_FILE)
        tree["manifest"] = contents
        if number == len(claims):  # room for experience that is not there
            tree["run"]["replay"]["lengths"] = [most] * 10
        (directory / "run.json").write_text(json.dumps(contents))
        save_tree(directory / CHECKPOINT_FILE, tree)
        directories.append(directory)
    code, out, err = run_python(LOAD, finished_run, *directories)
    assert code == 0, err
    for line in out.splitlines():
        error, resident, _ = line.split()
        assert error == "CheckpointError", out
        assert float(resident) < 64, out
    assert len(out.splitlines()) == len(directories)


# Links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["nowhere", "precious"])
def test_a_lock_that_is_a_link_is_refused(target: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    os.utime(precious, (0, 0))
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK_FILE).symlink_to(tmp_path / target)
    with pytest.raises(CheckpointError, match=r"run\.lock is a link"):
        meta_train(tiny_config(), run)
    assert precious.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_that_has_another_name_or_never_ends_is_refused(tmp_path: Path) -> None:
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_text("precious")
    os.utime(precious, (0, 0))
    run.mkdir()
    (run / LOCK_FILE).hardlink_to(precious)
    with pytest.raises(CheckpointError, match="Move it away"), run_lock(run):
        pass
    assert precious.read_text() == "precious"
    (run / LOCK_FILE).unlink()
    os.mkfifo(run / LOCK_FILE)
    with pytest.raises(CheckpointError, match="Move it away"), run_lock(run):
        pass
    (run / LOCK_FILE).unlink()
    (run / LOCK_FILE).mkdir()
    with pytest.raises(OSError, match=r"run\.lock"), run_lock(run):
        pass


def test_training_writes_through_no_link(tmp_path: Path, run: Path) -> None:
    """Every name that it writes is a link to something precious; afterwards it is none."""
    precious = tmp_path / "precious"
    names = ["run.json", CHECKPOINT_FILE, "checkpoint.previous.safetensors", "metrics.jsonl"]
    for name in [*names, "learning_curve.png"]:
        precious_copy = precious / name
        precious.mkdir(exist_ok=True)
        (run / name).rename(precious_copy) if (run / name).exists() else precious_copy.touch()
        (run / name).symlink_to(precious_copy)
    before = {path.name: path.read_bytes() for path in precious.iterdir()}
    for name in [*names, "learning_curve.png"]:
        (run / f"{name}.partial").symlink_to(precious / name)
    assert meta_train(tiny_config(updates=34), run, adapt_config=TINY_ADAPT, seed=1)
    assert {path.name: path.read_bytes() for path in precious.iterdir()} == before
    assert not any((run / name).is_symlink() for name in names if "previous" not in name)
    (run / "tensorboard").rename(tmp_path / "elsewhere")
    (run / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="tensorboard is a link"):
        meta_train(tiny_config(updates=44), run, adapt_config=TINY_ADAPT, seed=1)


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", CHECKPOINT_FILE])
def test_an_export_hands_on_nothing_from_elsewhere(name: str, run: Path, tmp_path: Path) -> None:
    (run / name).rename(tmp_path / "secret")
    (run / name).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=f"{name} is a link"):
        export_run(run, tmp_path / "out", name="x", command="x", commit="x")
    assert not list(tmp_path.glob("out/*"))


def test_an_export_writes_through_no_link(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("precious")
    (out / "metrics.jsonl").symlink_to(tmp_path / "precious")
    export_run(run, out, name="x", command="x", commit="x", seeds=1, episodes=1)
    assert (tmp_path / "precious").read_text() == "precious"
    assert (out / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


def test_a_run_that_is_locked_stays_so(run: Path) -> None:
    with run_lock(run), pytest.raises(RunLockedError):
        meta_train(tiny_config(), run, adapt_config=TINY_ADAPT, seed=1)
