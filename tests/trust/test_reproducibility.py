"""The same seed gives the same bits: collection, meta-training, adaptation, relabeling."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mier_adapt._storage.randomness import forked_global_generators
from mier_adapt.adaptation import adapt
from mier_adapt.agents import FamilyEnvs, load_run
from mier_adapt.agents.rollouts import collect_episodes
from mier_adapt.integration import algorithm_state
from mier_adapt.training.meta_training import MetaTrainer
from mier_adapt_envs import task_set
from tests.mier_adapt.doubles import TINY_ADAPT, assert_same_tree, tiny_config

THREADS = [1, 2, 4]
# One that MuJoCo's own threads step, and one that Python's do.
FAMILIES = ["HalfCheetahNegatedJoints", "AntDir"]


def everything(family: str, num_threads: int) -> Any:
    """A meta-training, and an adaptation with relabeling from its end."""
    config = tiny_config(family, task_set={"AntDir": "ood"}.get(family, "standard"), updates=12)
    config = dataclasses.replace(config, tasks_per_iteration=4)
    tasks = config.tasks
    with FamilyEnvs(tasks, num_threads=num_threads) as envs, forked_global_generators(5):
        trainer = MetaTrainer(config, envs, seed=5, adapt_config=TINY_ADAPT)
        rows = []
        while not trainer.finished:
            row = trainer.step()
            if row is not None:
                rows.append(row)
        new_task = trainer.run.new_task(envs, tasks.meta_test[0])
        adaptation = adapt(trainer.run, new_task, TINY_ADAPT, seed=3, evaluation_episodes=2)
    return {
        "trainer": trainer.state(),
        "rows": rows,
        "adapted": algorithm_state(adaptation.algorithm),
        "context": adaptation.context,
        "report": dataclasses.asdict(adaptation.report),
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
    with FamilyEnvs(tasks) as envs:
        run = load_run(finished_run, envs)
        task = run.new_task(envs, tasks[11])
        contexts = [
            adapt(run, task, run.adapt_config, seed=seed, evaluation_episodes=1).context
            for seed in (1, 2)
        ]
    assert not torch.equal(*contexts)


@pytest.mark.parametrize("num_threads", THREADS)
def test_collection_is_a_function_of_its_generators(num_threads: int, finished_run: Path) -> None:
    tasks = task_set("HalfCheetahNegatedJoints")

    def collect(threads: int) -> Any:
        with FamilyEnvs(tasks, num_threads=threads) as envs, forked_global_generators(0):
            run = load_run(finished_run, envs)
            torch.manual_seed(1)
            rollouts = collect_episodes(
                envs.of_size,
                tasks.meta_train[:3],
                run.actor(torch.zeros(3, 3)),
                steps=40,
                episode_steps=20,
                generator=np.random.default_rng(2),
            )
        return [dataclasses.asdict(rollout.transitions) for rollout in rollouts]

    assert_same_tree(collect(1), collect(num_threads))
