"""Checks at the boundary, with messages that name argument, expectation and actual value.

A public function says in its annotations what it takes, :func:`checked` holds its callers to that
once, and what lies behind trusts them: ``steps: Count`` is a whole number of at least 0.

NumPy's scalars become Python's on the way: what was annotated ``int`` or ``float``, or as a range
of these, is one behind the boundary. There it neither overflows nor wraps around, and JSON and
checkpoints take it.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union

import jaxtyping
import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import get_protocol_members, is_protocol

P = ParamSpec("P")
R = TypeVar("R")

_MOST = 2**31 - 1
"""The largest size, count or number of steps. Larger ones are slips, and memory's or time's end."""


@dataclass(frozen=True)
class Range:
    """The numbers that an argument may be; with ``whole``, integers alone."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    whole: bool = False

    def __call__(self, owner: str, name: str, value: Any) -> None:
        """Raise a ValueError unless the value is a finite number in the range."""
        number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
        whole = number and isinstance(value, numbers.Integral)
        # Whole numbers beyond floats are out of every range here, and cannot be compared with some.
        beyond = whole and abs(value) >= 2**1023
        finite = (whole if self.whole else number) and not beyond and math.isfinite(value)
        if finite and self.above < value and self.least <= value <= self.most:
            return
        wanted = " and ".join(
            f"{sign} {limit:.10g}"
            for sign, limit in ((">", self.above), (">=", self.least), ("<=", self.most))
            if math.isfinite(limit) and limit < _MOST
        )
        text = f"{wanted or 'to be a finite number'}{' and whole' if self.whole > whole else ''}"
        raise ValueError(f"{owner} expected {name} {text}, got {shown(value)}.")


def _of_this_machine(owner: str, name: str, value: Any) -> None:
    try:
        torch.empty(0, device=torch.device(value))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{owner} expected {name} to be one of this machine's, got {shown(value)}."
        ) from error


Count = Annotated[int, Range(least=0, most=_MOST, whole=True)]
Size = Annotated[int, Range(least=1, most=_MOST, whole=True)]
Seed = Annotated[int, Range(least=0, most=2**63 - 1, whole=True)]
Number = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
PositiveShare = Annotated[float, Range(above=0, most=1)]
Device = Annotated[torch.device | str, _of_this_machine]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Hold a function's callers to its annotations: types, ranges, protocols, choices.

    Raises:
        TypeError: If an argument is of another type, or lacks what its protocol asks for.
        ValueError: If a number is out of range, or a choice unknown.
    """
    signature = inspect.signature(function)
    owner = function.__qualname__.removesuffix(".__init__")

    @functools.cache
    def hints() -> dict[str, Any]:
        found = typing.get_type_hints(function, include_extras=True)
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return {
            name: found[name]
            for name, parameter in signature.parameters.items()
            if name in found and parameter.kind not in kinds
        }

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        for name, hint in hints().items():
            if name in given:
                given[name] = _checked(owner, name, given[name], hint)
        return function(*bound.args, **bound.kwargs)

    return wrapper


def checked_fields(instance: Any) -> None:
    """Check a dataclass's fields by their annotations; for ``__post_init__``."""
    hints = typing.get_type_hints(type(instance), include_extras=True)
    for field in dataclasses.fields(instance):
        name = field.name
        given = getattr(instance, name)
        value = _checked(type(instance).__name__, name, given, hints[name])
        if value is not given:
            object.__setattr__(instance, name, value)  # also where it is frozen


def _checked(owner: str, name: str, value: Any, hint: Any) -> Any:
    """Hold one value to one annotation; the value, in which NumPy's scalars are Python's."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _plain(value, arguments[0])
        checks = [each for each in hint.__metadata__ if callable(each)]
        if not checks:  # what a command line says of its options
            return _checked(owner, name, value, arguments[0])
        for check in checks:
            check(owner, name, value)
    elif origin in (Union, types.UnionType):
        fitting = [each for each in arguments if isinstance(value, _classes(each))]
        if not fitting:
            _require_class(owner, name, value, _classes(hint))
        elif fitting[0] is not types.NoneType:
            return _checked(owner, name, value, fitting[0])
    elif origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ValueError(f"{owner} expected {name} in {list(arguments)}, got {shown(value)}.")
    elif origin in (tuple, Sequence):
        _require_class(owner, name, value, _classes(hint))
        given = list(value)
        parts = [
            _checked(owner, f"{name}[{number}]", each, arguments[0])
            for number, each in enumerate(given)
        ]
        if any(part is not each for part, each in zip(parts, given, strict=True)):
            return parts if isinstance(value, list) else tuple(parts)
    elif is_protocol(hint):
        # What the protocol defines as a method has to be one; an attribute, just there.
        missing = sorted(
            each
            for each in get_protocol_members(hint)
            if not hasattr(value, each)
            or (callable(getattr(hint, each, None)) and not callable(getattr(value, each)))
        )
        if missing:
            article = "an" if hint.__name__[0] in "AEIOU" else "a"
            raise TypeError(
                f"{owner} expected {name} to be {article} {hint.__name__}, got {shown(value)} of "
                f"type {type(value).__name__}, which has no {', '.join(missing)}."
            )
    elif origin is type:
        if not isinstance(value, type) or not issubclass(value, _classes(arguments[0])):
            raise TypeError(f"{owner} expected {name} to be a {hint}, got {shown(value)}.")
    elif hint in (int, float):
        value = _plain(value, hint)
        Range(whole=hint is int)(owner, name, value)
    else:
        _require_class(owner, name, value, _classes(hint))
    return value


def _plain(value: Any, hint: Any) -> Any:
    """A NumPy scalar as a Python number, where an annotation asks for one."""
    if hint in (int, float) and isinstance(value, np.integer | np.floating):
        return int(value) if isinstance(value, np.integer) else float(value)
    return value


def _classes(hint: Any) -> tuple[Any, ...]:
    """The classes that a value has to be an instance of; ``object`` where an annotation is open."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _classes(typing.get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return tuple(each for part in typing.get_args(hint) for each in _classes(part))
    if hint is Any:
        return (object,)
    if hint in (int, float):
        return (numbers.Real,)  # ranges say more than a class does
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, jaxtyping.AbstractArray):
        return _classes(kind.array_type)
    return (kind,) if isinstance(kind, type) and not is_protocol(kind) else (object,)


def _require_class(owner: str, name: str, value: Any, kinds: tuple[Any, ...]) -> None:
    if isinstance(value, kinds) and not (kinds == (Sequence,) and isinstance(value, (str, bytes))):
        return
    wanted = " or ".join("None" if each is types.NoneType else each.__name__ for each in kinds)
    raise TypeError(
        f"{owner} expected {name} to be of type {wanted}, got {shown(value)} of type "
        f"{type(value).__name__}."
    )


def require_tensor(owner: str, name: str, value: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Check a tensor's shape, and that its values are finite.

    Raises:
        ValueError: If its shape is another, or a value is not finite.
    """
    if tuple(value.shape) != shape or not bool(value.isfinite().all()):
        raise ValueError(
            f"{owner} expected {name} of shape {shape} with finite values, got {shown(value)} "
            f"of shape {tuple(value.shape)}."
        )


def require_unit(owner: str, name: str, act: Any) -> None:
    """Check that actions, in a tensor or an array, are in [-1, 1].

    Raises:
        ValueError: If one is not.
    """
    low, high = float(act.min()), float(act.max())
    if not -1 <= low <= high <= 1:
        raise ValueError(
            f"{owner} expected {name} in [-1, 1], got values from {low} to {high}. Undo the "
            "scaling to the environment's action space."
        )


def require_actions(owner: str, act: Any, shape: tuple[int, ...]) -> None:
    """Check what a policy returned.

    Raises:
        ValueError: If it is no tensor of this shape in [-1, 1].
    """
    if not isinstance(act, torch.Tensor) or tuple(act.shape) != shape:
        came = tuple(act.shape) if isinstance(act, torch.Tensor) else type(act)
        raise ValueError(
            f"{owner} expected policy to return a tensor of shape {shape}, got {came}."
        )
    require_unit(owner, "what policy returns", act)


def require_array(owner: str, name: str, value: Any, dtype: Any) -> NDArray[Any]:
    """Turn an argument into an array, of its own dtype if ``dtype`` is None.

    Raises:
        ValueError: If it cannot be one.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":  # complex numbers and strings would be converted
            raise TypeError(f"an array of {array.dtype}")
        with np.errstate(all="ignore"):
            return array if dtype is None else array.astype(dtype, copy=False)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(
            f"{owner} expected {name} to be an array{f' of {np.dtype(dtype)}' if dtype else ''}, "
            f"got {shown(value)}."
        ) from error


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
