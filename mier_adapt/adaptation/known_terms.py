"""Known terms: what a changed robot is like to a policy that acts behind a compensation."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from mier_adapt.adaptation.stages import PolicyCandidate, refine
from mier_adapt.agents.agent import Agent
from mier_adapt.agents.configs import AdaptConfig
from mier_adapt.changes import Change, ChangedModel
from mier_adapt.compensation import Compensation
from mier_adapt.diagnosis import Diagnosis
from mier_adapt.model_fitting import FittedModel
from mier_adapt.transitions import Transitions


def in_known_terms(real: Transitions, undone: Compensation | None) -> Transitions:
    """Transitions, ``(B, ...)``, as the known robot would have shown them."""
    if undone is None:
        return real
    obs, act, obs_next = (each.cpu().numpy() for each in (real.obs, real.act, real.obs_next))
    made = undone.observation(obs), undone.executed(act), undone.observation(obs_next)
    obs_, act_, next_ = (torch.as_tensor(each).to(real.obs) for each in made)
    return Transitions(obs_, act_, real.rew, next_, real.terminated)


def as_wanted(
    known: Transitions, undone: Compensation | None, generator: np.random.Generator
) -> Transitions:
    """Transitions in known terms, ``(B, ...)``, for a policy that learns behind a compensation.

    At the end of a motor's reach whatever is wanted beyond it comes to the same, and of a dead
    motor anything. A policy goes on wanting it, so that critics have to know: what was wanted is
    drawn from all that it may have been.

    Args:
        known: As :func:`in_known_terms` gives them.
        undone: What the policy acts behind.
        generator: Draws it.
    """
    if undone is None:
        return known
    low, high = undone.reach
    act = known.act.cpu().numpy().astype(np.float64).clip(low, high)
    least = np.where(act <= low + _AT_THE_END, -1.0, np.where(act < high - _AT_THE_END, act, high))
    most = np.where(act >= high - _AT_THE_END, 1.0, np.where(act > low + _AT_THE_END, act, low))
    wanted = torch.as_tensor(generator.uniform(least, most)).to(known.act)
    return dataclasses.replace(known, act=wanted)


_AT_THE_END = 1e-6
"""Distance from the end of a motor's reach that is rounding."""


def refine_behind(
    agent: Agent,
    config: AdaptConfig,
    start: PolicyCandidate,
    diagnosis: Diagnosis | None,
    real: Transitions,
    contexts: torch.Tensor,
    generator: np.random.Generator,
) -> list[FittedModel]:
    """As :func:`.refine`, in the terms of a candidate, in which the transitions are as well.

    Where undoing a change that explains all brings the known robot back, its model is right as it
    is, and its weights are not fitted.
    """
    if start.compensation is not None and diagnosis is not None and diagnosis.explained:
        config = dataclasses.replace(config, weight_steps=0)
    return refine(agent, config, real, contexts, generator)


def within_reach(
    fitted: Sequence[FittedModel], undone: Compensation | None
) -> Sequence[FittedModel]:
    """Models in known terms, of a robot that does of what it is asked what its motors can.

    Otherwise a policy would learn to use a motor that is dead.
    """
    if undone is None:
        return fitted
    reach, none = _Reach(undone), torch.zeros(0)
    return [
        dataclasses.replace(each, model=ChangedModel(each.model, reach, none)) for each in fitted
    ]


class _Reach(Change):
    """What is executed of what is wanted, once it went through a compensation."""

    name = "reach"
    trained = False

    def __init__(self, undone: Compensation) -> None:
        self._undone = undone

    def identity(self) -> torch.Tensor:
        """There are no parameters."""
        return torch.zeros(0)

    def executed(self, parameters: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        """As :meth:`.Change.executed`; ``act`` is ``(B, A)``."""
        command = self._undone.action(act.detach().cpu().numpy())
        return torch.as_tensor(self._undone.executed(command)).to(act)
