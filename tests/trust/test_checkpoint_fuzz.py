"""Files that are damaged, foreign or hostile: refused by our own error, without side effects."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mier_adapt._storage.checkpoints import (
    CHECKPOINT_FILE,
    CheckpointError,
    CheckpointFormatError,
    load_tree,
    save_tree,
)
from mier_adapt.training import meta_train
from tests.mier_adapt.doubles import REPOSITORY, TINY_ADAPT, tiny_config

CASES = 2_000
FEW = 300
DIGEST_LENGTH = 64


class Evil:
    """An object whose pickle runs a command."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class Case:
    """A file and whether it must be refused; printed shortly, as hypothesis prints much."""

    def __init__(self, contents: bytes, kind: str, *, refused: bool) -> None:
        self.contents = contents
        self.kind = kind
        self.refused = refused

    def __repr__(self) -> str:
        return f"<{self.kind}, {len(self.contents)} bytes>"


class Server:
    """The process that loads, and the honest file that the others are made from."""

    def __init__(self, run: Path, scratch: Path) -> None:
        self.honest = (run / CHECKPOINT_FILE).read_bytes()
        self.file = scratch / CHECKPOINT_FILE
        self.marker = scratch / "code-was-run"
        self.cases = 0
        self.worst_growth = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.trust.loading", run],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._receive() == "ready\n"
        for _ in range(20):  # allocators and caches fill
            assert self.load(self.honest)["error"] is None
        self.cases = self.worst_growth = 0

    def load(self, contents: bytes) -> Any:
        """Load a file of these contents; what came of it."""
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_bytes(contents)
        assert self._process.stdin is not None
        print(self.file, file=self._process.stdin, flush=True)
        report = json.loads(self._receive())
        for left in self.file.parent.glob("*.safetensors"):
            left.unlink()
        self.cases += 1
        self.worst_growth = max(self.worst_growth, report["growth"])
        return report

    def require_refused(self, contents: bytes) -> None:
        report = self.load(contents)
        assert report["error"] is not None, "loaded"
        self.require_harmless(report, contents)

    def require_harmless(self, report: Any, contents: bytes) -> None:
        if report["error"] is not None:
            assert report["error"][0] in ("CheckpointError", "CheckpointFormatError"), report
            assert not report["changed"], report
        assert report["events"] == [], report
        assert not self.marker.exists(), report
        assert report["growth"] <= 2 * max(len(self.honest), len(contents)), report

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=60) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _receive(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the loading process ended with code {self._process.wait()}"
        return line


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("fuzz")
    # Large enough that the interpreter's own caches do not count beside it.
    config = tiny_config(
        initial_episodes=4, replay_per_task=1_000, episode_steps=200, updates=2, evaluated_tasks=1
    )
    assert meta_train(config, directory / "run", adapt_config=TINY_ADAPT, seed=1)
    server = Server(directory / "run", directory / "case")
    yield server
    server.close()


# Making files -------------------------------------------------------------------------------


def parts_of(contents: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(contents[:8], "little")
    return json.loads(contents[8 : 8 + length]), contents[8 + length :]


def sealed(header: Any, data: bytes, *, text: bytes | None = None) -> bytes:
    """A file with a right checksum, as an attacker would make it."""
    if text is None:
        header = {**header, "__metadata__": {**header["__metadata__"], "sha256": "0" * 64}}
        text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    contents = len(text).to_bytes(8, "little") + text + data
    at = contents.find(b'"sha256":"') + len(b'"sha256":"')
    checksum = hashlib.sha256(contents).hexdigest().encode()
    return contents[:at] + checksum + contents[at + DIGEST_LENGTH :]


def nodes_of(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all places in a JSON value."""
    inner = (
        (list(node.items()) if isinstance(node, dict) else list(enumerate(node)))
        if isinstance(node, (dict, list))
        else []
    )
    return [at, *(path for key, value in inner for path in nodes_of(value, (*at, key)))]


def replaced(node: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[at[0]] = replaced(copy[at[0]], at[1:], value)  # type: ignore[index]
    return copy


FOREIGN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([1e308, -1.0, "../../etc/passwd", "/etc/passwd", "a\x00b", "__tensor__", ""]),
    st.lists(st.integers(0, 5), max_size=4),
    st.dictionaries(st.sampled_from(["__tensor__", "__tuple__", "__pairs__", "x"]), st.integers()),
)


@st.composite
def damaged(draw: st.DrawFn, honest: bytes) -> Case:
    """What disks and transfers do: the checksum is of the whole file."""
    header_end = 8 + int.from_bytes(honest[:8], "little")
    position = draw(
        st.one_of(st.integers(0, 7), st.integers(8, header_end), st.integers(0, len(honest) - 1))
    )
    kind = draw(st.sampled_from(["truncate", "flip", "zero", "insert", "append", "length"]))
    if kind == "truncate":
        return Case(honest[:position], kind, refused=True)
    if kind == "flip":
        flipped = bytearray(honest)
        for _ in range(draw(st.integers(1, 3))):
            flipped[position] ^= 1 << draw(st.integers(0, 7))
            position = draw(st.integers(0, len(honest) - 1))
        return Case(bytes(flipped) if bytes(flipped) != honest else honest[:-1], kind, refused=True)
    if kind == "zero":
        block = honest[position : position + 64]
        return Case(
            honest[:position] + bytes(64 if any(block) else 65) + honest[position + 64 :],
            kind,
            refused=True,
        )
    if kind == "insert":
        return Case(
            honest[:position] + draw(st.binary(min_size=1, max_size=9)) + honest[position:],
            kind,
            refused=True,
        )
    if kind == "append":
        return Case(honest + draw(st.binary(min_size=1, max_size=64)), kind, refused=True)
    length = draw(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([2**63, 2**31, 10**8])))
    return Case(
        length.to_bytes(8, "little") + (honest[8:] if length != header_end - 8 else b""),
        kind,
        refused=True,
    )


@st.composite
def forged(draw: st.DrawFn, honest: bytes) -> Case:
    """What attackers do: right checksum, wrong contents."""
    header, data = parts_of(honest)
    names = sorted(set(header) - {"__metadata__"})
    name = draw(st.sampled_from(names))
    entry = header[name]
    kind = draw(
        st.sampled_from(
            ["shape", "dtype", "offsets", "rename", "drop", "nan", "tree", "tree", "tree", "pickle"]
        )
    )
    if kind == "shape":
        shape = draw(
            st.one_of(
                st.just([*entry["shape"], 1]),
                st.just([2**40]),
                st.just([2**32, 2**32]),
                st.just([-1]),
                st.lists(st.integers(0, 2**62), max_size=4),
            )
        )
        same = shape == entry["shape"]
        return Case(
            sealed({**header, name: {**entry, "shape": shape}}, data), kind, refused=not same
        )
    if kind == "dtype":
        dtype = draw(st.sampled_from(["F64", "F16", "I32", "BOOL", "U8", "F8_E5M2", "X", "C64"]))
        same = dtype == entry["dtype"]
        return Case(
            sealed({**header, name: {**entry, "dtype": dtype}}, data), kind, refused=not same
        )
    if kind == "offsets":
        offsets = draw(st.lists(st.integers(-1, 2**63), min_size=0, max_size=3))
        same = offsets == entry["data_offsets"]
        return Case(
            sealed({**header, name: {**entry, "data_offsets": offsets}}, data),
            kind,
            refused=not same,
        )
    if kind == "rename":
        other = draw(st.sampled_from(["../../x", "/etc/passwd", "", "a\x00", "x" * 5000, "/run"]))
        return Case(
            sealed({(other if key == name else key): header[key] for key in header}, data),
            kind,
            refused=True,
        )
    if kind == "drop":
        return Case(
            sealed({key: header[key] for key in header if key != name}, data), kind, refused=True
        )
    if kind == "nan":
        floats = [key for key in names if header[key]["dtype"] == "F32" and header[key]["shape"]]
        floats = [key for key in floats if 0 not in header[key]["shape"]]
        start, end = header[draw(st.sampled_from(floats))]["data_offsets"]
        at = draw(st.integers(start // 4, end // 4 - 1)) * 4
        bad = draw(st.sampled_from([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff"]))
        return Case(sealed(header, data[:at] + bad + data[at + 4 :]), kind, refused=True)
    if kind == "pickle":
        start, end = entry["data_offsets"]
        payload = pickle.dumps(Evil("code-was-run"))[: end - start]
        return Case(
            sealed(header, data[:start] + payload + data[start + len(payload) :]),
            kind,
            refused=False,
        )
    tree = json.loads(header["__metadata__"]["tree"])
    paths = nodes_of(tree)
    path = paths[draw(st.integers(0, len(paths) - 1))]
    forged_tree = replaced(tree, path, draw(FOREIGN))
    metadata = {**header["__metadata__"], "tree": json.dumps(forged_tree)}
    return Case(sealed({**header, "__metadata__": metadata}, data), kind, refused=False)


# Tests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cases", [FEW, pytest.param(CASES, marks=pytest.mark.slow)])
def test_bad_files_do_nothing(server: Server, cases: int) -> None:
    honest, before = server.honest, server.cases
    common = settings(
        parent=settings.get_profile("trust"),
        max_examples=cases // 2 + 25,  # hypothesis counts those that it repeats as well
        suppress_health_check=list(HealthCheck),
    )

    @common
    @given(damaged(honest))
    def damage(case: Case) -> None:
        server.require_refused(case.contents)

    @common
    @given(forged(honest))
    def forgery(case: Case) -> None:
        if case.refused:
            server.require_refused(case.contents)
        else:
            server.require_harmless(server.load(case.contents), case.contents)

    damage()
    forgery()
    print(f"{server.cases} cases, honest {len(honest)} bytes, worst growth {server.worst_growth}")
    assert server.cases - before >= cases


def test_pickles_and_other_formats_are_refused(server: Server) -> None:
    evil = Evil(str(server.marker))
    archive = io.BytesIO()
    torch.save({"run": evil}, archive)
    header, data = parts_of(server.honest)
    other = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    for contents in (
        b"",
        b"\x00" * 100,
        pickle.dumps(evil),
        pickle.dumps(evil, protocol=0),
        archive.getvalue(),
        server.honest[:8] + pickle.dumps(evil),
        server.honest + pickle.dumps(evil),
        len(other).to_bytes(8, "little") + other,
        sealed(header, pickle.dumps(evil) * (1 + len(data) // 50)),
        json.dumps(header).encode(),
    ):
        server.require_refused(contents)


def test_headers_that_unfold_in_memory_are_refused(server: Server) -> None:
    header, data = parts_of(server.honest)

    def with_tree(tree: str) -> bytes:
        return sealed({**header, "__metadata__": {**header["__metadata__"], "tree": tree}}, data)

    for tree in (
        "[" * 100_000,
        "[" * 60_000 + "]" * 60_000,
        "[" + "[]," * 300_000 + "[]]",
        "[" + "{}," * 20_000 + "[]]",
        '{"a":' * 20_000,
        "[" + "1e999," * 1_000 + "1]",
        "9" * 900_000,
        "NaN",
        '["' + "\u20ac" * 100_000 + '"]',
        '"' + "x" * 900_000 + '"',
    ):
        server.require_refused(with_tree(tree))
    many = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(50_000)}
    server.require_refused(sealed({**header, **many}, data))
    server.require_refused((2**27).to_bytes(8, "little") + b" " * len(server.honest))


def test_swapped_headers_are_refused(server: Server, finished_run: Path) -> None:
    header, data = parts_of(server.honest)
    other_header, other_data = parts_of((finished_run / CHECKPOINT_FILE).read_bytes())
    server.require_refused(sealed(header, other_data))
    server.require_refused(sealed(other_header, data))
    # A whole checkpoint, but of a run with another configuration.
    server.require_refused(sealed(other_header, other_data))


@pytest.mark.parametrize(("number", "release"), [(1, "0.0.9"), (9, "4.2.0")])
def test_another_format_says_which_release_reads_it(
    number: int, release: str, tmp_path: Path
) -> None:
    path = tmp_path / "other"
    save_tree(path, {"a": 1})
    header, data = parts_of(path.read_bytes())

    def written_by(writer: str) -> bytes:
        metadata = {
            **header["__metadata__"],
            "format": f"mier-adapt checkpoint {number}",
            "versions": json.dumps({"mier-adapt": writer}),
        }
        return sealed({**header, "__metadata__": metadata}, data)

    path.write_bytes(written_by(release))
    with pytest.raises(CheckpointFormatError, match=rf"pip install mier-adapt=={release}\."):
        load_tree(path)
    # Nobody is told to install what an attacker chose.
    path.write_bytes(written_by(f"{release} evil-package"))
    with pytest.raises(CheckpointError, match="it names no release"):
        load_tree(path)
