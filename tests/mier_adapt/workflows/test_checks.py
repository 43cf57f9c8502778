"""The suite's own set-up, in a folder whose conftest.py imports the packages."""

import os
import subprocess
import sys

import jaxtyping
import numba
import pytest
import torch

from mier_adapt.context_adapter import adapt_context

from ..doubles import REPOSITORY


def test_annotations_are_checked_and_functions_interpreted():
    with pytest.raises(jaxtyping.TypeCheckError, match="context"):
        adapt_context(torch.sum, torch.zeros(2, dtype=torch.long), lrs=(0.1,))
    assert numba.config.DISABLE_JIT


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
