"""Arguments that make no sense, and what may come of them.

A call works, or raises a ValueError or TypeError that names the argument; none takes long.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from tests.mier_adapt.doubles import random_transitions

SECONDS = 30.0
"""Of processor time: what never ends takes longer on any machine, what works less on a slow one."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    # A set that is of the wrong size is named by the tensor in it that shows it.
    "transitions": ("obs", "truncated"),
    "real": ("obs",),
    "adaptation": ("obs",),
    "evaluation": ("obs",),
    # Counts that have to agree are named by one of them.
    "tasks": ("contexts",),
    "num_envs": ("slots",),
    "earlier": ("policy",),
    "dataset_id": ("dataset",),
    # Trees are named by the place in them.
    "state": ("run",),
    # Dict forms are called what they describe, presets as well.
    "values": ("task", "configuration"),
    "name": ("preset",),
}
"""By argument: other words by which a message may name it."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A callable, and arguments that it takes; those that are missing are left alone."""

    name: str
    function: Callable[..., Any]
    good: Mapping[str, Any]

    def __repr__(self) -> str:
        return self.name


PLAIN: list[Any] = [
    None, True, -1, 0, 1, 2**70, -(2**70), 0.5, -0.5, float("nan"), float("inf"), -float("inf"),
    1e308, "", "x", "../../etc/passwd", b"x", (), [], {}, [0], [None], ["x"], (float("nan"),),
    {"x": 1}, {1: 2}, [[1.0], [2.0, 3.0]], object(), int, lambda: None, range(3), 1j, Path("x"),
    np.float64("nan"), np.int64(-3), np.array([]), np.array(["x"]), np.array([None]),
    torch.tensor([]), torch.tensor(0.5), random_transitions(6), random_transitions(2, 3),
    random_transitions(4, obs_dim=7, act_dim=5), gymnasium.spaces.Discrete(3), torch.Generator(),
    np.random.default_rng(0),
]  # fmt: skip

DTYPES = [torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64, torch.float16]


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Tensors and arrays of any shape and dtype, with NaN and infinities, empty and large."""
    shape = draw(
        st.one_of(
            st.lists(st.integers(0, 6), max_size=4), st.sampled_from([[10**6], [10**5, 3], [2, 0]])
        )
    )
    dtype = draw(st.sampled_from(DTYPES))
    fill = draw(st.sampled_from([0.0, 1.0, -1.0, 1e30, float("nan"), float("inf"), -float("inf")]))
    if not (dtype.is_floating_point or dtype.is_complex):
        fill = min(max(0.0, fill), 1.0) if fill == fill else 0.0
    if dtype == torch.float16 and abs(fill) == 1e30:
        fill = 6e4
    tensor = torch.full(shape, fill, dtype=dtype)
    return tensor.numpy() if draw(st.booleans()) else tensor


def require_sense(target: Target, argument: str, value: Any) -> None:
    """Call a target with one senseless argument, and look at what comes of it."""
    started = time.process_time()
    try:
        target.function(**{**target.good, argument: value})
    except OSError:
        assert isinstance(value, Path) or argument in ("dataset", "run")  # there is no such file
    except (ValueError, TypeError, FloatingPointError, gymnasium.error.Error) as error:
        # The third is how steps that diverge report a step size; the fourth is what gymnasium
        # raises, and expects, for seeds.
        message = str(error).lower()
        words = {argument, argument.rstrip("s"), *SYNONYMS.get(argument, ())}
        if not any(word.lower() in message for word in words):
            pytest.fail(f"{target.name}({argument}={value!r:.60}) does not name it: {error!r}")
    finally:
        assert time.process_time() - started < SECONDS
