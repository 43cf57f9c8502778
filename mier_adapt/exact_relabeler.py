"""ExactRelabeler: stored experience as it would be on a changed robot, where no model is needed."""

from collections.abc import Callable, Iterable, Iterator

import torch

from mier_adapt._checks import checked, require_tensor
from mier_adapt._typing import Float, Tensor
from mier_adapt.compensation import Compensation
from mier_adapt.transitions import OneTask, Transitions

_EXACT = 1e-6
"""Distance from the stored action up to which the changed robot executes the same."""


class ExactRelabeler:
    """A :class:`.SyntheticSource` for robots whose motors or sensors changed, without model errors.

    What the known robot did when told ``a``, the changed one does when told what makes it execute
    ``a``. So a stored transition becomes one of the changed robot, with that action and what its
    sensors would have shown. Transitions are left out whose action the changed robot cannot
    execute: beyond the strength of a weak motor, say.

    Example:
        >>> import numpy as np
        >>> weak = Compensation(np.diag([-0.5]), np.zeros(1))
        >>> act = torch.tensor([[0.4], [0.8]])
        >>> stored = Transitions(act, act, act[:, 0], act, torch.zeros(2, dtype=torch.bool))
        >>> ExactRelabeler(weak).relabel(stored).act
        tensor([[-0.8000]])

    Args:
        compensation: What changed, as :func:`.diagnose` or :func:`.adapt` gives it.
        reward_fn: ``(obs (B, O), act (B, A), obs_next (B, O)) -> rew (B,)``, of what the changed
            robot is told and shows, where its reward depends on that; by default rewards are
            stored ones, which are right where they depend on what the robot does.

    Source:
        Ours. The paper relabels by the model, Algorithm 2.
    """

    @checked
    def __init__(
        self,
        compensation: Compensation,
        *,
        reward_fn: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.compensation = compensation
        self.reward_fn = reward_fn

    @checked
    def relabel(self, transitions: OneTask) -> Transitions:
        """Relabel ``(B, ...)`` transitions into one set of those that the changed robot can do.

        Raises:
            ValueError: If it can do none, or shapes do not fit.
        """
        sets = list(self.stream([transitions]))
        if not sets:
            raise ValueError(
                f"ExactRelabeler expected transitions with an action that the changed robot can "
                f"execute, got none of {len(transitions)}."
            )
        return Transitions.cat(sets)

    def stream(self, source: Iterable[Transitions]) -> Iterator[Transitions]:
        """Relabel set by set.

        Args:
            source: Sets of ``(B, ...)`` transitions, taken one by one.

        Yields:
            Of each set what the changed robot can do; nothing where that is nothing.

        Raises:
            ValueError: If shapes do not fit.
        """
        motors, sensors = (
            len(each) for each in (self.compensation.act_offset, self.compensation.obs_offset)
        )
        for transitions in source:
            stored = transitions.detach()
            dims = stored.act.shape[-1], stored.obs.shape[-1]
            if dims != (motors, sensors or dims[1]):
                raise ValueError(
                    f"ExactRelabeler expected transitions of {motors} dimensions of an action, and "
                    f"of {sensors or 'any'} of an observation, got {dims}."
                )
            act, possible = self._commands(stored.act)
            if not bool(possible.any()):
                continue
            kept = stored[possible]
            obs, obs_next = self._shown(kept.obs), self._shown(kept.obs_next)
            rew = kept.rew
            if self.reward_fn is not None:
                rew = self.reward_fn(obs.clone(), act[possible], obs_next.clone())
                require_tensor("ExactRelabeler", "reward_fn's answer", rew, tuple(kept.rew.shape))
            yield Transitions(obs, act[possible], rew, obs_next, kept.terminated)

    def _commands(self, act: Float[Tensor, "B A"]) -> tuple[Tensor, Tensor]:
        """What makes the changed robot execute these, ``(B, A)``, and where that is possible."""
        exact = self.compensation.action(act.double().cpu().numpy())
        reached = self.compensation.executed(exact)
        commands = torch.from_numpy(exact).to(act)
        missed = torch.from_numpy(reached).to(act.device) - act
        return commands, missed.abs().amax(-1) <= _EXACT

    def _shown(self, obs: Float[Tensor, "B O"]) -> Tensor:
        """What the changed robot shows where the known one would have shown this."""
        return torch.from_numpy(self.compensation.shown(obs.double().cpu().numpy())).to(obs)
