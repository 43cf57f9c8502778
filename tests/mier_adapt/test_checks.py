"""The checks at the boundary; and the suite's own, where a conftest.py imports the packages."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import jaxtyping
import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mier_adapt._checks import (
    Count,
    Device,
    NonNegative,
    Number,
    Positive,
    PositiveShare,
    Range,
    Seed,
    Share,
    Size,
    checked,
    checked_fields,
    shown,
)
from mier_adapt._typing import Float, Tensor
from mier_adapt.context_adapter import adapt_context

from .doubles import REPOSITORY


def test_annotations_are_checked_and_functions_interpreted():
    with pytest.raises(jaxtyping.TypeCheckError, match="context"):
        adapt_context(torch.sum, torch.zeros(2, dtype=torch.long), lrs=(0.1,))
    assert numba.config.DISABLE_JIT


@pytest.mark.slow
def test_they_are_in_a_file_that_runs_alone():
    name = test_annotations_are_checked_and_functions_interpreted.__name__
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"{__file__}::{name}"],
        cwd=REPOSITORY,
        env={key: value for key, value in os.environ.items() if key != "NUMBA_DISABLE_JIT"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


# A table of annotations, values that fit, and others with what is said of them ----------------


class Named(Protocol):
    """Two members."""

    name: str

    def call(self) -> None: ...


class Both:
    name = "both"

    def __repr__(self) -> str:  # without an address, by which processes would differ
        return f"{type(self).__name__}()"

    def call(self) -> None: ...


class Twice(Both):
    """A subclass."""


class Neither:
    def __repr__(self) -> str:
        return "Neither()"


NAN, INF = float("nan"), float("inf")
WHOLE = 10**400

TABLE: list[tuple[Any, list[Any], list[tuple[Any, type[Exception], str]]]] = [
    (
        Size,
        [1, 7, np.int64(3), np.uint8(2), 2**31 - 1],
        [
            (0, ValueError, "x >= 1, got 0."),
            (-3, ValueError, "x >= 1, got -3."),
            (2.0, ValueError, "x >= 1 and whole, got 2.0."),
            (True, ValueError, "x >= 1 and whole, got True."),
            (None, ValueError, "x >= 1 and whole, got None."),
            ("1", ValueError, "x >= 1 and whole, got '1'."),
            (torch.tensor(1), ValueError, "x >= 1 and whole, got tensor(1)."),
            (2**31, ValueError, "x >= 1, got 2147483648."),
            (WHOLE, ValueError, "x >= 1, got 1000"),
            (NAN, ValueError, "x >= 1 and whole, got nan."),
        ],
    ),
    (
        Count,
        [0, 5],
        [
            (-1, ValueError, "x >= 0, got -1."),
            (0.0, ValueError, "x >= 0 and whole, got 0.0."),
            (False, ValueError, "x >= 0 and whole, got False."),
        ],
    ),
    (Seed, [0, 2**63 - 1], [(-1, ValueError, "x >= 0, got -1."), (2**63, ValueError, "x >= 0, ")]),
    (
        Number,
        [-1e30, 0, 2.5, np.float32(1.5)],
        [
            (NAN, ValueError, "x to be a finite number, got nan."),
            (-INF, ValueError, "x to be a finite number, got -inf."),
            (WHOLE, ValueError, "x to be a finite number, got 1000"),
            (1j, ValueError, "x to be a finite number, got 1j."),
            (True, ValueError, "x to be a finite number, got True."),
        ],
    ),
    (
        Positive,
        [1e-300, 3],
        [(0.0, ValueError, "x > 0, got 0.0."), (INF, ValueError, "x > 0, got inf.")],
    ),
    (NonNegative, [0, 0.5], [(-0.5, ValueError, "x >= 0, got -0.5.")]),
    (
        Share,
        [0, 0.5, 1.0],
        [
            (-0.1, ValueError, "x >= 0 and <= 1, got -0.1."),
            (1.1, ValueError, "x >= 0 and <= 1, got 1.1."),
            (NAN, ValueError, "x >= 0 and <= 1, got nan."),
        ],
    ),
    (PositiveShare, [0.01, 1], [(0.0, ValueError, "x > 0 and <= 1, got 0.0.")]),
    (
        Annotated[float, Range(least=-2, most=3)],
        [-2, 3],
        [(-2.5, ValueError, "x >= -2 and <= 3, got -2.5.")],
    ),
    (int, [-5, 0], [(0.5, ValueError, "x to be a finite number and whole, got 0.5.")]),
    (float, [-5, 0.5], [("a", ValueError, "x to be a finite number, got 'a'.")]),
    (
        Device,
        ["cpu", torch.device("cpu")],
        [
            ("gpu", ValueError, "x to be one of this machine's, got 'gpu'."),
            (None, ValueError, "x to be one of this machine's, got None."),
            ("cuda:99", ValueError, "x to be one of this machine's, got 'cuda:99'."),
        ],
    ),
    (
        Literal["one", "two"],
        ["one", "two"],
        [
            ("three", ValueError, "x in ['one', 'two'], got 'three'."),
            (["one"], ValueError, "x in ['one', 'two'], got ['one']."),
            (None, ValueError, "x in ['one', 'two'], got None."),
        ],
    ),
    (str, ["", "a"], [(b"a", TypeError, "x to be of type str, got b'a' of type bytes.")]),
    (bool, [True], [(1, TypeError, "x to be of type bool, got 1 of type int.")]),
    (
        Path | None,
        [None, Path()],
        [("a", TypeError, "x to be of type Path or None, got 'a' of type str.")],
    ),
    (
        Size | None,
        [None, 3],
        [
            (0, ValueError, "x >= 1, got 0."),
            ("3", TypeError, "x to be of type Real or None, got '3' of type str."),
        ],
    ),
    (
        Positive | Sequence[Positive],
        [0.5, (0.5, 1), [2]],
        [
            (0.0, ValueError, "x > 0, got 0.0."),
            ((0.5, -1.0), ValueError, "x[1] > 0, got -1.0."),
            ([0.5, "1"], ValueError, "x[1] > 0, got '1'."),
            (None, TypeError, "x to be of type Real or Sequence, got None of type NoneType."),
        ],
    ),
    (
        Sequence[Size],
        [(), (1, 2), [3]],
        [
            ((1, 0), ValueError, "x[1] >= 1, got 0."),
            (3, TypeError, "x to be of type Sequence, got 3 of type int."),
            ("12", TypeError, "x to be of type Sequence, got '12' of type str."),
            (iter([1]), TypeError, "x to be of type Sequence, got <list_iterator"),
        ],
    ),
    (
        tuple[Size, ...],
        [(), (1, 2)],
        [
            ((1, 0), ValueError, "x[1] >= 1, got 0."),
            ([1], TypeError, "x to be of type tuple, got [1] of type list."),
        ],
    ),
    (
        Sequence[Both],
        [[Both()]],
        [([Both(), 1], TypeError, "x[1] to be of type Both, got 1 of type int.")],
    ),
    (
        Named,
        [Both()],
        [
            (
                Neither(),
                TypeError,
                "x to be a Named, got Neither() of type Neither, which has no call, name.",
            ),
            (None, TypeError, "x to be a Named, got None of type NoneType, which has no call, "),
        ],
    ),
    (
        Callable[[int], int],
        [len, lambda: None, Both],
        [(3, TypeError, "x to be of type Callable, got 3 of type int.")],
    ),
    (
        Callable[[int], int] | None,
        [None, len],
        [("len", TypeError, "x to be of type Callable or None, got 'len' of type str.")],
    ),
    (
        type[Both],
        [Both, Twice],
        [
            (Both(), TypeError, "x to be a type["),
            (int, TypeError, "x to be a type["),
        ],
    ),
    (
        dict[str, Any],
        [{}, {"a": 1}],
        [([], TypeError, "x to be of type dict, got [] of type list.")],
    ),
    (
        Float[Tensor, " C"],
        [torch.zeros(3)],
        [([0.0], TypeError, "x to be of type Tensor, got [0.0] of type list.")],
    ),
    (
        NDArray[np.bool_] | None,
        [None, np.zeros(2, bool)],
        [([True], TypeError, "x to be of type ndarray or None, got [True] of type list.")],
    ),
    (Any, [None, 3, Neither()], []),
]

FITTING = [(hint, value) for hint, values, _ in TABLE for value in values]
REFUSED = [(hint, *one) for hint, _, bad in TABLE for one in bad]


def holder(hint: Any) -> Callable[..., Any]:
    def held(x, *more, **others):
        return x

    held.__annotations__ = {"x": hint, "more": int, "others": int}
    return checked(held)


@pytest.mark.parametrize(("hint", "value"), FITTING, ids=range(len(FITTING)))
def test_what_fits_its_annotation_passes_as_it_is(hint, value):
    for passed in (holder(hint)(value), holder(hint)(x=value)):
        assert passed is value or (isinstance(value, np.generic) and passed == value)


WHOLE_KINDS = [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64]
REAL_KINDS = [np.float16, np.float32, np.float64, np.longdouble]


@pytest.mark.parametrize(
    ("hint", "kinds", "plain"),
    [
        *((hint, WHOLE_KINDS, int) for hint in (Count, Size, Seed, int, Size | None)),
        *((hint, REAL_KINDS, float) for hint in (Number, Positive, Share, float, Positive | None)),
        (Positive | Sequence[Positive], REAL_KINDS, float),
    ],
)
def test_numpys_scalars_are_pythons_behind_the_boundary(hint, kinds, plain):
    for kind in kinds:
        passed = holder(hint)(kind(1))
        assert type(passed) is plain
        assert passed == 1


def test_numpys_scalars_within_sequences_and_fields_are_pythons():
    sizes = [np.int64(3), 4]
    passed = holder(Sequence[Size])(sizes)
    assert [type(each) for each in passed] == [int, int]
    assert passed == [3, 4]
    assert type(sizes[0]) is np.int64  # the caller's own stays
    assert holder(Sequence[Size])(range(1, 3)) == range(1, 3)
    config = Config(sizes=(np.uint8(200), np.int64(2)), share=np.float32(0.5))
    assert json.dumps(asdict(config), default=repr).startswith('{"sizes": [200, 2], "share": 0.5')
    assert 2 * config.sizes[0] == 400  # and not 144


@pytest.mark.parametrize("value", [np.float64(3), np.bool_(True), np.complex128(3), np.array(3)])
def test_what_is_not_whole_is_none_in_numpy_either(value):
    with pytest.raises(ValueError, match="x >= 1 and whole, got"):
        holder(Size)(value)


@pytest.mark.parametrize(("hint", "value", "error", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_is_refused_by_name(hint, value, error, message):
    for call in (lambda function: function(value), lambda function: function(x=value)):
        with pytest.raises(error) as caught:
            call(holder(hint))
        text = str(caught.value)
        assert text.startswith(f"holder.<locals>.held expected {message}")
        assert len(text) < 220


def test_defaults_and_what_has_no_annotation_are_not_looked_at():
    @checked
    def taken(x: Size = 0, y=None, *more: Size, key: Size = -1, **others: Size):
        return x, y, more, key, others

    assert taken() == (0, None, (), -1, {})
    assert taken(1, "y", -1, other="a") == (1, "y", (-1,), -1, {"other": "a"})
    with pytest.raises(ValueError, match="key >= 1, got 0"):
        taken(key=0)
    with pytest.raises(TypeError, match="multiple values"):
        taken(1, x=1)


def test_a_constructor_speaks_in_its_classs_name():
    class Owner:
        @checked
        def __init__(self, size: Size) -> None:
            self.size = size

        @checked
        def method(self, size: Size) -> None:
            """Kept."""

    assert Owner(3).size == 3
    assert Owner.method.__doc__ == "Kept."
    name = re.escape(Owner.__qualname__)
    with pytest.raises(ValueError, match=rf"^{name} expected size >= 1, got 0\.$"):
        Owner(0)
    with pytest.raises(ValueError, match=rf"^{name}\.method expected size >= 1, got 0\.$"):
        Owner(1).method(0)


@dataclass(frozen=True, kw_only=True)
class Config:
    sizes: tuple[Size, ...] = (1,)
    share: Share = 0.5
    named: Named = Both()  # noqa: RUF009

    def __post_init__(self) -> None:
        checked_fields(self)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sizes": (1, 0)}, ValueError, r"Config expected sizes\[1\] >= 1, got 0\."),
        ({"share": 2}, ValueError, r"Config expected share >= 0 and <= 1, got 2\."),
        ({"named": 3}, TypeError, "Config expected named to be a Named, got 3 .* no call, name"),
    ],
)
def test_a_dataclass_holds_its_fields_to_their_annotations(change, error, message):
    Config()
    with pytest.raises(error, match=f"^{message}"):
        Config(**change)


def test_long_values_are_cut_short():
    assert shown("a") == "'a'"
    assert len(shown("a" * 100)) == 80
    assert shown("a" * 100).endswith("aaa...")
