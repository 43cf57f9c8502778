"""The whole suite runs with shapes and types checked, warnings as errors, on one thread.

Benchmarks alone, ``pytest -m benchmark``, run as users do. This file lies at the root so that it is
read before anything imports the packages, for doctests as well.
"""

import os

import hypothesis
import jaxtyping
import pytest
import torch

import tests.typechecking


def pytest_configure(config: pytest.Config) -> None:
    """Set the process up for tests, before they are collected."""
    if config.option.markexpr == "benchmark":
        return
    # Tianshou compiles a few small functions, which takes every process many seconds; interpreted
    # they give the same. Before anything imports numba.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    # Every annotation of shapes and types is checked when its function is called.
    jaxtyping.install_import_hook("mier_adapt", f"{tests.typechecking.__name__}.check")
    torch.set_num_threads(1)


hypothesis.settings.register_profile(
    "mier_adapt",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mier_adapt")
