"""The same seed gives the same bits: collection, meta-training, adaptation, relabeling."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mier_adapt.integration import algorithm_state
from mier_adapt.workflows.environments import TaskEnvs
from mier_adapt.workflows.evaluation import collect_for_tasks
from mier_adapt.workflows.fine_tuning import fine_tune_by_relabeling
from mier_adapt.workflows.meta_training import MetaTrainer
from mier_adapt.workflows.randomness import forked_global_generators
from mier_adapt.workflows.runs import load_run
from mier_adapt_envs import task_set
from tests.mier_adapt.doubles import assert_same_tree, tiny_config

THREADS = [1, 2, 4]
# One that MuJoCo's own threads step, and one that Python's do.
FAMILIES = ["HalfCheetahNegatedJoints", "AntDir"]


def everything(family: str, num_threads: int) -> Any:
    """A meta-training, and an adaptation with relabeling from its end."""
    config = tiny_config(family, task_set={"AntDir": "ood"}.get(family, "standard"), updates=12)
    config = dataclasses.replace(config, tasks_per_iteration=4)
    tasks = task_set(config.family, config.task_set)
    with TaskEnvs(tasks, num_threads=num_threads) as envs, forked_global_generators(5):
        trainer = MetaTrainer(config, envs, seed=5)
        rows = []
        while not trainer.finished:
            row = trainer.step()
            if row is not None:
                rows.append(row)
        adapted, context, report = fine_tune_by_relabeling(
            trainer.run, envs, tasks.meta_test[0], seed=3, evaluation_episodes=2
        )
    return {
        "trainer": trainer.state(),
        "rows": rows,
        "adapted": algorithm_state(adapted),
        "context": context,
        "report": dataclasses.asdict(report),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_identical_for_1_2_and_4_engine_threads(family: str) -> None:
    results = [everything(family, num_threads) for num_threads in (1, *THREADS)]
    assert results[0]["trainer"]["env_steps"] > 0
    for other in results[1:]:
        assert_same_tree(results[0], other, ignore=["seconds"])


def test_another_seed_gives_other_results(finished_run: Path) -> None:
    # Without this, the test above could compare constants.
    tasks = task_set("HalfCheetahNegatedJoints")
    with TaskEnvs(tasks) as envs:
        run = load_run(finished_run, envs)
        contexts = [
            fine_tune_by_relabeling(run, envs, tasks[11], seed=seed, evaluation_episodes=1)[1]
            for seed in (1, 2)
        ]
    assert not torch.equal(*contexts)


@pytest.mark.parametrize("num_threads", THREADS)
def test_collection_is_a_function_of_its_generators(num_threads: int, finished_run: Path) -> None:
    tasks = task_set("HalfCheetahNegatedJoints")

    def collect(threads: int) -> Any:
        with TaskEnvs(tasks, num_threads=threads) as envs, forked_global_generators(0):
            run = load_run(finished_run, envs)
            torch.manual_seed(1)
            rollouts = collect_for_tasks(
                run,
                envs,
                tasks.meta_train[:3],
                np.zeros((3, 3), dtype=np.float32),
                steps=40,
                generator=np.random.default_rng(2),
            )
        return [dataclasses.asdict(rollout.transitions) for rollout in rollouts]

    assert_same_tree(collect(1), collect(num_threads))
