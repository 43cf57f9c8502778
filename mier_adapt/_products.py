"""Matrix products by the faster of torch's two kernels, where that is as exact.

Torch takes MKL's, which leave half of the vector units of AMD's processors idle. oneDNN's, which it
brings as well, use all of them, but torch asks for these only where products may be rounded to
bfloat16. Processors without fast units for that, AMD's among them, then round nothing; whether this
one does is tried once.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_blocks: list[Any] = []
"""What torch was set to before each block that is under way, in any thread."""


@contextmanager
def quick_products() -> Iterator[None]:
    """A block, or by ``@quick_products()`` a function, whose products of float32 take less time.

    The setting is the process's own. It stands until the last of blocks side by side has ended, so
    that none changes another's last bits.
    """
    if not _as_exact():
        yield
        return
    with _lock:
        _blocks.append(_settings().fp32_precision)
        _settings().fp32_precision = "bf16"
    try:
        yield
    finally:
        with _lock:
            before = _blocks.pop()  # the last one left is the first that came
            if not _blocks:
                _settings().fp32_precision = before


def _settings() -> Any:
    return getattr(torch.backends.mkldnn, "matmul", None)  # None before torch 2.9


@functools.cache
def _as_exact() -> bool:
    """Whether oneDNN, when it may round, does not."""
    if _settings() is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    before = _settings().fp32_precision
    errors: dict[str, float] = dict.fromkeys(("ieee", "bf16"), 0.0)
    try:
        for rows, inner, columns in ((64, 200, 200), (320, 36, 256), (1, 256, 256)):
            left = torch.randn(rows, inner, generator=generator)
            right = torch.randn(inner, columns, generator=generator)
            exact = left.double() @ right.double()
            for precision in errors:
                _settings().fp32_precision = precision
                worst = float((left @ right - exact).abs().max())
                errors[precision] = max(errors[precision], worst)
    finally:
        _settings().fp32_precision = before
    # bfloat16 has 8 bits where float32 has 24: its errors are hundreds of times as large.
    return errors["bf16"] <= 8 * errors["ieee"]
