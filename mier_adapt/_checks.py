"""Checks of single arguments, with messages that name argument, expectation and actual value."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "require_array",
    "require_device",
    "require_int",
    "require_ints",
    "require_number",
    "require_seed",
    "require_tensor",
    "require_type",
    "require_types",
    "shown",
]

_MOST = 2**31 - 1
"""The largest size, count or number of steps. Larger ones are slips, and memory's or time's end."""


def require_int(owner: str, name: str, value: Any, *, least: int, most: int = _MOST) -> None:
    """Check a size, count or number of steps.

    Raises:
        ValueError: If it is not a whole number from ``least`` to ``most``.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        limit = f" and <= {most}" if whole and value > most else ""
        raise ValueError(f"{owner} expected {name} >= {least}{limit}, got {shown(value)}.")


def require_ints(owner: str, name: str, values: Any, *, least: int) -> None:
    """Check a sequence of sizes.

    Raises:
        ValueError: If it is none, or an entry is not a whole number of at least ``least``.
    """
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise ValueError(f"{owner} expected {name} to be a sequence of sizes, got {shown(values)}.")
    for value in values:
        require_int(owner, name, value, least=least)


def require_number(
    owner: str,
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Check a finite number.

    Raises:
        ValueError: If it is not one, or out of range.
    """
    fits = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    # Whole numbers beyond floats are out of every range here, and cannot be compared with some.
    if not (
        fits
        and abs(value) < 2**1023
        and math.isfinite(value)
        and above < value
        and least <= value <= most
    ):
        limits = [
            text
            for text, given in (
                (f"> {above:g}", above > -math.inf),
                (f">= {least:g}", least > -math.inf),
                (f"<= {most:g}", most < math.inf),
            )
            if given
        ]
        raise ValueError(
            f"{owner} expected {name} {' and '.join(limits) or 'to be a finite number'}, got "
            f"{shown(value)}."
        )


def require_type(owner: str, name: str, value: Any, kind: type | tuple[type, ...]) -> None:
    """Check an argument's class.

    Raises:
        TypeError: If it is of another one.
    """
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join("None" if each is type(None) else each.__name__ for each in kinds)
        raise TypeError(
            f"{owner} expected {name} to be of type {wanted}, got {shown(value)} of type "
            f"{type(value).__name__}."
        )


def require_types(owner: str, **arguments: tuple[Any, Any]) -> None:
    """:func:`require_type` for several arguments, given as ``name=(value, kind)``."""
    for name, (value, kind) in arguments.items():
        require_type(owner, name, value, kind)


def require_tensor(owner: str, name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Check a tensor of finite values.

    Raises:
        TypeError: If it is none.
        ValueError: If its shape is another, or a value is not finite.
    """
    require_type(owner, name, value, torch.Tensor)
    if tuple(value.shape) != shape or not bool(value.isfinite().all()):
        raise ValueError(
            f"{owner} expected {name} of shape {shape} with finite values, got {shown(value)} "
            f"of shape {tuple(value.shape)}."
        )


def require_seed(owner: str, seed: Any) -> None:
    """Check a seed that NumPy and torch both take.

    Raises:
        ValueError: If it is not one.
    """
    require_int(owner, "seed", seed, least=0, most=2**63 - 1)


def require_device(owner: str, device: Any) -> torch.device:
    """Turn an argument into a device of this machine.

    Raises:
        ValueError: If it is none.
    """
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{owner} expected device to be one of this machine's, got {shown(device)}."
        ) from error


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
