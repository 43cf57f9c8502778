"""Tianshou policies as actors: under contexts, in [-1, 1], and as relabeling asks them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step

from mier_adapt._checks import checked, shown
from mier_adapt._typing import Float, Tensor


class PolicyActor:
    """A Tianshou policy that acts on ``[obs, context]``.

    Args:
        policy: Any of Tianshou's for continuous actions.
        contexts: ``(C,)``, or one for each of T tasks, ``(T, C)``; C may be 0.

    Raises:
        ValueError: If contexts have another shape or are not finite.
    """

    @checked
    def __init__(self, policy: Policy, contexts: Float[Tensor, "*tasks C"]) -> None:
        if contexts.ndim not in (1, 2) or not bool(contexts.isfinite().all()):
            raise ValueError(
                "PolicyActor expected contexts of shape (C,) or (T, C) with finite values, got "
                f"{shown(contexts)} of shape {tuple(contexts.shape)}."
            )
        self.policy = policy
        self.contexts = contexts.detach()
        self._rows = np.atleast_2d(self.contexts.cpu().numpy())

    @checked
    def act(
        self, obs: Float[NDArray[np.floating], "N O"], *, explore: bool
    ) -> Float[NDArray[np.floating], "N A"]:
        """As :meth:`.Actor.act`.

        Args:
            obs: Bare observations, in order of the tasks, as many of each.
            explore: Sample from a stochastic policy and add the exploration noise of one that has
                it; otherwise take the most probable action.

        Raises:
            ValueError: If ``obs`` is not finite, or its shape is not what the policy takes.
            FloatingPointError: If the policy's parameters are not finite; names one.
        """
        each, rest = divmod(len(obs), len(self._rows))
        if rest or obs.ndim != 2 or not np.isfinite(obs).all():
            raise ValueError(
                f"PolicyActor expected obs to be finite and of shape (N, O), with N a multiple of "
                f"{len(self._rows)} tasks, got {shown(obs)} of shape {obs.shape}."
            )
        contexts = np.repeat(self._rows, each, axis=0)
        return act(
            self.policy, np.concatenate((obs, contexts), axis=-1, dtype=np.float32), explore=explore
        )


def act(policy: Policy, obs: NDArray[np.float32], *, explore: bool) -> NDArray[np.float32]:
    """Ask a policy for actions in [-1, 1], ``(B, A)``; contexts are behind ``obs``, ``(B, O)``."""
    batch = Batch(obs=obs, info=Batch())
    training = policy.training
    if training:  # dropout and batch statistics are for updates
        policy.eval()
    try:
        with torch.no_grad(), policy_within_training_step(policy, enabled=explore):
            action = policy(batch).act.cpu().numpy()
    except ValueError:  # by which torch's distributions refuse a network's NaN
        require_finite_parameters(policy, "The policy")
        raise
    except RuntimeError as error:
        if "shapes cannot be multiplied" not in str(error):
            raise
        raise ValueError(
            f"act expected obs that the policy takes, contexts included, got shape {obs.shape}."
        ) from error
    finally:
        if training:
            policy.train()
    if explore:
        action = policy.add_exploration_noise(action, batch)
    return np.asarray(np.clip(action, -1, 1), dtype=np.float32)


@checked
def relabeling_policy(
    policy: Policy, context: Float[Tensor, " C"], *, explore: bool = True
) -> Callable[[Tensor], Tensor]:
    """A Tianshou policy under one context, as the plain callable that relabeling takes."""
    actor = PolicyActor(policy, context)

    def act_on(obs: Tensor) -> Tensor:
        bare = obs.detach().cpu().numpy()
        return torch.from_numpy(actor.act(bare, explore=explore)).to(obs.device)

    return act_on


def require_fitting_policy(owner: str, policy: Any, space: spaces.Box) -> None:
    """Check that a policy's actions mean in an environment what they meant where it was made.

    Raises:
        ValueError: If it was built for other bounds, or does not act in [-1, 1].
    """
    own = policy.action_space
    same = isinstance(own, spaces.Box) and own.shape == space.shape
    same = same and np.allclose((own.low, own.high), (space.low, space.high), atol=0)
    scaled = policy.action_scaling or np.allclose((space.low, space.high), ((-1,), (1,)))
    bound = policy.action_bound_method  # by tanh, what it stores and what it does are not the same
    if not same or not scaled or bound == "tanh":
        raise ValueError(
            f"{owner} expected a policy with action_scaling, without tanh, for actions {space}, "
            f"got one for {own} with action_scaling={policy.action_scaling}, bounded by {bound}. "
            "Wrap the environment in gymnasium.wrappers.RescaleAction, or build the policy so."
        )


def require_finite_parameters(module: torch.nn.Module, name: str) -> None:
    """Check a network's parameters, at the price of one wait for the device.

    Raises:
        FloatingPointError: If one is not finite; names it.
    """
    tensors = {key: value for key, value in module.named_parameters() if value.numel()}
    norms = torch._foreach_norm([value.detach() for value in tensors.values()], float("inf"))
    if norms and bool(torch.stack([norm.float() for norm in norms]).isfinite().all()):
        return
    for key, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise FloatingPointError(
                f"{name}'s parameter {key} holds {int((~value.isfinite()).sum())} values that are "
                "not finite: training diverged. Lower the learning rate."
            )
