"""Learner: an algorithm that goes on learning from real experience, mixed with synthetic one."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel

from mier_adapt.agents.agent import Agent
from mier_adapt.integration import MixedReplayBuffer, relabeling_policy, update
from mier_adapt.integration.algorithms import one_step_targets, restart_optimizers
from mier_adapt.protocols import SyntheticSource
from mier_adapt.transitions import Transitions

_CHUNK = 16_384
"""Stored transitions that are in memory at once."""


class Learner:
    """A copy of an algorithm, with the buffer that it learns from.

    Targets look one step ahead, since synthetic transitions have no successors.

    Args:
        agent: Whose experience synthetic transitions are made of.
        algorithm: What is copied; its optimizers start anew.
        context: The policy's own, ``(C,)``: refined weights give the model's another meaning.
        actor_lr: Step size of the actor.
        critic_lr: Step size of the critics.
        tau: Share of the critics that enters their targets, if it has any, with every update; the
            algorithm's own by default.
        real_size: Real transitions that there will be at most.
        synthetic_size: Synthetic ones that are kept.
        real_fraction: Share of real transitions in a batch. With real ones alone a temperature that
            was learned is learned on, as the algorithm does it: nothing else is new to it.
        generator: Draws experience and batches.
    """

    def __init__(
        self,
        agent: Agent,
        algorithm: Any,
        context: torch.Tensor,
        *,
        actor_lr: float,
        critic_lr: float,
        tau: float | None = None,
        real_size: int,
        synthetic_size: int,
        real_fraction: float,
        generator: np.random.Generator,
    ) -> None:
        self._step_sizes = {"actor_lr": actor_lr, "critic_lr": critic_lr}
        self.tau = tau
        self.buffer = MixedReplayBuffer(
            real_size,
            synthetic_size,
            obs_dim=agent.model.obs_dim,
            act_dim=agent.model.act_dim,
            context=context,
            real_fraction=real_fraction,
            generator=generator,
        )
        self._agent, self._context, self._generator = agent, context, generator
        self.go_on_from(algorithm)

    @property
    def real_alone(self) -> bool:
        """Whether it learns from no synthetic transitions."""
        return self.buffer.real_fraction == 1

    def go_on_from(self, algorithm: Any) -> None:
        """Learn from now on with another algorithm, a copy of it; its optimizers start anew."""
        self.algorithm = copy.deepcopy(algorithm)
        if self.tau is not None and hasattr(self.algorithm, "tau"):
            self.algorithm.tau = self.tau
        restart_optimizers(self.algorithm, **self._step_sizes, learn_temperature=self.real_alone)

    def redraw(self, generator: np.random.Generator) -> None:
        """Draw from another generator from now on."""
        self.buffer.generator = self._generator = generator

    def policy(self, obs: torch.Tensor) -> torch.Tensor:
        """What the policy does as it is now, exploring, ``obs (B, O) -> act (B, A)``."""
        return relabeling_policy(self.algorithm.policy, self._context)(obs)

    def add_real(self, transitions: Transitions, truncated: NDArray[np.bool_]) -> None:
        """Keep real transitions, ``(B, ...)``."""
        self.buffer.extend_real(transitions, truncated=truncated)

    def relabel(self, sources: Sequence[SyntheticSource], count: int) -> int:
        """Make synthetic transitions of stored ones, which the sources share evenly; how many."""
        made = 0
        shares = np.array_split(np.arange(count), len(sources))
        for source, share in zip(sources, shares, strict=True):
            stored = draw_stored(self._agent, len(share), _CHUNK, self._generator)
            for chunk in source.stream(stored):
                self.buffer.extend_synthetic(chunk)
                made += len(chunk)
        return made

    def update(
        self,
        count: int,
        batch_size: int,
        *,
        after: Callable[[], None] = lambda: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Take so many of the algorithm's own updates; how many were taken.

        Args:
            count: How many, if nothing stops them.
            batch_size: Transitions of each.
            after: Called after each one.
            should_stop: Asked before each one; True leaves out the rest.

        Raises:
            FloatingPointError: If a loss stops being finite.
        """
        with one_step_targets(self.algorithm):
            for made in range(count):
                if should_stop():
                    return made
                losses = update(self.algorithm, self.buffer, batch_size)
                if not all(math.isfinite(loss) for loss in losses.values()):
                    raise FloatingPointError(
                        f"The losses are {losses} at update {made} after relabeling. The agent is "
                        "unchanged; lower critic_lr."
                    )
                after()
        return count


class LastWeights:
    """The mean of a policy's weights over the last of so many updates.

    Args:
        policy: What is updated.
        updates: How often, if nothing stops that.
        share: Of these, the last ones, that the mean is over.

    Source:
        Izmailov et al. (2018), arXiv:1803.05407.
    """

    def __init__(self, policy: torch.nn.Module, *, updates: int, share: float) -> None:
        self.made = 0
        """Updates so far."""
        self._policy, self._mean = policy, AveragedModel(policy)
        self._before = updates * (1 - share)

    def take(self) -> None:
        """To be called after each update."""
        self.made += 1
        if self.made > self._before:
            self._mean.update_parameters(self._policy)

    def load_into(self, policy: torch.nn.Module) -> None:
        """Replace a policy's weights; those stay of which none of the last updates was made."""
        if self._mean.n_averaged:
            policy.load_state_dict(self._mean.module.state_dict())


def draw_stored(
    agent: Agent, count: int, chunk_size: int, generator: np.random.Generator
) -> Iterator[Transitions]:
    """Stored transitions, drawn evenly over the earlier tasks.

    Returns:
        Chunks, ``(chunk_size, ...)``, on the agent's device, each drawn when it is asked for.
    """
    tasks = np.arange(agent.replay.num_tasks)

    def draw(size: int) -> Transitions:
        per_task = -(-size // len(tasks))
        drawn = agent.replay.sample_transitions(
            tasks, per_task, adaptation=False, generator=generator
        ).flatten()
        order = torch.from_numpy(generator.permutation(len(drawn))[:size])
        return drawn[order].to(agent.device)

    return (draw(min(chunk_size, count - done)) for done in range(0, count, chunk_size))
