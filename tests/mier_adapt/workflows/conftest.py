from collections.abc import Iterator
from pathlib import Path

import pytest

import mier_adapt_envs
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.meta_training import meta_train

from ..doubles import tiny_config

CHECKPOINT = "checkpoint.safetensors"


def _train(directory: Path, family: str) -> Path:
    assert meta_train(tiny_config(family), directory, seed=1)
    return directory


@pytest.fixture(scope="session")
def negated_joints_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run where rewards and dynamics vary. Do not write into it."""
    return _train(tmp_path_factory.mktemp("negated") / "run", "HalfCheetahNegatedJoints")


@pytest.fixture(scope="session")
def velocity_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run where only rewards vary. Do not write into it."""
    return _train(tmp_path_factory.mktemp("velocity") / "run", "HalfCheetahVel")


@pytest.fixture(scope="session")
def negated_joints_envs() -> Iterator[TaskEnvs]:
    with TaskEnvs(mier_adapt_envs.task_set("HalfCheetahNegatedJoints"), num_threads=1) as envs:
        yield envs


@pytest.fixture(scope="session")
def velocity_envs() -> Iterator[TaskEnvs]:
    with TaskEnvs(mier_adapt_envs.task_set("HalfCheetahVel"), num_threads=1) as envs:
        yield envs
