"""All that an algorithm's further updates depend on, also what ``state_dict`` misses."""

import copy
import math
from typing import Any

import torch
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.modelfree.sac import AutoAlpha

from mier_adapt._checks import checked
from mier_adapt._storage.trees import require_keys, require_like, require_optimizer_state
from mier_adapt.integration.fast_sac import FastSAC

_UNSCALED: dict[str, Any] = {"obs_scale": None, "reward_scale": 1.0}
"""How FastSAC learns if nothing else is said, as before release 0.2."""
_COUNTERS = ("_cnt", "_last", "critic_gradient_step", "_last_actor_loss")
"""Plain attributes of TD3 and REDQ that steer their updates and that state_dict misses."""


@checked
def algorithm_state(algorithm: Algorithm[Any, Any]) -> dict[str, Any]:
    """Everything that the further updates of a SAC, DDPG, TD3 or REDQ depend on.

    Beyond ``state_dict()`` that is a learned temperature's optimizer, the schedules of step sizes
    where there are any, the counters by which TD3 and REDQ delay their actors, and the scales by
    which a :class:`.FastSAC` may learn. The global generators of NumPy and torch, from which
    Tianshou draws, are the caller's to keep. Of other algorithms something may be missing: a DQN's
    count of updates, an on-policy one's statistics of returns.

    Returns:
        A tree of dictionaries, lists, tensors and plain numbers. Tensors are the
        algorithm's own, not copies.
    """
    state: dict[str, Any] = {
        "algorithm": dict(algorithm.state_dict()),  # type: ignore[no-untyped-call]
        "counters": {
            name: getattr(algorithm, name) for name in _COUNTERS if hasattr(algorithm, name)
        },
    }
    alpha = getattr(algorithm, "alpha", None)
    if isinstance(alpha, AutoAlpha):
        state["alpha_optimizer"] = alpha._optim.state_dict()
    if algorithm.lr_schedulers:
        state["lr_schedulers"] = [each.state_dict() for each in algorithm.lr_schedulers]
    if scales := _scales(algorithm):
        state["scales"] = scales
    return state


@checked
def load_algorithm_state(algorithm: Algorithm[Any, Any], state: dict[str, Any]) -> None:
    """Restore what :func:`algorithm_state` gave, into an algorithm built the same way.

    Raises:
        ValueError: If the state belongs to an algorithm with other parts; nothing is
            changed then.
    """
    check_algorithm_state(algorithm, state)
    # Optimizers take over the moments that they are given, which may be another algorithm's.
    state = copy.deepcopy(state)
    algorithm.load_state_dict(state["algorithm"])
    for name, value in state["counters"].items():
        setattr(algorithm, name, value)
    if "alpha_optimizer" in state:
        algorithm.alpha._optim.load_state_dict(state["alpha_optimizer"])  # type: ignore[union-attr]
    for scheduler, one in zip(algorithm.lr_schedulers, state.get("lr_schedulers", ()), strict=True):
        scheduler.load_state_dict(one)
    if isinstance(algorithm, FastSAC):
        scales = state.get("scales", _UNSCALED)
        obs_scale = scales["obs_scale"]
        weight = algorithm._actor_inputs[0].weight
        algorithm.obs_scale = None if obs_scale is None else obs_scale.detach().to(weight)
        algorithm.reward_scale = scales["reward_scale"]


def check_algorithm_state(algorithm: Algorithm[Any, Any], state: Any) -> None:
    """Check that :func:`mier_adapt.integration.load_algorithm_state` would take this state.

    Raises:
        ValueError: If it would not; the message says where the two differ.
    """
    expected = algorithm_state(algorithm)
    try:
        own = {name: each for name, each in expected.items() if name != "scales"}
        if isinstance(algorithm, FastSAC) and isinstance(state, dict) and "scales" in state:
            own["scales"] = None
            _check_scales(algorithm, state["scales"])
        require_keys(own, state, "state")
        mine, given = expected["algorithm"], state["algorithm"]
        require_keys(mine, given, "algorithm")
        for name, value in mine.items():
            if name != algorithm._STATE_DICT_KEY_OPTIMIZERS:
                require_like(value, given[name], f"algorithm/{name}")
        optimizers = given[algorithm._STATE_DICT_KEY_OPTIMIZERS]
        if not isinstance(optimizers, list) or len(optimizers) != len(algorithm._optimizers):
            raise ValueError(f"optimizers: expected {len(algorithm._optimizers)}.")
        for number, (optimizer, one) in enumerate(
            zip(algorithm._optimizers, optimizers, strict=True)
        ):
            require_optimizer_state(optimizer._optim, one, f"optimizers/{number}")
        require_like(expected["counters"], state["counters"], "counters")
        if "alpha_optimizer" in expected:
            alpha: Any = algorithm.alpha
            require_optimizer_state(alpha._optim, state["alpha_optimizer"], "alpha_optimizer")
        require_like(expected.get("lr_schedulers"), state.get("lr_schedulers"), "lr_schedulers")
    except ValueError as error:
        raise ValueError(
            f"load_algorithm_state expected the state of a {type(algorithm).__name__} built with "
            f"the same options; it differs: {error}"
        ) from error


def _scales(algorithm: Any) -> dict[str, Any]:
    """By what a FastSAC scales what it learns from, if it does."""
    if not isinstance(algorithm, FastSAC):
        return {}
    scales = {name: getattr(algorithm, name) for name in _UNSCALED}
    unscaled = scales["obs_scale"] is None and scales["reward_scale"] == 1
    return {} if unscaled else scales


def _check_scales(algorithm: FastSAC, given: Any) -> None:
    require_keys(_UNSCALED, given, "scales")
    obs_scale, reward_scale = given["obs_scale"], given["reward_scale"]
    if obs_scale is not None:
        weights = algorithm._actor_inputs[0].weight[0]
        if not isinstance(obs_scale, torch.Tensor) or not 1 <= obs_scale.numel() <= len(weights):
            raise ValueError(
                f"scales/obs_scale: expected numbers for at most {len(weights)} inputs."
            )
        require_like(weights[: obs_scale.numel()], obs_scale, "scales/obs_scale")
        if not (torch.isfinite(obs_scale) & (obs_scale > 0)).all():
            raise ValueError("scales/obs_scale: expected numbers above 0.")
    if type(reward_scale) is not float or not 0 < reward_scale < math.inf:
        raise ValueError(f"scales/reward_scale: expected a number above 0, got {reward_scale!r}.")
