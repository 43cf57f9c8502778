"""All that an algorithm's further updates depend on, also what ``state_dict`` misses."""

import copy
from typing import Any

from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.modelfree.sac import AutoAlpha

from mier_adapt._checks import checked
from mier_adapt._storage.trees import require_keys, require_like, require_optimizer_state

_COUNTERS = ("_cnt", "_last", "critic_gradient_step", "_last_actor_loss")
"""Plain attributes of TD3 and REDQ that steer their updates and that state_dict misses."""


@checked
def algorithm_state(algorithm: Algorithm[Any, Any]) -> dict[str, Any]:
    """Everything that an algorithm's further updates depend on.

    Beyond ``state_dict()`` that is a learned temperature's optimizer, the schedules of step sizes
    where there are any, and the counters by which TD3 and REDQ delay their actors. The global
    generators of NumPy and torch, from which Tianshou draws, are the caller's to keep.

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
    return state


@checked
def load_algorithm_state(algorithm: Algorithm[Any, Any], state: dict[str, Any]) -> None:
    """Restore what :func:`algorithm_state` gave, into an algorithm built the same way.

    Raises:
        ValueError: If the state belongs to an algorithm with other parts; nothing is
            changed then.
    """
    check_algorithm_state(algorithm, state)
    given = state["algorithm"]
    algorithm.load_state_dict(dict(given))  # it pops from what it is given
    for name, value in state["counters"].items():
        setattr(algorithm, name, value)
    if "alpha_optimizer" in state:
        algorithm.alpha._optim.load_state_dict(state["alpha_optimizer"])  # type: ignore[union-attr]
    for scheduler, one in zip(algorithm.lr_schedulers, state.get("lr_schedulers", ()), strict=True):
        scheduler.load_state_dict(copy.deepcopy(one))  # it takes parts of what it is given


def check_algorithm_state(algorithm: Algorithm[Any, Any], state: Any) -> None:
    """Check that :func:`mier_adapt.integration.load_algorithm_state` would take this state.

    Raises:
        ValueError: If it would not; the message says where the two differ.
    """
    expected = algorithm_state(algorithm)
    try:
        require_keys(expected, state, "state")
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
