"""The checker that the suite puts behind the package's annotations: beartype."""

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any, Self

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from beartype.vale import Is
from typing_extensions import get_protocol_members


@functools.cache
def _conf(task_model: type | None) -> BeartypeConf:
    # As type checkers do: an int will do for a float, and an element of an array for a number.
    overrides: dict[Any, Any] = {int: int | np.integer}
    if task_model is not None:
        # By what a model has, wherever it has it from.
        names = get_protocol_members(task_model)
        fits = Is[lambda value: all(hasattr(value, name) for name in names)]
        overrides[task_model] = Annotated[object, fits]
    return BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict(overrides))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's arguments and results; ``Self``, which beartype knows in classes only,
    is taken as anything."""
    annotations = getattr(function, "__annotations__", {})
    for name, hint in annotations.items():
        if hint is Self:
            annotations[name] = Any
    # Not imported here: the package is imported behind this hook. What is imported before the
    # protocols are does not name one.
    protocols = sys.modules.get("mier_adapt.protocols")
    return beartype(conf=_conf(getattr(protocols, "TaskModel", None)))(function)
