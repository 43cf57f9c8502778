import json
import os
import sys
import threading

import pytest

from mier_adapt._storage import files
from mier_adapt._storage.files import (
    CheckpointError,
    parse_json,
    read_bytes,
    read_json,
    replace_text,
    replacing,
    require_kinds,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="for systems with POSIX's files")


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# Writing ------------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole_and_reaches_the_disk_first(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []
    fsync = os.fsync

    def note(handle):
        seen.append((path.read_text(), os.fstat(handle).st_size))
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", note)
    replace_text(path, "newer")
    assert path.read_text() == "newer"
    # The contents while the old file is there, and the directory once the new one is.
    assert [contents for contents, _ in seen] == (
        ["old"] if sys.platform == "win32" else ["old", "newer"]
    )
    assert seen[0][1] == len("newer")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["block", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(files.os, "fsync", fail)
    if step == "replace":
        monkeypatch.setattr(files.Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"), replacing(path) as file:  # noqa: PT012
        file.write(b"new")
        if step == "block":
            fail()
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "curves [seed0].png"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
        assert len(names(tmp_path)) == 2
        assert all(str(os.getpid()) in name for name in names(tmp_path))
    assert path.read_text() == "first"  # the last one's
    assert names(tmp_path) == [path.name]


def test_many_threads_may_write_one_file(tmp_path):
    path, failures = tmp_path / "file", []

    def write(number: int) -> None:
        try:
            for _ in range(50):
                replace_text(path, f"{number}" * 1000)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(path.read_text())) == 1
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("letter", ["x", "ü", "𝄞"])
def test_a_name_may_be_as_long_as_names_may_be(letter, tmp_path):
    path = tmp_path / (letter * (255 // len(letter.encode())))
    replace_text(path, "old")
    replace_text(path, "new")
    assert (path.read_text(), len(names(tmp_path))) == ("new", 1)


@posix
def test_what_a_killed_writer_left_is_deleted_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    left = ["file.partial", "file.123-0123abcd.partial"]
    others = ["file.draft.partial", "other.partial", "other.123-0123abcd.partial"]
    for name in (*left, *others):
        (tmp_path / name).write_text("x")
    replace_text(path, "new")
    assert names(tmp_path) == sorted(["file", *others])


@posix
def test_nothing_is_written_through_a_link(tmp_path):
    precious, path = tmp_path / "precious", tmp_path / "file"
    precious.write_text("precious")
    path.symlink_to(precious)
    (tmp_path / "file.partial").symlink_to(precious)
    replace_text(path, "new")
    assert (path.is_symlink(), path.read_text()) == (False, "new")
    assert precious.read_text() == "precious"


# Reading ------------------------------------------------------------------------------------


def test_json_comes_back_as_it_was(tmp_path):
    value = {"a": [1, -2.5, None, True, "ü"], "b": {"c": 2**63 - 1, "d": []}}
    replace_text(tmp_path / "file", json.dumps(value))
    assert read_json(tmp_path / "file") == value
    deep = json.loads("[" * 32 + "]" * 32)
    assert parse_json(json.dumps(deep).encode()) == deep


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"[" * 100_000, "nested more than"),
        (b"[" * 33 + b"]" * 33, "nested more than 32 deep"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "nested more than 32 deep"),
        (b"9" * 10_000, "a whole number of 10000 digits"),
        (b"[-" + b"9" * 30 + b"]", "a whole number of 31 digits"),
        (b"[" + b"{}," * 200_000 + b"{}]", "lists and dictionaries"),
        (b"{", "Expecting"),
        (b"\xff", "decode"),
        (b" " * 9_000_000, "longer than"),
    ],
)
def test_json_that_no_writer_of_ours_writes_is_refused(contents, message, tmp_path):
    (tmp_path / "file").write_bytes(contents)
    with pytest.raises(CheckpointError, match=message) as info:
        read_json(tmp_path / "file")
    assert str(tmp_path / "file") in str(info.value)
    assert len(str(info.value)) < 500


@pytest.mark.parametrize(
    ("kinds", "given", "where"),
    [
        (int, True, "it is of the wrong kind, bool"),
        (float, True, "it is of the wrong kind, bool"),
        (int, 1.0, "it is of the wrong kind, float"),
        (float, 1, None),
        (bool, True, None),
        (object, True, None),
        ((str, type(None)), None, None),
        ((str, type(None)), 1, "it is of the wrong kind, int"),
        ([int], [1, 2], None),
        ([int], [1, "2"], "it/1 is of the wrong kind, str"),
        ([int], {"0": 1}, "it is of the wrong kind, dict"),
        ({"a": int}, {"a": 1, "b": "x"}, None),
        ({"a": int}, {"b": 1}, "it lacks 'a'"),
        ({"a": {"b": [str]}}, {"a": {"b": [1]}}, "it/a/b/0 is of the wrong kind, int"),
        ({"a": str, str: (float, [float])}, {"a": "x", "b": 1, "c": [1.5]}, None),
        ({"a": str, str: (float, [float])}, {"a": "x", "b": "y"}, "it/b is of the wrong kind"),
    ],
)
def test_kinds_are_held_to_and_the_message_says_where(kinds, given, where):
    if where is None:
        require_kinds(kinds, given, "it")
    else:
        with pytest.raises(CheckpointError, match=where):
            require_kinds(kinds, given, "it")


@posix
def test_what_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(CheckpointError, match=f"{name} is no file"):
            read_bytes(tmp_path / name, most=10)
    (tmp_path / "file").write_text("contents")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", most=10) == b"contents"
    with pytest.raises(CheckpointError, match="link is a link"):
        read_bytes(tmp_path / "link", most=10, follow=False)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "nothing", most=10)
