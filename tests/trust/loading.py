"""A process that loads files which it is told to, and reports what that did to it.

Run as ``python -m tests.trust.loading RUN_DIRECTORY``. Each line of standard input names a file;
each line of standard output is a JSON object about it.
"""

import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mier_adapt._storage.trees import Pieces
from mier_adapt.agents import FamilyEnvs, load_run
from mier_adapt.agents.run_file import read_run_file
from mier_adapt.training.meta_training import MetaTrainer
from mier_adapt.training.running import resume

_HARMLESS = ("object.__getattr__", "builtins.id", "gc.", "sys._getframe")


def checksum(node: Any, value: int = 0) -> int:
    """A checksum over a state tree: quick, since it is taken after every file."""
    if isinstance(node, Pieces):
        for part in node.parts:
            value = checksum(part, value)
        return value
    if isinstance(node, torch.Tensor):
        value = zlib.crc32(f"{node.dtype}{tuple(node.shape)}".encode(), value)
        return zlib.crc32(node.detach().contiguous().view(-1).view(torch.uint8).numpy().data, value)
    if isinstance(node, dict):
        for key, inner in node.items():
            value = checksum(inner, zlib.crc32(repr(key).encode(), value))
        return value
    if isinstance(node, (list, tuple)):
        value = zlib.crc32(f"{type(node)}{len(node)}".encode(), value)
        for inner in node:
            value = checksum(inner, value)
        return value
    return zlib.crc32(repr(node).encode(), value)


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if name in line]
    return int(line.split()[1]) * 1024


def watch(allowed: Callable[[Path], bool]) -> list[str]:
    """From now on, what this process does but read the files that are allowed; clear it at will."""
    events: list[str] = []

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            mode = arguments[1] or ""
            if set("wax+") & set(mode) or not allowed(Path(str(arguments[0]))):
                events.append(f"open {arguments[0]!r} {mode}")
        elif not event.startswith((*_HARMLESS, "open", "os.rename")):
            events.append(f"{event} {str(arguments)[:80]}")

    sys.addaudithook(listen)
    return events


def serve(run_directory: Path) -> None:
    torch.set_num_threads(1)
    run_file = read_run_file(run_directory)
    config = run_file.config
    with FamilyEnvs(config.tasks) as envs:
        load_run(run_directory, envs)  # imports what loading needs
        trainer = MetaTrainer(config, envs, seed=run_file.seed, adapt_config=run_file.adapt_config)
        resume(run_directory, trainer, run_file)
        intact = checksum(trainer.state())
        events = watch(lambda path: path.name.startswith("checkpoint"))
        print("ready", flush=True)
        for line in sys.stdin:
            directory = Path(line.rstrip("\n")).parent
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
            before = memory("VmRSS")
            events.clear()
            error = None
            try:
                resume(directory, trainer, run_file)
            except Exception as raised:  # which one it is, is the question
                error = [type(raised).__name__, str(raised)[:400]]
            happened = list(events)
            growth = memory("VmHWM") - before
            changed = checksum(trainer.state()) != intact
            if error is None and changed:
                resume(run_directory, trainer, run_file)
            report = {"error": error, "growth": growth, "changed": changed, "events": happened}
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
