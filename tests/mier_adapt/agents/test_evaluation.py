import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from mier_adapt import Transitions
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt._storage.randomness import global_generator_state, seed_global_generators
from mier_adapt.agents import evaluate, load_run
from mier_adapt.agents.evaluation import evaluation_record
from mier_adapt.agents.rollouts import collect_episodes
from mier_adapt.agents.run_file import read_run_file
from mier_adapt.gates import MarginGate
from mier_adapt.protocols import Actor, MetaPolicy

from ..conftest import CHECKPOINT
from ..doubles import TINY_ADAPT, assert_same_tree, tiny_config

HOW = {"adaptation_steps": 40, "episode_steps": 20}


@pytest.fixture
def run(negated_joints_run, negated_joints_envs):
    return load_run(negated_joints_run, negated_joints_envs)


def plain(evaluations) -> list[dict]:
    return [
        {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name in ("returns_initial", "returns_adapted", "loss_initial", "loss_adapted")
            for value in [getattr(each, name)]
        }
        for each in evaluations
    ]


def test_evaluation_is_fixed_by_its_seed_and_leaves_global_generators(run, negated_joints_envs):
    tasks = negated_joints_envs.task_set.meta_test[:2]
    before = global_generator_state()
    first = plain(evaluate(run, negated_joints_envs, tasks, seed=3, **HOW))
    assert_same_tree(global_generator_state(), before)
    seed_global_generators(12345)
    assert_same_tree(plain(evaluate(run, negated_joints_envs, tasks, seed=3, **HOW)), first)
    other = plain(evaluate(run, negated_joints_envs, tasks, seed=4, **HOW))
    assert not torch.equal(other[0]["returns_initial"], first[0]["returns_initial"])


def test_evaluation_changes_nothing_in_the_run(run, negated_joints_envs, negated_joints_run):
    tasks = negated_joints_envs.task_set.meta_test[:2]
    evaluate(run, negated_joints_envs, tasks, seed=0, **HOW)
    again = load_run(negated_joints_run, negated_joints_envs)
    assert_same_tree(run.state(), again.state())
    assert all(parameter.grad is None for parameter in run.context_model.parameters())


def test_an_evaluation_tells_each_task_apart(run, negated_joints_envs):
    tasks = negated_joints_envs.task_set.meta_train[:3]
    evaluations = evaluate(run, negated_joints_envs, tasks, seed=0, episodes=2, **HOW)
    assert [each.task for each in evaluations] == list(tasks)
    assert len({each.loss_adapted for each in evaluations}) == 3
    for each in evaluations:
        assert each.returns_initial.shape == each.returns_adapted.shape == (2,)
        assert each.loss_initial != each.loss_adapted
        assert each.loss_others is not None
        assert each.loss_others != each.loss_adapted
    (alone,) = evaluate(
        run.with_context_steps(0), negated_joints_envs, tasks[1:2], seed=0, episodes=2, **HOW
    )
    assert alone.loss_initial == alone.loss_adapted
    assert alone.loss_others is None
    np.testing.assert_array_equal(alone.returns_initial, alone.returns_adapted)


@pytest.mark.parametrize("steps", [7, 20, 30])
def test_steps_are_rounded_up_to_whole_episodes(run, negated_joints_envs, steps):
    tasks = negated_joints_envs.task_set.meta_train[:2]
    rollouts = collect_episodes(
        negated_joints_envs.of_size,
        tasks,
        run.initial_actor(2),
        steps=steps,
        episode_steps=20,
        generator=np.random.default_rng(0),
    )
    expected = {7: (1, 7), 20: (1, 20), 30: (2, 20)}[steps]
    assert [rollout.transitions.rew.shape for rollout in rollouts] == [expected] * 2
    assert not np.array_equal(*(rollout.transitions.rew for rollout in rollouts))


@pytest.mark.parametrize("name", ["episodes", "adaptation_steps", "episode_steps"])
def test_evaluating_nothing_is_refused(run, negated_joints_envs, name):
    tasks = negated_joints_envs.task_set.meta_train[:1]
    with pytest.raises(ValueError, match=f"evaluate expected {name} >= 1, got 0"):
        evaluate(run, negated_joints_envs, tasks, seed=0, **{**HOW, name: 0})


def test_tasks_of_another_family_are_refused(run, negated_joints_envs, velocity_envs):
    for tasks in ([], velocity_envs.task_set.meta_test[:1]):
        with pytest.raises(ValueError, match="one or more tasks of HalfCheetahNegatedJoints, got"):
            evaluate(run, negated_joints_envs, tasks, seed=0, **HOW)


# Anything that acts and adapts --------------------------------------------------------------


class LinearActor:
    """Acts by a fixed linear rule, stronger or weaker for each task."""

    def __init__(self, strengths_T) -> None:
        self.strengths_T = np.asarray(strengths_T, dtype=np.float32)

    def act(self, obs, *, explore: bool):
        each = len(obs) // len(self.strengths_T)
        rule = np.random.default_rng(0).normal(size=(obs.shape[-1], 6)).astype(np.float32)
        strengths = self.strengths_T.repeat(each)[:, None]
        return np.tanh(strengths * (obs.astype(np.float32) @ rule))


class Tuner:
    """Stands still until it knows a task; then acts as strongly as the task's first reward."""

    def __init__(self) -> None:
        self.given: list[Transitions] = []

    def initial_actor(self, num_tasks: int) -> Actor:
        return LinearActor(np.zeros(num_tasks))

    def adapt(self, transitions: Transitions) -> Actor:
        self.given.append(transitions)
        return LinearActor(1 + transitions.rew[:, 0].abs().numpy())


def test_any_meta_policy_is_evaluated(negated_joints_envs):
    policy = Tuner()
    assert isinstance(policy, MetaPolicy)
    tasks = negated_joints_envs.task_set.meta_test[:3]
    evaluations = evaluate(policy, negated_joints_envs, tasks, seed=0, episodes=2, **HOW)
    (given,) = policy.given
    assert given.rew.shape == (3, 40)
    assert not given.act.any()
    for each in evaluations:
        assert (each.loss_initial, each.loss_adapted, each.loss_others) == (None, None, None)
        assert each.returns_initial.shape == (2,)
        assert (each.returns_initial != each.returns_adapted).all()
    still = collect_episodes(
        negated_joints_envs.of_size,
        tasks,
        policy.initial_actor(3),
        steps=40,
        episode_steps=20,
        generator=np.random.default_rng(1),
        explore=False,
    )
    for each, rollout in zip(evaluations, still, strict=True):
        np.testing.assert_array_equal(each.returns_initial, rollout.first_returns)


def test_a_record_of_a_policy_without_a_model_goes_through_json(negated_joints_envs):
    splits = {"test": negated_joints_envs.task_set.meta_test[:2]}
    record = evaluation_record(Tuner(), negated_joints_envs, splits, seeds=2, episodes=1, **HOW)
    (first, _) = json.loads(json.dumps(record))["splits"]["test"]
    assert first["loss_initial"] == first["loss_adapted"] == [None, None]
    assert len(first["return_adapted"]) == 2
    assert record["identified"] == {"test": None}
    mean = np.mean([row["return_adapted"] for row in record["splits"]["test"]])
    assert record["summary"]["test"]["adapted"]["mean"] == pytest.approx(mean)


def test_what_cannot_adapt_is_refused(negated_joints_envs):
    tasks = negated_joints_envs.task_set.meta_test[:1]
    with pytest.raises(TypeError, match=r"to be a MetaPolicy, got .* has no adapt, initial_actor"):
        evaluate(LinearActor([0.0]), negated_joints_envs, tasks, seed=0, **HOW)


# Reading runs -------------------------------------------------------------------------------


def test_a_loaded_run_is_the_checkpoints(run, negated_joints_run):
    tree = load_tree(negated_joints_run / CHECKPOINT)["run"]
    assert_same_tree(dict(run.context_model.state_dict()), tree["model"])
    for name, value in run.algorithm.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, tree["algorithm"]["algorithm"][name])
    assert len(run.replay) == sum(tree["replay"]["lengths"])
    assert run.config.model == tiny_config().model
    run_file = read_run_file(negated_joints_run)
    assert (run_file.config, run_file.adapt_config) == (tiny_config(), TINY_ADAPT)


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


def test_runs_are_built_from_their_configuration(run):
    config = run.config
    assert run.model.context_dim == run.replay.context_dim == config.model.context_dim == 3
    assert run.context_model.hidden_sizes == config.model.hidden_sizes
    assert run.replay.num_tasks == 10
    assert run.adapter.schedule() == (config.model.inner_lr,) * config.model.inner_steps
    later = run.with_context_steps(config.model.inner_steps + 2).adapter.schedule()
    assert later == (*run.adapter.schedule(), *[run.adapt_config.later_context_lr] * 2)
    assert dataclasses.replace(config, replay_per_task=500) == tiny_config()
    assert run.adapt_config == TINY_ADAPT


# Runs of release 0.1 ------------------------------------------------------------------------


def as_release_0_1(values: dict, *, gate_episodes: int = 2, gate_margin: float = 0.1) -> dict:
    """What release 0.1 wrote of the same run: "adapt" within "config", and other names."""
    adapt = {**values["adapt"], "gate_episodes": gate_episodes, "gate_margin": gate_margin}
    del adapt["gate"]
    policy = {**values["config"]["policy"], "critic_layer_norm": False}
    config = {**values["config"], "policy": policy, "adapt": adapt}
    return {**{key: value for key, value in values.items() if key != "adapt"}, "config": config}


def test_a_run_of_release_0_1_is_read(negated_joints_run, run, tmp_path):
    shutil.copytree(negated_joints_run, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(as_release_0_1(json.loads(path.read_text()))))
    tree = load_tree(tmp_path / "run" / CHECKPOINT)
    tree["manifest"] = as_release_0_1(tree["manifest"])
    save_tree(tmp_path / "run" / CHECKPOINT, tree)
    old = load_run(tmp_path / "run")
    assert_same_tree(old.state(), run.state())
    assert old.config == run.config
    gate = MarginGate(episodes=2, margin=0.1)
    assert old.adapt_config == dataclasses.replace(TINY_ADAPT, gate=gate)


@pytest.mark.parametrize(
    ("name", "varies", "tasks"),
    [
        ("halfcheetah-negated-joints", "reward_and_dynamics", 10),
        ("halfcheetah-vel-hard", "reward", 100),
    ],
)
def test_the_runs_that_come_with_the_library_are_read(name, varies, tasks):
    run = load_run(name)
    assert (run.model.varies, run.replay.num_tasks) == (varies, tasks)
    assert all(len(run.replay.task_buffer(task)) for task in range(tasks))
    assert isinstance(run.adapt_config.gate, MarginGate)
    assert run.adapter.schedule() == (run.config.model.inner_lr,) * run.config.model.inner_steps
