"""The checker that the suite puts behind the package's annotations: beartype."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

_CONF = BeartypeConf(
    # As type checkers do: an int will do for a float, and an element of an array for a number.
    is_pep484_tower=True,
    hint_overrides=FrozenDict({int: int | np.integer}),
)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's arguments and results; ``Self``, which beartype knows in classes only,
    is taken as anything."""
    annotations = getattr(function, "__annotations__", {})
    for name, hint in annotations.items():
        if hint is Self:
            annotations[name] = Any
    return beartype(conf=_CONF)(function)
