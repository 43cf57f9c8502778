"""Commands whose standard output fails do their work, write their files, and end as usual."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mier_adapt._storage.checkpoints import CHECKPOINT_FILE, load_tree
from tests.mier_adapt.doubles import REPOSITORY

COMMANDS = """
import sys
import torch
torch.set_num_threads(1)
from mier_adapt import cli
from mier_adapt.agents import presets
from tests.mier_adapt.doubles import TINY_ADAPT, tiny_config

presets.PRESETS["tiny"] = presets.Preset(tiny_config(updates=4), TINY_ADAPT)
out = sys.argv[1]
for words in (
    ["meta-train", "tiny", "--out", out],
    ["adapt", out, "--task", "12", "--episodes", "1"],
    ["evaluate", out, "--split", "test", "--episodes", "1"],
):
    sys.argv = ["mier-adapt", *words]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise
"""


@contextmanager
def broken_pipe() -> Iterator[int]:
    """The end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize(
    "way", ["closed", "a pipe that nobody reads", "a full disk", "full, as errors are", "latin-1"]
)
def test_commands_end_as_usual(way: str, tmp_path: Path) -> None:
    out = tmp_path / "ü€"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if way == "latin-1":
        env["PYTHONIOENCODING"] = "latin-1"
    with broken_pipe() as pipe, Path("/dev/full").open("w") as full:
        if way == "closed":
            options |= {"stdout": None, "preexec_fn": lambda: os.close(1)}
        elif "pipe" in way:
            options["stdout"] = pipe
        elif "full" in way:
            options |= {"stdout": full} | ({"stderr": full} if "errors" in way else {})
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, out], cwd=REPOSITORY, env=env, timeout=300, **options
        )
    assert (done.returncode, done.stderr or b"") == (0, b"")
    assert load_tree(out / CHECKPOINT_FILE)["updates"] == 4
    for name in ("adapt/task-12-seed-0.json", "evaluation.json"):
        assert (out / name).is_file()
    if way == "latin-1":
        assert "ü?" in done.stdout.decode("latin-1")
