"""TensorBoard through Tianshou's logger, and Weights & Biases."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tianshou.utils import TensorboardLogger
from torch.utils.tensorboard import SummaryWriter


def tensorboard_logger(directory: Path, *, resume_step: int | None = None) -> TensorboardLogger:
    """A logger that writes every row it is given; a resumed run hides its lost future."""
    writer = SummaryWriter(str(directory), purge_step=resume_step)
    return TensorboardLogger(writer, training_interval=1, test_interval=1, update_interval=1)


def import_wandb() -> Any:
    """The package wandb.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ImportError(
            "Logging to Weights & Biases needs wandb: pip install 'mier-adapt[wandb]'."
        ) from error
    return wandb


def wandb_run(directory: Path, *, run_id: str, config: Mapping[str, Any]) -> Any:
    """A run at Weights & Biases, or the one of this ID that was there before.

    The project is ``WANDB_PROJECT``, or else ``mier-adapt``.

    Args:
        directory: The run's, whose name it gets; wandb keeps files of its own in ``wandb/`` there.
        run_id: As wandb knows it.
        config: What it shows of the run.

    Raises:
        ImportError: If wandb is not installed.
        ValueError: If wandb does not start.
    """
    wandb = import_wandb()
    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mier-adapt"),
            name=directory.name,
            id=run_id,
            resume="allow",
            dir=str(directory),
            config=dict(config),
        )
    except Exception as error:  # of wandb's, whatever that raises
        raise ValueError(
            f"wandb did not start: {error}. Log in (wandb login), set WANDB_MODE=offline, or log "
            "elsewhere."
        ) from error
