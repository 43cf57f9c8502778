"""The checker that the suite puts behind the package's annotations: beartype, on first calls.

A test that learns calls the same functions many thousand times with other values of the same
shapes, and checking every call took longer than the work. So of every function the first calls
within each test are checked: which ones does not depend on the tests before.
"""

import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Self

import jaxtyping
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


CHECKED_CALLS = 100
"""Of each function in each test: more than any property is tried with examples."""

_jaxtyped = jaxtyping.jaxtyped
_calls: Counter[Any] = Counter()
"""By code, which functions that are defined in a call share."""


def begin_test() -> None:
    """From here on first calls are checked once more."""
    _calls.clear()


def on_first_calls(*, typechecker: Any) -> Callable[[Any], Any]:
    """What jaxtyping's import hook puts before functions, with an end to its checks."""
    decorate = _jaxtyped(typechecker=typechecker)

    def decorated(function: Any) -> Any:
        if not inspect.isfunction(function):  # a class: its methods are functions
            return decorate(function)
        code = function.__code__
        if _calls[code] >= CHECKED_CALLS:
            return function
        checked = decorate(function)

        @functools.wraps(checked)
        def watched(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            _calls[code] += 1
            return (checked if _calls[code] <= CHECKED_CALLS else function)(*args, **kwargs)

        return watched

    return decorated


def install(package: str) -> None:
    """Check what a package defines, from its import on."""
    jaxtyping.install_import_hook(package, f"{__name__}.check")
    # The hook names the decorator in the code of every module: here is another by that name.
    jaxtyping.jaxtyped = on_first_calls
