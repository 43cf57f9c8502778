"""A process whose forked workers meta-train while their disk fails, for a while or for good.

Run as ``python -m tests.trust.faulting DIRECTORY``; prints one JSON object. Each worker sees disks
of its own: a file system of 4 MiB, mounted where nobody else can see it.
"""

import ctypes
import json
import logging
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from mier_adapt._storage import checkpoints
from mier_adapt.training import meta_training, running
from mier_adapt.training.metrics import read_metrics
from tests.mier_adapt.doubles import TINY_ADAPT, assert_same_tree, tiny_config

NOBODY = 65534
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000


def main(directory: Path) -> dict[str, Any]:
    """Meet every fault."""
    torch.set_num_threads(1)
    config = tiny_config(evaluate_every=3)
    meta_training.meta_train(config, directory / "reference", adapt_config=TINY_ADAPT, seed=1)
    expected = checkpoints.load_checkpoint(directory / "reference")[1]
    outcomes = {}
    for kind in ("full", "filling", "forbidden", "vanished"):
        for how_long in ("for a while", "for good"):
            place = directory / f"{kind}-{how_long}".replace(" ", "-")
            answer = directory / "answer.json"
            pid = os.fork()
            if pid == 0:
                try:
                    outcome = worker(place, kind, how_long == "for good", expected)
                    os.seteuid(os.getuid())
                    answer.write_text(json.dumps(outcome))
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0, (kind, how_long)
            outcomes[f"{kind} {how_long}"] = json.loads(answer.read_text())
    return outcomes


def worker(place: Path, kind: str, for_good: bool, expected: Any) -> dict[str, Any]:
    """Meta-train into a directory whose disk fails after the third update."""
    place.mkdir()
    if kind in ("full", "filling"):
        mount_small_disk(place)
    if kind == "forbidden" and os.geteuid() == 0:
        place.chmod(0o777)
        os.seteuid(NOBODY)
    directory = place / "run"
    ballast = place / "ballast"
    real_disk_usage = shutil.disk_usage

    def on_step(trainer: meta_training.MetaTrainer, row: Any) -> None:
        if trainer.updates == 3:
            if kind == "full":
                fill(ballast, leave=0)
            elif kind == "filling":  # there seems to be room, and it ends in the middle of a save
                shutil.disk_usage = lambda path: real_disk_usage("/")  # type: ignore[assignment]
                fill(ballast, leave=64 * 1024)
            elif kind == "forbidden":
                directory.chmod(0o500)
            else:
                directory.rename(place / "away")
        if trainer.updates == 15 and not for_good:
            if kind in ("full", "filling"):
                ballast.unlink()
            elif kind == "forbidden":
                directory.chmod(0o700)
            else:
                directory.mkdir()

    running._FINAL_SAVE_WAITS = (0.01, 0.01)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mier_adapt").addHandler(handler)
    config = tiny_config(evaluate_every=3)
    try:
        meta_training.meta_train(
            config,
            directory,
            adapt_config=TINY_ADAPT,
            seed=1,
            checkpoint_seconds=0.0,
            on_step=on_step,
        )
        result = "finished"
    except OSError as error:
        result = f"{type(error).__name__}: {error}"
    outcome = {"result": result, "messages": "\n".join(messages), "directory": str(directory)}
    if directory.is_dir():
        tree = checkpoints.load_checkpoint(directory)[1]
        outcome["updates"] = tree["updates"]
        outcome["rows"] = [row["updates"] for row in read_metrics(directory)]
        try:
            assert_same_tree(expected, tree, ignore=["seconds"])
            outcome["same"] = True
        except AssertionError as error:
            outcome["same"] = False
            outcome["differs"] = str(error)
    return outcome


def mount_small_disk(place: Path) -> None:
    """A file system of 4 MiB, as root or in a user's own namespace."""
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | (CLONE_NEWUSER if user else 0)
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "this system lets nobody mount a small disk")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", place], check=True)


def fill(ballast: Path, *, leave: int) -> None:
    """Take the disk's room but for a rest."""
    with ballast.open("wb") as file:
        room = os.statvfs(ballast.parent)
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - leave))


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
