import dataclasses
import shutil

import numpy as np
import pytest
import torch

from mier_adapt.workflows.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.workflows.evaluation import collect_for_tasks, evaluate_tasks
from mier_adapt.workflows.randomness import global_generator_state, seed_global_generators
from mier_adapt.workflows.runs import load_run, read_run_file

from ..doubles import assert_same_tree, tiny_config
from .conftest import CHECKPOINT


@pytest.fixture
def run(negated_joints_run, negated_joints_envs):
    return load_run(negated_joints_run, negated_joints_envs)


def plain(evaluations) -> list[dict]:
    return [
        {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name in ("context", "returns_initial", "returns_adapted", "loss_initial")
            for value in [getattr(each, name)]
        }
        for each in evaluations
    ]


def test_evaluation_is_fixed_by_its_seed_and_leaves_global_generators(run, negated_joints_envs):
    tasks = negated_joints_envs.task_set.meta_test[:2]
    before = global_generator_state()
    first = plain(evaluate_tasks(run, negated_joints_envs, tasks, seed=3))
    assert_same_tree(global_generator_state(), before)
    seed_global_generators(12345)
    assert_same_tree(plain(evaluate_tasks(run, negated_joints_envs, tasks, seed=3)), first)
    other = plain(evaluate_tasks(run, negated_joints_envs, tasks, seed=4))
    assert not torch.equal(other[0]["returns_initial"], first[0]["returns_initial"])


def test_evaluation_changes_nothing_in_the_run(run, negated_joints_envs, negated_joints_run):
    evaluate_tasks(run, negated_joints_envs, negated_joints_envs.task_set.meta_test[:2], seed=0)
    again = load_run(negated_joints_run, negated_joints_envs)
    assert_same_tree(run.state(), again.state())
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_an_evaluation_tells_each_task_apart(run, negated_joints_envs):
    tasks = negated_joints_envs.task_set.meta_train[:3]
    evaluations = evaluate_tasks(run, negated_joints_envs, tasks, seed=0, episodes=2)
    assert [each.task for each in evaluations] == list(tasks)
    for each in evaluations:
        assert each.context.shape == (3,)
        assert each.returns_initial.shape == each.returns_adapted.shape == (2,)
    alone = evaluate_tasks(run, negated_joints_envs, tasks[1:2], seed=0, context_steps=0)
    assert (alone[0].context == 0).all()
    assert alone[0].loss_initial == alone[0].loss_adapted
    np.testing.assert_array_equal(alone[0].returns_initial, alone[0].returns_adapted)


@pytest.mark.parametrize("steps", [7, 20, 30])
def test_steps_are_rounded_up_to_whole_episodes(run, negated_joints_envs, steps):
    tasks = negated_joints_envs.task_set.meta_train[:2]
    rollouts = collect_for_tasks(
        run,
        negated_joints_envs,
        tasks,
        np.zeros((2, 3), np.float32),
        steps=steps,
        generator=np.random.default_rng(0),
    )
    expected = {7: (1, 7), 20: (1, 20), 30: (2, 20)}[steps]
    assert [rollout.transitions.rew.shape for rollout in rollouts] == [expected] * 2
    assert not np.array_equal(*(rollout.transitions.rew for rollout in rollouts))


def test_evaluating_no_episodes_is_refused(run, negated_joints_envs):
    tasks = negated_joints_envs.task_set.meta_train[:1]
    with pytest.raises(ValueError, match="episodes"):
        evaluate_tasks(run, negated_joints_envs, tasks, seed=0, episodes=0)


# Reading runs -------------------------------------------------------------------------------


def test_a_loaded_run_is_the_checkpoints(run, negated_joints_run):
    tree = load_tree(negated_joints_run / CHECKPOINT)["run"]
    assert_same_tree(dict(run.model.state_dict()), tree["model"])
    for name, value in run.algorithm.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, tree["algorithm"]["algorithm"][name])
    assert len(run.replay) == sum(tree["replay"]["lengths"])
    assert run.config.model == tiny_config().model
    assert read_run_file(negated_joints_run)[0] == tiny_config()


def test_a_run_makes_its_own_environments_if_it_gets_none(negated_joints_run, run):
    alone = load_run(negated_joints_run)
    assert_same_tree(alone.state(), run.state())


def test_what_is_no_run_is_refused(tmp_path, negated_joints_run):
    with pytest.raises(FileNotFoundError, match=r"holds no run.json.*meta-train PRESET --out"):
        load_run(tmp_path)
    shutil.copy(negated_joints_run / "run.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=CHECKPOINT):
        load_run(tmp_path)
    save_tree(tmp_path / CHECKPOINT, {"weights": torch.ones(3)})
    with pytest.raises(CheckpointError, match=CHECKPOINT):
        load_run(tmp_path)


def test_a_run_of_other_tasks_is_refused(tmp_path, negated_joints_run):
    shutil.copytree(negated_joints_run, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    text = path.read_text()
    for damaged, message in (
        (text.replace('"task_set_hash": "', '"task_set_hash": "0'), "other tasks"),
        (text.replace('"context_dim": 3', '"context_dim": 4'), "does not fit"),
    ):
        assert damaged != text
        path.write_text(damaged)
        with pytest.raises(CheckpointError, match=message):
            load_run(tmp_path / "run")


def test_runs_are_built_from_their_configuration(negated_joints_run, negated_joints_envs):
    run = load_run(negated_joints_run, negated_joints_envs)
    config = run.config
    assert run.model.context_dim == run.replay.context_dim == config.model.context_dim == 3
    assert run.model.hidden_sizes == config.model.hidden_sizes
    assert run.replay.num_tasks == 10
    assert run.adapter.lrs[-1] == config.adapt.later_context_lr
    assert run.adapter.steps == config.model.inner_steps
    assert dataclasses.replace(config, replay_per_task=500) == tiny_config()
