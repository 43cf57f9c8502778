"""What the command shows: text that never ends the work, and how far that is."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import rich.progress
from rich.console import Console

_SECONDS = 30.0
"""Between two lines of one stage, where there is no terminal."""
_LOOK_SECONDS = 5.0
"""Between two looks at the files of a sweep."""


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


class Progress:
    """How far things are: bars on a terminal, and elsewhere lines.

    A line comes where a stage begins, and otherwise twice a minute at most.

    Args:
        clock: Seconds from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.percentage:>3.0f}%"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[status]}", markup=False),
            console=console,
        )
        self._by_name: dict[str, rich.progress.TaskID] = {}
        self._said: tuple[str, str] | None = None
        self._said_at = 0.0

    def __enter__(self) -> "Progress":
        if console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if console.is_terminal:
            self._bars.stop()

    def show(self, name: str, stage: str, share: float | None = None, status: str = "") -> None:
        """Show how far something is.

        Args:
            name: What.
            stage: What is being done.
            share: How much of all is done, from 0 to 1, if that is known.
            status: More.
        """
        text = ", ".join(each for each in (stage, status) if each)
        if console.is_terminal:
            total = None if share is None else 1.0
            if name not in self._by_name:
                self._by_name[name] = self._bars.add_task(name, total=total, status="")
            self._bars.update(self._by_name[name], total=total, completed=share or 0, status=text)
        elif self._said != (name, stage) or self._clock() - self._said_at >= _SECONDS:
            self._said, self._said_at = (name, stage), self._clock()
            say(f"{name}: {text}" if share is None else f"{name}: {share:.0%}, {text}")

    def hide(self, name: str) -> None:
        """Show nothing more of something."""
        if name in self._by_name:
            self._bars.remove_task(self._by_name.pop(name))

    def print(self, shown: object) -> None:
        """Print something beside the bars; lines of text stay whole, however wide the terminal."""
        console.print(shown, soft_wrap=isinstance(shown, str))


class SweepProgress:
    """How far a sweep is: all of it, and each job that is under way, as their files say.

    Args:
        progress: Where it is shown.
        jobs: All of the sweep's.
        out: Its directory.
        clock: Seconds from any start.
    """

    def __init__(
        self,
        progress: Progress,
        jobs: Sequence[Any],
        out: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress, self._jobs, self._out, self._clock = progress, jobs, out, clock
        self._done = {job.name for job in jobs if job.done(out)}
        self._failed = 0
        self._looked_at = -_LOOK_SECONDS

    def now_and_then(self) -> None:
        """Look at the files, where that is long ago."""
        if self._clock() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = self._clock()
        states = {
            job.name: job.state(self._out) for job in self._jobs if job.name not in self._done
        }
        begun = {name: state for name, state in states.items() if (self._out / name).is_dir()}
        share = (len(self._done) + sum(share for share, _ in states.values())) / len(self._jobs)
        stage = f"{len(self._done)} of {len(self._jobs)} jobs done"
        if self._failed:
            stage += f", {self._failed} failed"
        if console.is_terminal:
            for name, (part, told) in begun.items():
                self._progress.show(name, told, part)
            self._progress.show("sweep", stage, share)
        else:
            status = "; ".join(f"{name} {part:.0%}" for name, (part, _) in begun.items())
            self._progress.show("sweep", stage, share, status)

    def ended(self, job: Any, error: str | None) -> None:
        """Tell that a job is done, or failed."""
        self._progress.hide(job.name)
        if error is None:
            self._done.add(job.name)
            self._progress.print(f"{job.name}: done, {job.state(self._out)[1]}")
        else:
            self._failed += 1
            self._progress.print(f"{job.name}: failed. {error.splitlines()[-1]}")
        self._looked_at = -_LOOK_SECONDS
        self.now_and_then()
