"""TensorBoard through Tianshou's logger."""

from pathlib import Path

from tianshou.utils import TensorboardLogger
from torch.utils.tensorboard import SummaryWriter


def tensorboard_logger(directory: Path, *, resume_step: int | None = None) -> TensorboardLogger:
    """A logger that writes every row it is given; a resumed run hides its lost future."""
    writer = SummaryWriter(str(directory), purge_step=resume_step)
    return TensorboardLogger(writer, training_interval=1, test_interval=1, update_interval=1)
