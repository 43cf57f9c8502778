"""run.json: where runs are, and what a directory says of the run that it holds."""

import contextlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mier_adapt._storage.checkpoints import (
    CHECKPOINT_FILE,
    PREVIOUS_FILE,
    library_versions,
    load_checkpoint,
)
from mier_adapt._storage.files import (
    FOREIGN_ERRORS,
    CheckpointError,
    read_bytes,
    read_json,
    replace_text,
    require_kinds,
)
from mier_adapt.agents.configs import AdaptConfig, MetaTrainConfig
from mier_adapt_envs import families

_logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
"""What a run is (configuration, seed, task set), in the run's directory."""
CARD_FILE = "card.json"
"""Beside it where the run was exported."""
OURS = "mier"
"""The method of a run whose file names none."""
MOST_THREADS = 1024
"""Of torch, that ``run.json`` or a command may ask for."""
PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Package data: a directory for each pretrained run."""


class UnknownFamilyError(CheckpointError):
    """A run whose family is not registered."""


class OtherMethodError(CheckpointError):
    """A run of another method than what was asked to read it."""


class RunFile(NamedTuple):
    """What ``run.json`` and a checkpoint's manifest say of a run."""

    config: MetaTrainConfig
    adapt_config: AdaptConfig
    seed: int
    task_set_hash: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, with the versions and torch's threads that work on the run."""
        return {
            "config": self.config.to_dict(),
            "adapt": self.adapt_config.to_dict(),
            "seed": self.seed,
            "task_set_hash": self.task_set_hash,
            **made_with(),
        }

    @classmethod
    def from_dict(cls, contents: Any) -> "RunFile":
        """What :meth:`to_dict` gave.

        Raises:
            OtherMethodError: If it is a run of another method.
            UnknownFamilyError: If nothing has registered its family.
            ValueError: If it was given by something else.
        """
        require_run(contents, OURS)
        try:
            config = dict(contents["config"])
            # Release 0.1 kept it with the configuration of meta-training.
            adapt = config.pop("adapt", None) or contents["adapt"]
            return cls(
                MetaTrainConfig.from_dict(config),
                AdaptConfig.from_dict(adapt),
                contents["seed"],
                contents["task_set_hash"],
            )
        except FOREIGN_ERRORS as error:
            raise ValueError(f"it holds no configurations: {error}") from error

    def require_same(self, other: "RunFile", where: str) -> None:
        """Check that both are of one run, perhaps with other ``updates`` or ways to adapt.

        Raises:
            ValueError: If they are not; the message names what differs.
        """
        require_same_run(self, other, where)


def made_with() -> dict[str, Any]:
    """What a run's file says of the process that works on it: versions, and torch's threads."""
    return {"versions": library_versions(), "threads": torch.get_num_threads()}


def require_run(contents: Any, method: str) -> None:
    """Check that a run's file is one of a method, of a family that is known.

    Raises:
        OtherMethodError: If it is a run of another method.
        UnknownFamilyError: If nothing has registered its family.
        ValueError: If it is something else.
    """
    require_kinds({"config": {"family": str}, "seed": int, "task_set_hash": str}, contents, "it")
    found = contents.get("method", OURS)
    if found != method:
        raise OtherMethodError(
            f"it is a run of method {found!r:.80}, not of {method!r}. Load it by that method, or "
            "choose another directory."
        )
    if (family := contents["config"]["family"]) not in families():
        raise UnknownFamilyError(
            f"family {family[:80]} is not known; --import the module that registers it (in "
            "Python, import it first)."
        )


def require_same_run(mine: Any, other: Any, where: str) -> None:
    """Check that two run files are of one run, perhaps with other ``updates``.

    Raises:
        ValueError: If they are not; the message names what differs.
    """
    wanted, found = (
        {**each.config.to_dict(), "seed": each.seed, "task_set_hash": each.task_set_hash}
        for each in (mine, other)
    )
    fields = [name for name in wanted if name != "updates" and wanted[name] != found[name]]
    if fields:
        raise ValueError(
            f"{where} is of another run: {', '.join(fields)} differ. Choose another directory, "
            "or the options and the seed of that run (see its run.json)."
        )


def write_run_file(directory: Path, run_file: Any) -> None:
    """Write ``run.json``, atomically, where it does not say the same already."""
    path, text = directory / RUN_FILE, json.dumps(run_file.to_dict(), indent=2) + "\n"
    with contextlib.suppress(OSError, CheckpointError):
        if read_bytes(path, most=len(text), follow=False) == text.encode():
            return
    replace_text(path, text)


def read_run_file(directory: Path, kind: Any = RunFile) -> Any:
    """What a directory's ``run.json`` says; where that is damaged or gone, what a checkpoint says.

    Args:
        directory: The run's.
        kind: Of the file: what ``from_dict`` is asked of, and gives.

    Raises:
        FileNotFoundError: If the directory holds no run.
        OtherMethodError: If it is a run of another method.
        UnknownFamilyError: If nothing has registered its family.
        CheckpointError: If ``run.json`` is not one of this version, and no checkpoint is whole.
    """
    path = directory / RUN_FILE
    try:
        return kind.from_dict(read_json(path))
    except OtherMethodError as error:
        raise OtherMethodError(f"{directory}: {error}") from error
    except (FileNotFoundError, ValueError) as error:
        try:
            checkpoint, tree = load_checkpoint(directory)
            found = kind.from_dict(tree["manifest"])
        except (OtherMethodError, UnknownFamilyError) as known:
            raise type(known)(f"{directory}: {known}") from error
        except (OSError, *FOREIGN_ERRORS):
            if isinstance(error, FileNotFoundError):
                raise error from None
            if isinstance(error, UnknownFamilyError):
                raise UnknownFamilyError(f"{directory}: {error}") from error
            raise CheckpointError(
                f"{path} does not describe a run of this version: {error}"
            ) from error
        _logger.warning(
            "%s is %s; going on from what %s says of the run (%s)",
            path,
            "missing" if isinstance(error, FileNotFoundError) else "damaged",
            checkpoint.name,
            error,
        )
        return found


def load_run_files(directory: Path, kind: Any = RunFile) -> tuple[Any, Path, dict[str, Any]]:
    """What a directory says of its run, and that run's newest whole checkpoint.

    Args:
        directory: The run's.
        kind: As :func:`read_run_file`'s.

    Returns:
        The run's file, the checkpoint's path, and what that holds.

    Raises:
        FileNotFoundError: If the directory holds no run, or no checkpoint yet.
        OtherMethodError: If it is a run of another method.
        UnknownFamilyError: If nothing has registered its family.
        CheckpointError: If a file is damaged, the tasks are not those of the run, or the checkpoint
            is of another run.
    """
    run_file = read_run_file(directory, kind)
    config, tasks = run_file.config, run_file.config.tasks
    if tasks.hash != run_file.task_set_hash:
        raise CheckpointError(
            f"{directory} was trained on other tasks than this version's {config.family} "
            f"{config.task_set!r}: expected hash {run_file.task_set_hash}, got {tasks.hash}."
        )
    try:
        path, tree = load_checkpoint(directory)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{directory} holds no {CHECKPOINT_FILE} yet. Let its `mier-adapt meta-train` go on."
        ) from error
    try:
        run_file.require_same(kind.from_dict(tree["manifest"]), "it")
    except FOREIGN_ERRORS as error:
        raise CheckpointError(f"{path} does not fit {directory / RUN_FILE}: {error}") from error
    return run_file, path, tree


def method_of_run(directory: Path) -> str:
    """By which method a directory's run was trained, as ``run.json`` says; ours if it does not."""
    try:
        said = read_json(directory / RUN_FILE)
    except (OSError, CheckpointError):
        return OURS
    method = said.get("method", OURS) if isinstance(said, dict) else OURS
    return str(method)


def recorded_threads(directory: Path) -> int | None:
    """How many of torch's threads a directory's run was last trained on, if ``run.json`` says."""
    try:
        threads = read_json(directory / RUN_FILE, {"threads": int})["threads"]
    except (OSError, CheckpointError):
        return None
    return int(threads) if 1 <= threads <= MOST_THREADS else None


def pretrained_names() -> list[str]:
    """Names of the pretrained runs that come with this installation."""
    return sorted(card.parent.name for card in PRETRAINED.glob(f"*/{CARD_FILE}"))


def find_run(run: Path | str) -> Path:
    """The directory of a run, given that or the name of a pretrained one.

    Raises:
        FileNotFoundError: If it is neither; the message lists the names.
    """
    if any((Path(run) / name).is_file() for name in (RUN_FILE, CHECKPOINT_FILE, PREVIOUS_FILE)):
        return Path(run)
    if str(run) in pretrained_names():
        return PRETRAINED / run
    raise FileNotFoundError(
        f"Expected a run directory, but {run} holds no {RUN_FILE}, or the name of a pretrained "
        f"run, one of {pretrained_names()}. `mier-adapt meta-train PRESET --out DIR` makes a run."
    )
