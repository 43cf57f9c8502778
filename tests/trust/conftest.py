"""These tests look at what users meet: without checked annotations, on one thread."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch

from mier_adapt.training import meta_train
from tests.mier_adapt.doubles import TINY_ADAPT, tiny_config

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "trust",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Without the annotations that the component tests' conftest has checked at run time."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny run, meta-trained to its end with seed 1. Do not write to it."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert meta_train(tiny_config(), directory, adapt_config=TINY_ADAPT, seed=1)
    return directory
