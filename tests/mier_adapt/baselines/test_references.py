import dataclasses

import numpy as np
import pytest
import torch

from mier_adapt.agents import FamilyEnvs, evaluate
from mier_adapt.baselines import Random, RandomConfig, Sac, SacConfig
from mier_adapt.baselines.references import RandomActor, SacTrainer
from mier_adapt.protocols import Actor, MetaPolicy, Method
from mier_adapt.training.metrics import read_metrics

from .lever import (
    BLIND_RETURN,
    EPISODE,
    NEW_PLACES,
    PLACES,
    LeverVectorEnv,
    resumed_as_whole,
)

NEW = len(PLACES)
"""Index of the first meta-test task."""

pytestmark = pytest.mark.usefixtures("lever")


def lever_config(**changes) -> SacConfig:
    values = {
        "family": "Lever",
        "updates": 300,
        "updates_per_iteration": 20,
        "episodes_per_iteration": 12,
        "episode_steps": EPISODE,
        "hidden_sizes": (32,),
        "batch_size": 60,
        "lr": 1e-2,
        "gamma": 0.1,
        "replay_size": 6_000,
        "evaluate_every": 100,
    }
    return SacConfig(**{**values, **changes})


def trained(config: SacConfig) -> SacTrainer:
    with FamilyEnvs(config.tasks) as envs:
        trainer = SacTrainer(config, envs, seed=0)
        while not trainer.finished:
            trainer.step()
    return trainer


def returns(policy, tasks, which) -> list[float]:
    with FamilyEnvs(tasks) as envs:
        evaluations = evaluate(
            policy, envs, which, seed=1, adaptation_steps=EPISODE, episode_steps=EPISODE
        )
    for each in evaluations:
        np.testing.assert_array_equal(each.returns_initial, each.returns_adapted)
    return [float(each.returns_adapted.mean()) for each in evaluations]


# SAC ----------------------------------------------------------------------------------------


def test_on_one_task_it_is_that_tasks_oracle(lever):
    trainer = trained(lever_config(task=NEW))
    assert LeverVectorEnv.seen == {lever.meta_test[0]}
    there, elsewhere = returns(trainer.policy, lever, [lever.meta_test[0], lever.meta_test[3]])
    assert there > EPISODE - 0.2
    assert elsewhere == pytest.approx(EPISODE * (1 - (NEW_PLACES[3] - NEW_PLACES[0]) ** 2), abs=0.8)


def test_on_all_tasks_it_does_as_well_as_one_can_without_a_context(lever):
    trainer = trained(lever_config())
    assert LeverVectorEnv.seen == set(lever.meta_train)
    blind = np.mean(returns(trainer.policy, lever, lever.meta_test))
    assert BLIND_RETURN - 0.6 < blind < BLIND_RETURN + 0.1
    assert trainer.env_steps == EPISODE * (6 * 2 + 15 * 12)


def test_a_run_of_one_task_is_of_another_run_than_that_of_all(tmp_path):
    config = lever_config(updates=2, task=NEW)
    assert config.tasks.meta_train == (SacConfig(family="Lever").tasks[NEW],)
    assert not config.tasks.meta_test
    assert Sac(config=config).meta_train(tmp_path, seed=0)
    with pytest.raises(ValueError, match=r"another run: task, task_set_hash differ"):
        Sac(config=dataclasses.replace(config, task=None)).meta_train(tmp_path, seed=0)


def test_a_sac_that_was_stopped_ends_as_if_it_had_not(lever, tmp_path):
    method = Sac(config=lever_config(updates=8, updates_per_iteration=2, evaluate_every=1))
    assert isinstance(method, Method)
    state = resumed_as_whole(method, tmp_path)
    assert set(state["optimizers"]) == {"actor", "critic", "critic2", "temperature"}
    policy = method.load(tmp_path / "parts")
    assert isinstance(policy, MetaPolicy)
    assert returns(policy, lever, lever.meta_test) == returns(
        method.load(tmp_path / "whole"), lever, lever.meta_test
    )


def test_a_task_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"SacConfig expected task from 0 to 9, got 10\..*Lever"):
        lever_config(task=10)
    with pytest.raises(ValueError, match="SacConfig expected task"):
        lever_config(task=-1)


# Chance -------------------------------------------------------------------------------------


def test_chance_is_uniform():
    torch.manual_seed(0)
    actor = RandomActor(2)
    assert isinstance(actor, Actor)
    drawn = actor.act(np.zeros((20_000, 3)), explore=False)
    assert drawn.shape == (20_000, 2)
    assert (np.abs(drawn) <= 1).all()
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(drawn.var(0), 1 / 3, atol=0.01)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03


def test_curves_can_be_of_the_tasks_that_are_kept_for_evaluation(lever, tmp_path):
    config = RandomConfig(family="Lever", episode_steps=EPISODE, evaluated_split="meta_test")
    assert Random(config=config).meta_train(tmp_path, seed=0)
    (row,) = read_metrics(tmp_path)
    assert row["split"] == "meta_test"
    assert LeverVectorEnv.seen == set(lever.meta_test)


def test_chance_leaves_a_run_that_can_be_evaluated(lever, tmp_path):
    method = Random(config=RandomConfig(family="Lever", episode_steps=EPISODE))
    assert isinstance(method, Method)
    assert method.meta_train(tmp_path, seed=0)
    (row,) = read_metrics(tmp_path)
    assert (row["updates"], row["env_steps"]) == (1, 0)
    assert len(row["returns_adapted"]) == len(PLACES)
    assert LeverVectorEnv.seen == set(lever.meta_train)
    policy = method.load(tmp_path)
    expected = EPISODE * (1 - 1 / 3 - np.mean(np.square(NEW_PLACES)))
    with FamilyEnvs(lever) as envs:
        evaluations = evaluate(
            policy,
            envs,
            lever.meta_test,
            seed=1,
            adaptation_steps=EPISODE,
            episodes=200,
            episode_steps=EPISODE,
        )
    found = np.mean([each.returns_adapted.mean() for each in evaluations])
    assert found == pytest.approx(expected, abs=0.15)
