"""What affine maps did to motors and sensors, in words."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mier_adapt._typing import Tensor

_UNTOLD = 0.25
"""Standard error of a gain from which on the transitions do not tell it."""
_MIXED, _DEAD, SHIFTED = 0.1, 0.1, 0.05
"""Shares of a motor's strength, and shifts, that are worth a word."""


class Estimate(NamedTuple):
    """A number and its standard error; infinite where the transitions do not tell."""

    value: float
    error: float

    @property
    def told(self) -> bool:
        """Whether the transitions tell it."""
        return self.error < _UNTOLD

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.error:.2f}" if self.told else "not told"


def is_dead(matrix: Tensor) -> Tensor:
    """Which motors do hardly anything, whatever the command."""
    return matrix.abs().amax(-1) < _DEAD


def motors_in_words(
    matrix: Tensor, offset: Tensor, gains: tuple[Estimate, ...], untold: Sequence[int]
) -> list[str]:
    """What happened to motors, from what they execute: ``matrix act + offset``.

    But for ``untold`` ones, which may as well be reversed.
    """
    dim = len(matrix)
    diagonal = matrix.diagonal()
    if dim > 1 and bool(((matrix - diagonal[0] * torch.eye(dim).to(matrix)).abs() < 1e-3).all()):
        common = float(diagonal[0])
        if abs(abs(common) - 1) >= 1e-3:
            every = f"all motors are at {common:.2f} of their strength"
            if common > _DEAD:
                # Equations of motion are in proportion to masses, but for joints' own friction.
                every += f", or all that they move is {1 / common:.2f} times as heavy"
            return [every, *_offsets(offset)]
    said: dict[int, str] = {}
    for number, row in enumerate(matrix):
        own = float(row[number])
        told = ""
        if number < len(gains) and gains[number].told and own:
            told = f" (gain {Estimate(own * gains[number].value, abs(own) * gains[number].error)})"
        others = (row.abs() > _MIXED).nonzero().flatten().tolist()
        motor = f"motor {number + 1}"
        if others in ([], [number]):
            if abs(own) < _DEAD:
                said[number] = f"{motor} is dead"
            elif own < 0:
                weak = f" and at {-own:.2f} of its strength" if own > -1 + _MIXED else ""
                said[number] = f"{motor} is reversed{weak}{told}"
            elif abs(own - 1) >= _MIXED:
                said[number] = f"{motor} is at {own:.2f} of its strength{told}"
        elif len(others) == 1:
            how = "" if float(row[others[0]]) > 0 else ", reversed"
            at = abs(float(row[others[0]]))
            weak = f" at {at:.2f} of its strength" if abs(at - 1) >= _MIXED else ""
            said[number] = f"{motor} follows what is meant for motor {others[0] + 1}{how}{weak}"
        else:
            mix = " ".join(f"{float(row[other]):+.2f} a{other + 1}" for other in others)
            said[number] = f"{motor} executes a mixture, {mix}"
    words, unchanged = list(said.values()), set(range(dim)) - said.keys()
    if words and unchanged:
        far = ", as far as is told" if unchanged & set(untold) else ""
        words[-1] += f"; the others are as they were{far}"
    return words + _offsets(offset)


def _offsets(offset: Tensor) -> list[str]:
    return [
        f"motor {number} is shifted by {value:+.2f}"
        for number, value in enumerate(offset.tolist(), start=1)
        if abs(value) >= SHIFTED
    ]


def sensors_in_words(matrix: Tensor, offset: Tensor) -> list[str]:
    """What happened to sensors, from what the known robot would have shown."""
    said = []
    for number, row in enumerate(matrix):
        (others,) = (row.abs() > 1e-3).nonzero(as_tuple=True)
        sensor = f"sensor {number + 1}"
        own = float(row[number])
        if others.tolist() == [number]:
            if own < 0:
                said.append(f"{sensor} is reversed")
            if abs(abs(own) - 1) > 1e-3:
                said.append(f"{sensor} shows {1 / abs(own):.2f} times what it did")
        elif len(others) == 1:
            sign = "minus " if float(row[others[0]]) < 0 else ""
            said.append(f"sensor {int(others[0]) + 1} shows {sign}what {sensor} did")
        else:
            said.append(f"what {sensor} did show is spread over {[int(o) + 1 for o in others]}")
        if shift := float(offset[number]):
            said.append(f"{sensor} is shifted by {-shift / own if own else -shift:+.3g}")
    return said
