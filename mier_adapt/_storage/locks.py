"""run_lock: one process at a time goes on with a run."""

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from mier_adapt._storage.files import (
    CheckpointError,
    open_file,
    parse_json,
    read_bytes,
    require_kinds,
)

if sys.platform != "win32":
    import fcntl

_logger = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
"""In a run's directory while a process is at work there."""
_UNWRITTEN_SECONDS = 10.0
"""Age from which a lock without an owner in it counts as left by a process that died making it."""
_MOST_BYTES = 4096
"""Of a lock. Ours take 150."""
_OWNER = {"pid": int, "host": str, "taken": float, "process_start": (str, NoneType)}


class RunLockedError(OSError):
    """Another process is at work in the run's directory."""


@contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Hold a directory's ``run.lock`` in a block.

    The lock names process, machine and start. That of a process of this machine that has died is
    taken over, which is logged as a warning.

    Raises:
        RunLockedError: If another process holds it, or one of another machine did and nobody can
            tell from here whether it lives.
        CheckpointError: If the lock is a link, or something else that is no lock of ours; nothing
            is written there then.
        OSError: If the file cannot be written.
    """
    path = directory / LOCK_FILE
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "process_start": _process_start(os.getpid()),
        "taken": time.time(),
    }
    _take(path, owner)
    try:
        yield
    finally:
        # Not another's, should someone have deleted ours.
        if _read(path) == owner:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # the next run will find that its owner is gone
                _logger.warning("%s could not be deleted: %s", path, error)


def holder_of(directory: Path) -> str | None:
    """The machine whose process holds, or left, a directory's lock; None where there is none."""
    found = _read(directory / LOCK_FILE)
    return found["host"] if found else None


def take_away(directory: Path, host: str) -> None:
    """Delete the lock of a machine that is known to be gone, if it still is that machine's."""
    if holder_of(directory) == host:
        _logger.warning("%s was left by %s, which is gone.", directory / LOCK_FILE, host)
        (directory / LOCK_FILE).unlink(missing_ok=True)


def _take(path: Path, owner: dict[str, Any]) -> None:
    contents = json.dumps(owner).encode()
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if _take_over(path, contents):
                return
            continue
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
        return


def _take_over(path: Path, contents: bytes) -> bool:
    """Put ``contents`` into a dead process's lock; False if the lock vanished meanwhile."""
    try:
        file = open_file(path, os.O_RDWR, follow=False)
    except FileNotFoundError:
        return False
    with file:
        if sys.platform != "win32":
            # Of several processes that find a stale lock, one may take it over; the others then
            # find its name in the file. Closing the file ends this.
            fcntl.flock(file, fcntl.LOCK_EX)
        names = os.fstat(file.fileno()).st_nlink
        if names == 0:
            return False
        contents_found = file.read(_MOST_BYTES + 1)
        if names > 1 or len(contents_found) > _MOST_BYTES:
            raise CheckpointError(f"{path} is a file of something else. Move it away.")
        found = _parse(contents_found)
        _require_dead(path, found)
        who = f"process {found['pid']}" if found else "a process"
        _logger.warning(
            "%s was left by %s, which is gone; taking it over (%s old).",
            path,
            who,
            _age(path, found),
        )
        file.seek(0)
        file.truncate()
        file.write(contents)
    return True


def _require_dead(path: Path, found: dict[str, Any] | None) -> None:
    age = _age(path, found)
    remedy = f"Wait for it or stop it; if it is certainly gone, delete {path}."
    if found is None:
        if time.time() - path.stat().st_mtime < _UNWRITTEN_SECONDS:
            raise RunLockedError(
                f"{path.parent} is being taken by another process just now. {remedy}"
            )
        return
    if found["host"] != socket.gethostname():
        raise RunLockedError(
            f"{path.parent} is in use by process {found['pid']} on {found['host']}, since {age}; "
            f"whether it lives cannot be told from here. {remedy}"
        )
    if _lives(found["pid"]) and found["process_start"] == _process_start(found["pid"]):
        raise RunLockedError(
            f"{path.parent} is in use by process {found['pid']} on this machine, since {age}. "
            f"{remedy}"
        )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return _parse(read_bytes(path, most=_MOST_BYTES, follow=False))
    except (OSError, CheckpointError):
        return None


def _parse(contents: bytes) -> dict[str, Any] | None:
    try:
        found = parse_json(contents)
        require_kinds(_OWNER, found, "it")
    except ValueError:
        return None
    return dict(found)


def _age(path: Path, found: dict[str, Any] | None) -> str:
    taken = found["taken"] if found else path.stat().st_mtime
    seconds = max(0.0, time.time() - taken)
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _lives(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would end it; the message says what to do
    if pid <= 0:  # to os.kill all processes, or a group of them
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return _stat(pid)[:1] not in (["Z"], ["X"])  # ended, and not yet collected


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's count, where it tells: numbers are used again."""
    return next(iter(_stat(pid)[19:20]), None)


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on; none on systems without it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
