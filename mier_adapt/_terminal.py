"""What the command shows: text that never ends the work, and how far that is."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console


class _Output:
    """Standard output or error, whichever that is at the moment; where it fails, nothing else does.

    A pipe that is closed, a disk that is full or a character that a terminal lacks decides about
    what is shown, and never about the work.

    Args:
        name: ``stdout`` or ``stderr``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failed: Any = None

    @property
    def _stream(self) -> Any:
        stream = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)  # not a progress bar's, which is ours

    @property
    def encoding(self) -> str:
        """The stream's."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return bool(self._stream.isatty())
        except (AttributeError, ValueError):
            return False

    def fileno(self) -> int:
        """The stream's descriptor."""
        return int(self._stream.fileno())

    def write(self, text: str) -> int:
        """Write what the stream takes."""
        self._try("write", text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Let the stream write out."""
        self._try("flush")

    def _try(self, method: str, *arguments: str) -> None:
        stream = self._stream
        if stream is None or stream is self._failed:
            return
        try:
            getattr(stream, method)(*arguments)
        except Exception:  # of a stream of anyone's, whatever that raises
            self._failed = stream
            # What the stream still holds would fail once more when the process ends.
            with suppress(AttributeError, OSError, ValueError), Path(os.devnull).open("wb") as it:
                os.dup2(it.fileno(), stream.fileno())


def console_on(name: str) -> Console:
    """A console that shows texts as they are, brackets and colons of paths included."""
    return Console(file=cast(IO[str], _Output(name)), highlight=False, markup=False, emoji=False)


console = console_on("stdout")


def say(message: str) -> None:
    """Print a message on a line of its own, however long its paths are."""
    console.print(message, soft_wrap=True)
