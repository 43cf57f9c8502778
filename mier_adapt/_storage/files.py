"""Files: read without trust, and replaced as a whole.

What is read may be anyone's: longer than it should be, nested without end, a pipe, a link. What is
written has a name of its own until it is whole.
"""

import itertools
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO

if sys.platform != "win32":
    import fcntl

FOREIGN_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What code of ours raises where a file's contents are not ours."""

_MOST_BYTES = 2**23
"""Of a JSON file. Those of the library take kilobytes."""
_MOST_CONTAINERS = 2**17
"""Lists and dictionaries in a JSON text: an empty one takes two bytes there, and dozens here."""
_MOST_DEPTH = 32
_MOST_DIGITS = 19
"""Of a whole number, which is then below 10^19; seeds are below 2^63."""


class CheckpointError(ValueError):
    """A file that is not one of this library, not a whole one, or a link to who knows where."""


# Reading ------------------------------------------------------------------------------------


def read_bytes(path: Path, *, most: int, follow: bool = True) -> bytes:
    """The contents of a file.

    Args:
        path: A regular file; a pipe or a device could be without end.
        most: Bytes from which it is refused.
        follow: Whether it may be a link.

    Raises:
        OSError: If there is none, or it cannot be read.
        CheckpointError: If it is something else, or longer.
    """
    with open_file(path, os.O_RDONLY, follow=follow) as file:
        contents = file.read(most + 1)
    if len(contents) > most:
        raise CheckpointError(f"{path} is longer than {most} bytes, and so no file of ours.")
    return contents


def open_file(path: Path, flags: int, *, follow: bool) -> BufferedIOBase:
    """Open a regular file for reading, or with ``os.O_RDWR`` for both; see :func:`read_bytes`."""
    if not follow:
        require_no_link(path)
        flags |= getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(str(path), flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CheckpointError(f"{path} is no file but something else. Move it away.")
    return os.fdopen(handle, "r+b") if flags & os.O_RDWR else os.fdopen(handle, "rb")


def require_no_link(path: Path) -> None:
    """Refuse a link: in a directory that came from elsewhere it may lead anywhere.

    Raises:
        CheckpointError: If it is one.
    """
    if path.is_symlink():
        raise CheckpointError(
            f"{path} is a link, which may lead anywhere. Put the file itself there, or delete it."
        )


def read_json(path: Path, kinds: Any = object) -> Any:
    """What a JSON file says, held to ``kinds`` as :func:`require_kinds` takes them.

    Raises:
        OSError: If there is none, or it cannot be read.
        CheckpointError: If it is something else.
    """
    contents = read_bytes(path, most=_MOST_BYTES)
    try:
        value = parse_json(contents)
        require_kinds(kinds, value, "it")
    except ValueError as error:
        raise CheckpointError(f"{path} is not as this library writes it: {error}") from error
    return value


def parse_json(contents: bytes) -> Any:
    """What a JSON text says, if it is of a size, a depth and of numbers that ours could have.

    Raises:
        ValueError: If it is not, or no JSON.
    """
    if contents.count(b"[") + contents.count(b"{") > _MOST_CONTAINERS:
        raise ValueError(f"more than {_MOST_CONTAINERS} lists and dictionaries")
    try:
        value = json.loads(contents, parse_int=_whole)
    except RecursionError as error:
        raise ValueError(f"nested more than {_MOST_DEPTH} deep") from error
    level = [value]
    for _ in range(_MOST_DEPTH):
        inside = [each.values() if isinstance(each, dict) else each for each in _containers(level)]
        level = [inner for each in inside for inner in each]
    if any(True for _ in _containers(level)):
        raise ValueError(f"nested more than {_MOST_DEPTH} deep")
    return value


def _containers(values: Iterable[Any]) -> Iterator[Any]:
    return (each for each in values if isinstance(each, dict | list))


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def require_kinds(kinds: Any, given: Any, where: str) -> None:
    """Check a tree of plain values.

    Args:
        kinds: What it has to be: a class (``float`` takes whole numbers, too, and no number is a
            truth value); ``[kind]``, a list of such; ``{name: kind}``, a dictionary with at least
            these, whose other entries are of the kind under the class ``str``, if that is there;
            or several of these in a tuple.
        given: The tree.
        where: Its name in messages.

    Raises:
        CheckpointError: If it is something else; the message says where.
    """
    misfit = _misfit(kinds, given, where)
    if misfit is not None:
        raise CheckpointError(misfit[:300])


def require_format(found: str, wanted: str) -> None:
    """Check what a file says that it is.

    Raises:
        ValueError: If it is something else.
    """
    if found != wanted:
        raise ValueError(f"its format is {found!r:.80}, not {wanted!r}")


def _misfit(kinds: Any, given: Any, where: str) -> str | None:
    wrong = f"{where} is of the wrong kind, {type(given).__name__}"
    if isinstance(kinds, tuple):
        misfits = [_misfit(each, given, where) for each in kinds]
        return None if None in misfits else misfits[0]
    if isinstance(kinds, type):
        number = kinds in (int, float)
        fits = isinstance(given, (int, float) if kinds is float else kinds)
        return None if fits and not (number and isinstance(given, bool)) else wrong
    if type(given) is not type(kinds):
        return wrong
    if isinstance(kinds, list):
        inner = ((kinds[0], each, f"{where}/{number}") for number, each in enumerate(given))
    else:
        missing = [name for name in kinds if name is not str and name not in given]
        if missing:
            return f"{where} lacks {missing[0]!r}"
        others = kinds.get(str, object)
        inner = ((kinds.get(name, others), each, f"{where}/{name}") for name, each in given.items())
    return next(filter(None, itertools.starmap(_misfit, inner)), None)


# Writing ------------------------------------------------------------------------------------


def replace_text(path: Path, text: str) -> None:
    """Write a text file as :func:`replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path, *, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file that takes a path's place when the block ends, and is gone if the block fails.

    A reader, a kill or a power cut finds the old file or the new one, whole, and at every moment
    one of them. Until then the new one has a name of its own, so that processes that write the same
    file at once do not meet; the last one's stays. What a killed process left beside the file is
    deleted (not on Windows, where nothing tells it from what another process is at). A path that
    is a link is replaced itself, and nothing is written where it leads.

    Args:
        path: File to write or replace.
        previous: Keep the file that is replaced under this name, in the same directory.

    Raises:
        OSError: If the disk refuses; an older file stays whole.
    """
    _delete_left(path)
    partial, file = _partial(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if previous is not None and path.exists():
                _keep(path, previous)
            if sys.platform != "win32":
                partial.replace(path)  # while the lock says that it is in use
        if sys.platform == "win32":
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    if sys.platform != "win32":  # where directories cannot be synchronised
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _keep(path: Path, previous: Path) -> None:
    """Give a file a second name, in the place of another file."""
    beside = _partial_name(previous)
    try:
        os.link(path, beside)
        beside.replace(previous)
    except OSError:  # a disk without hard links: for a moment there is no file of the first name
        path.replace(previous)
    finally:
        # Replacing one name of a file by another of the same file does nothing.
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _partial_name(path: Path) -> Path:
    # Of a name that is as long as names may be, a part.
    return path.with_name(f"{path.name[:48]}.{os.getpid()}-{secrets.token_hex(4)}.partial")


def _partial(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside ``path``, locked for as long as it is open."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    while True:
        partial = _partial_name(path)
        file = os.fdopen(os.open(partial, flags, 0o666), "wb")
        if sys.platform != "win32":
            with suppress(OSError):  # disks that know no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink == 0:  # deleted before it was locked
                file.close()
                continue
        return partial, file


def _delete_left(path: Path) -> None:
    """Delete what processes that were killed left beside a file: partial ones that nobody locks."""
    if sys.platform == "win32":
        return
    # Release 0.1 gave them no number.
    left = re.compile(re.escape(path.name[:48]) + r"(\.\d+-[0-9a-f]{8})?\.partial")
    for each in path.parent.iterdir():
        if not left.fullmatch(each.name):
            continue
        with suppress(OSError):
            handle = os.open(each, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                each.unlink()
            finally:
                os.close(handle)
