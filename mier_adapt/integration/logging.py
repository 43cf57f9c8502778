"""TensorBoard through Tianshou's logger."""

from pathlib import Path

from tianshou.utils import TensorboardLogger
from torch.utils.tensorboard import SummaryWriter

from mier_adapt._checks import require_int, require_type

__all__ = ["TensorboardLogger", "tensorboard_logger"]


def tensorboard_logger(directory: Path, *, resume_step: int | None = None) -> TensorboardLogger:
    """A logger that writes every row it is given; a resumed run hides its lost future."""
    require_type("tensorboard_logger", "directory", directory, Path)
    if resume_step is not None:
        require_int("tensorboard_logger", "resume_step", resume_step, least=0)
    writer = SummaryWriter(str(directory), purge_step=resume_step)
    return TensorboardLogger(writer, training_interval=1, test_interval=1, update_interval=1)
