"""keep_training: a run that takes steps until it is finished, in files that outlive its process."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from mier_adapt._storage.checkpoints import (
    CHECKPOINT_FILE,
    PREVIOUS_FILE,
    load_checkpoint,
    save_checkpoint,
)
from mier_adapt._storage.files import FOREIGN_ERRORS, CheckpointError
from mier_adapt._storage.locks import LOCK_FILE, run_lock
from mier_adapt._storage.randomness import forked_global_generators
from mier_adapt._storage.trees import require_like
from mier_adapt.agents.run_file import CARD_FILE, RUN_FILE, read_run_file, write_run_file
from mier_adapt.integration.logging import import_wandb
from mier_adapt.training.metrics import Log, MetricsLog

_logger = logging.getLogger(__name__)

_FINAL_SAVE_WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try of a run's last save. Schedulers that stop a process give it
ten seconds and more."""


@runtime_checkable
class Trainer(Protocol):
    """A run in the making, whose whole future between two steps is a function of its state."""

    config: Any
    """What is trained, with ``updates``."""
    updates: int
    """How many were taken."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def finished(self) -> bool:
        """Whether all updates were taken."""
        ...

    def step(self) -> dict[str, Any] | None:
        """Take a step; the measurements of an iteration that it completed."""
        ...

    def state(self) -> dict[str, Any]:
        """What :meth:`load_state` takes."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state; one that does not fit is a ValueError, and changes nothing."""
        ...


_SomeTrainer = TypeVar("_SomeTrainer", bound=Trainer)


@contextlib.contextmanager
def entered(directory: Path, run_file: Any, *, log: Log) -> Iterator[None]:
    """A block in which a directory is this run's alone, and the global generators are its own.

    Args:
        directory: Made if needed.
        run_file: What the run is: a :class:`.RunFile`, or another with its methods and ``seed``.
        log: As for :func:`keep_training`; what it needs is looked for before anything is written.

    Raises:
        ImportError: If wandb is asked for and is not installed.
        ValueError: If the directory holds another run, or other files.
        RunLockedError: If another process is at work in it.
    """
    if log == "wandb":
        import_wandb()
    directory.mkdir(parents=True, exist_ok=True)
    with run_lock(directory), forked_global_generators(run_file.seed):
        _enter(directory, run_file)
        yield


def keep_training(
    trainer: _SomeTrainer,
    directory: Path,
    run_file: Any,
    *,
    checkpoint_seconds: float,
    log: Log,
    should_stop: Callable[[], bool],
    on_step: Callable[[_SomeTrainer, dict[str, Any] | None], None],
) -> bool:
    """Go on from the directory's checkpoint, if it holds one, until the run ends or is stopped.

    Within :func:`entered`. Arguments and errors are those of :func:`.meta_train`.

    Args:
        trainer: As it was made with ``run_file``.
        directory: See there.
        run_file: What the run is.
        checkpoint_seconds: See there.
        log: See there.
        should_stop: See there.
        on_step: See there.

    Returns:
        Whether the run is finished.

    Raises:
        OSError: If the last checkpoint cannot be written after several tries.
    """
    resumed = (directory / CHECKPOINT_FILE).exists() or (directory / PREVIOUS_FILE).exists()
    if resumed:
        resume(directory, trainer, run_file)
    write_run_file(directory, run_file)
    if resumed and trainer.finished:
        return True
    measurements = MetricsLog(directory, updates=trainer.updates, log=log, about=run_file.to_dict())
    with contextlib.closing(measurements):
        saved = time.monotonic()
        while not (trainer.finished or should_stop()):
            row = trainer.step()
            if row is not None:
                measurements.write(row)
            on_step(trainer, row)
            if time.monotonic() - saved > checkpoint_seconds:
                try:
                    _save(directory, run_file, trainer)
                except OSError as error:
                    _warn_of_failed_save(
                        directory, trainer, error, f"in {checkpoint_seconds:.0f} s"
                    )
                saved = time.monotonic()
        for wait in (*_FINAL_SAVE_WAITS, None):
            try:
                _save(directory, run_file, trainer)
                break
            except OSError as error:
                if wait is None:
                    raise OSError(
                        f"The run's last checkpoint, at update {trainer.updates}, could not be "
                        f"written to {directory}: {error}. What was computed since the one before "
                        "it is lost; free space or make the directory writable, and call again."
                    ) from error
                _warn_of_failed_save(directory, trainer, error, f"in {wait:.0f} s")
                time.sleep(wait)
    return trainer.finished


def _enter(directory: Path, run_file: Any) -> None:
    """Make sure that a directory is this run's, or may become it."""
    if (directory / CARD_FILE).is_file():
        raise ValueError(
            f"{directory} holds an exported run, without optimizers and with a part of its "
            "experience: it cannot be trained further. Go on with the run that it was made from, "
            "or choose another directory."
        )
    try:
        found = read_run_file(directory, type(run_file))
    except FileNotFoundError as error:
        # but for what a run that was killed in its first moments leaves
        left = re.compile(rf"{re.escape(LOCK_FILE)}|{re.escape(RUN_FILE)}\.(.*\.)?partial")
        if all(left.fullmatch(path.name) for path in directory.iterdir()):
            return
        raise ValueError(
            f"Expected an empty directory or one with a run, but {directory} holds other files. "
            "Choose another one."
        ) from error
    run_file.require_same(found, str(directory))


def resume(directory: Path, trainer: Trainer, run_file: Any) -> None:
    """Go on from a directory's newest whole checkpoint; if it fails, ``trainer`` is as before."""
    path, tree = load_checkpoint(directory, set_damaged_aside=True)
    try:
        run_file.require_same(type(run_file).from_dict(tree["manifest"]), "it")
        threads = tree["manifest"].get("threads", torch.get_num_threads())  # 0.1 says none
        require_like(0, threads, "manifest/threads")
        trainer.load_state({name: part for name, part in tree.items() if name != "manifest"})
    except FOREIGN_ERRORS as error:
        raise CheckpointError(f"{path} does not fit its run: {error}") from error
    if trainer.updates > trainer.config.updates:
        raise ValueError(
            f"{directory} has taken {trainer.updates} updates: ask for as many or for more, not "
            f"for {trainer.config.updates}, or choose another directory."
        )
    now = torch.get_num_threads()
    if threads != now and trainer.device.type == "cpu" and not trainer.finished:
        _logger.warning(
            "%s was trained on %d of torch's threads and goes on with %d. Last bits depend on "
            "them: it will not end as one that was not stopped. --threads %d "
            "(torch.set_num_threads) keeps them.",
            *(directory, threads, now, threads),
        )


def _save(directory: Path, run_file: Any, trainer: Trainer) -> None:
    if not (directory / RUN_FILE).is_file():  # the directory was made anew
        write_run_file(directory, run_file)
    try:
        save_checkpoint(directory, {"manifest": run_file.to_dict(), **trainer.state()})
    except ValueError as error:
        raise FloatingPointError(f"After update {trainer.updates}: {error}") from error


def _warn_of_failed_save(directory: Path, trainer: Trainer, error: OSError, next_try: str) -> None:
    _logger.warning(
        "The checkpoint at update %d was not written: %s. The run goes on in memory and loses "
        "nothing while this process lives. %s The next try is %s.",
        trainer.updates,
        error,
        f"Free space on the disk of {directory}, or make it writable again."
        if directory.is_dir()
        else f"Bring {directory} back: mkdir -p '{directory}', or mount its disk again.",
        next_try,
    )
