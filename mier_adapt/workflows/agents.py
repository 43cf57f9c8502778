"""Agent: the parts that adaptation needs, wherever they come from."""

from dataclasses import dataclass
from typing import Any

import torch

from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.context_model import ContextModel
from mier_adapt.integration import ContextReplayBuffer

__all__ = ["Agent"]


@dataclass(eq=False, kw_only=True)
class Agent:
    """A policy, a model of its world, and the experience of the tasks that it knows."""

    model: ContextModel
    """The model; with a context of 0 dimensions an ordinary one."""
    adapter: GradientContextAdapter
    """Identifies tasks with that model."""
    algorithm: Any
    """A Tianshou SAC, TD3 or REDQ."""
    replay: ContextReplayBuffer
    """One buffer for each earlier task."""
    device: torch.device
    """Where the networks live."""
    conditioned: bool = True
    """Whether the policy acts on ``[obs, context]``, or on ``obs`` alone."""

    def policy_context(self, context: torch.Tensor) -> torch.Tensor:
        """What of the model's context, ``(..., C)``, the policy is given: all or nothing."""
        return context if self.conditioned else context[..., :0]
