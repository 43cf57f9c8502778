"""Agent: the parts that adaptation needs, wherever they come from; a :class:`.MetaPolicy`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mier_adapt._checks import Size, checked, checked_fields
from mier_adapt._typing import Float, Tensor
from mier_adapt.context_adapter import GradientContextAdapter
from mier_adapt.integration import ContextReplayBuffer, PolicyActor
from mier_adapt.integration.algorithms import require_actor_critic
from mier_adapt.protocols import TaskModel
from mier_adapt.transitions import Transitions


@dataclass(eq=False, kw_only=True)
class Agent:
    """A policy, a model of its world, and the experience of the tasks that it knows.

    Raises:
        TypeError: If a part is of another kind.
        ValueError: If the parts do not belong together.
    """

    adapter: GradientContextAdapter
    """Identifies tasks with its model; with a context of 0 dimensions that is an ordinary one."""
    algorithm: Any
    """A Tianshou SAC, TD3 or REDQ."""
    replay: ContextReplayBuffer
    """One buffer for each earlier task."""
    conditioned: bool = True
    """Whether the policy acts on ``[obs, context]``, or on ``obs`` alone."""

    @property
    def task_names(self) -> Sequence[str]:
        """What reports call the earlier tasks, in the replay's order."""
        return [f"number {task}" for task in range(self.replay.num_tasks)]

    def __post_init__(self) -> None:
        checked_fields(self)
        require_actor_critic("Agent", self.algorithm)
        model, replay = self.model, self.replay
        dims = (model.obs_dim, model.act_dim, model.context_dim if self.conditioned else 0)
        found = (replay.obs_dim, replay.act_dim, replay.context_dim)
        if found != dims:
            raise ValueError(
                "Agent expected a replay of the model's obs_dim, act_dim and, for a policy that "
                f"knows a context, context_dim, {dims}, got {found}."
            )

    @property
    def model(self) -> TaskModel:
        """The adapter's."""
        return self.adapter.model

    @property
    def device(self) -> torch.device:
        """Where the policy lives; the model has to live there, too."""
        device: torch.device = next(self.algorithm.policy.parameters()).device
        return device

    @checked
    def earlier_contexts(self, steps: Size, generator: np.random.Generator) -> Float[Tensor, "T C"]:
        """The earlier tasks' contexts, by the adapter's steps on stored transitions of each.

        Args:
            steps: Transitions of each task.
            generator: Draws them, from what was gathered with the initial context.

        Raises:
            ValueError: If a task has no such transitions.
        """
        stored = self.replay.sample_transitions(
            np.arange(self.replay.num_tasks), steps, adaptation=True, generator=generator
        )
        return self.adapter.adapt(stored.to(self.device))

    def actor(self, contexts: Float[Tensor, "*tasks C"]) -> "ContextActor":
        """The policy under the model's contexts, ``(C,)`` or ``(T, C)``."""
        return ContextActor(self, self.algorithm.policy, contexts)

    def initial_actor(self, num_tasks: int) -> "ContextActor":
        """As :meth:`.MetaPolicy.initial_actor`."""
        return self.actor(self.model.initial_context.detach())  # the same for all

    @checked
    def adapt(self, transitions: Transitions) -> "ContextActor":
        """As :meth:`.MetaPolicy.adapt`: by the adapter's context steps."""
        return self.actor(self.adapter.adapt(transitions.to(self.device)))


class ContextActor(PolicyActor):
    """A policy under the contexts of T tasks, and what the agent's model says of them."""

    def __init__(self, agent: Agent, policy: Any, contexts: Float[Tensor, "*tasks C"]) -> None:
        super().__init__(policy, contexts if agent.conditioned else contexts[..., :0])
        self.agent = agent
        self.model_contexts = contexts.detach()

    @torch.no_grad()
    def loss(self, transitions: Transitions) -> Float[Tensor, " T"]:
        """The model's loss of each task's transitions, ``(T, B, ...)``, under its context."""
        return self.agent.model.loss(transitions.to(self.agent.device), self.model_contexts)

    def cross_losses(self, transitions: Transitions) -> Float[Tensor, "T T"]:
        """As :meth:`.GradientContextAdapter.cross_losses`, of T tasks with a context each."""
        return self.agent.adapter.cross_losses(
            transitions.to(self.agent.device), self.model_contexts
        )
