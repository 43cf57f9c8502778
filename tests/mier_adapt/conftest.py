"""The whole suite runs with shapes and types checked, warnings as errors, on one thread."""

import os
from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest

from . import typechecking

# Tianshou compiles a few small functions, which takes every process many seconds; interpreted
# they give the same. Before anything imports numba.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# Before anything imports the package: every annotation of shapes and types is checked when the
# function is called.
jaxtyping.install_import_hook("mier_adapt", f"{typechecking.__name__}.check")

import torch  # noqa: E402

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "mier_adapt",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mier_adapt")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without checked annotations, as users run it: what does the library itself refuse?"""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
