"""The whole suite runs with shapes and types checked, warnings as errors, on one thread.

Benchmarks alone, ``pytest -m benchmark``, run as users do. This file lies at the root so that it is
read before anything imports the packages, for doctests as well.
"""

import argparse
import os

import hypothesis
import torch

import tests.typechecking

# Here and not in a hook: pytest imports the conftest.py of a folder it is given, and with it the
# packages, before it calls any.
_arguments = argparse.ArgumentParser(add_help=False, exit_on_error=False)
_arguments.add_argument("-m")
if _arguments.parse_known_args()[0].m != "benchmark":
    # Tianshou compiles a few small functions, which takes every process many seconds; interpreted
    # they give the same. Before anything imports numba.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    # Annotations of shapes and types are checked when functions are called.
    tests.typechecking.install("mier_adapt")
    torch.set_num_threads(1)


hypothesis.settings.register_profile(
    "mier_adapt",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mier_adapt")


def pytest_runtest_setup() -> None:
    """Before the fixtures of every test."""
    tests.typechecking.begin_test()
