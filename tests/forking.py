"""A process that has loaded what takes long, and forks itself for every program that it is given.

Run as ``python -m tests.forking``. Each line of standard input is a JSON object about a program;
each line of standard output is the exit code of one. What a program does to the libraries ends with
its fork.
"""

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
import types
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

REPOSITORY = Path(__file__).parents[1]


class Ended(NamedTuple):
    """What a program ended with."""

    code: int
    out: str
    err: str


class Forker:
    """The process, started where it is first needed."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, program: str, *arguments: object, folder: Path | None = None, timeout: int = 240
    ) -> Ended:
        """Run a program to its end, as ``python -P -c PROGRAM ARGUMENTS`` would."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking"],
                cwd=REPOSITORY,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out, err = self._scratch / "out", self._scratch / "err"
        order = {
            "program": program,
            "arguments": [*map(str, arguments)],
            "folder": str(folder or self._scratch),
            "environment": dict(os.environ),
            "streams": [os.devnull, str(out), str(err)],
            "timeout": timeout,
        }
        print(json.dumps(order), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return Ended(code, out.read_text(), err.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()


def follow(order: Any) -> None:
    """Be the process that the program expects."""
    signal.alarm(order["timeout"])
    for number, path in enumerate(order["streams"]):
        mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY
        os.dup2(os.open(path, mode), number)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["-c", *order["arguments"]]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    code: Any = 0
    try:
        exec(compile(order["program"], "<string>", "exec"), vars(main))
    except SystemExit as end:
        code = end.code
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    # At once: taking all libraries to pieces, in pages that are shared, takes longer than most
    # programs do.
    os._exit(code or 0)


LOADED = (
    *("matplotlib.figure", "scipy.stats", "tianshou.algorithm", "torch.utils.tensorboard", "tyro"),
    "torch._dynamo",  # with the first optimizer
    *("mier_adapt.adaptation", "mier_adapt.figures", "mier_adapt.training", "mier_adapt_envs"),
)
"""What reads the environment is not among them: the command and its terminal."""


if __name__ == "__main__":
    for module in LOADED:
        importlib.import_module(module)
    torch.set_num_threads(1)
    gc.freeze()  # else every fork's collections would copy what it shares
    for line in sys.stdin:
        if not (fork := os.fork()):
            follow(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]), flush=True)
