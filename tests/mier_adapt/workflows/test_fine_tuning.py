import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from mier_adapt.integration import MixedReplayBuffer
from mier_adapt.workflows import fine_tuning
from mier_adapt.workflows.fine_tuning import fine_tune_by_relabeling
from mier_adapt.workflows.randomness import global_generator_state, seed_global_generators
from mier_adapt.workflows.runs import load_run

from ..doubles import assert_same_tree


@pytest.fixture
def run(negated_joints_run, negated_joints_envs):
    return load_run(negated_joints_run, negated_joints_envs)


def with_adapt(run, **changes):
    """The same run with other options of adaptation."""
    changed = copy.copy(run)
    adapt = dataclasses.replace(run.config.adapt, **changes)
    changed.config = dataclasses.replace(run.config, adapt=adapt)
    return changed


def adapt(run, envs, *, index: int = 12, seed: int = 0, **options):
    return fine_tune_by_relabeling(
        run, envs, envs.task_set[index], seed=seed, evaluation_episodes=2, **options
    )


def without_seconds(report) -> dict:
    values = dataclasses.asdict(report)
    values.pop("seconds")
    return values


def test_adapts_in_three_stages_and_reports_them(run, negated_joints_envs):
    stages = []
    algorithm, context, report = adapt(
        with_adapt(run, validation_threshold=1e9),
        negated_joints_envs,
        on_stage=lambda stage, progress: stages.append((stage, progress)),
    )
    task = negated_joints_envs.task_set[12]
    assert report.task == str(task)
    assert report.parameters == task.parameters
    assert report.relabeled
    assert "below the threshold" in report.reason
    assert list(report.returns) == ["initial context", "adapted context", "relabeled"]
    assert all(len(returns) == 2 for returns in report.returns.values())
    assert report.real_transitions == 40
    assert report.evaluation_transitions == 3 * 2 * 20
    assert report.synthetic_transitions == 2 * 100
    assert report.updates == 2 * 3
    assert report.train_loss[2] < report.train_loss[0]
    assert context.shape == (3,)
    assert context.any()
    assert [stage for stage, _ in stages[:2]] == ["collect", "identify"]
    progress = [value for stage, value in stages if stage == "relabel"]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert json.loads(json.dumps(dataclasses.asdict(report)))["seed"] == 0
    # The adapted policy is another one than the run's.
    assert not torch.equal(
        next(algorithm.policy.parameters()), next(run.algorithm.policy.parameters())
    )


def test_the_run_is_unchanged_and_so_are_the_global_generators(
    run, negated_joints_envs, negated_joints_run
):
    before, config = global_generator_state(), run.config
    adapt(with_adapt(run, validation_threshold=1e9), negated_joints_envs)
    assert_same_tree(global_generator_state(), before)
    assert_same_tree(run.state(), load_run(negated_joints_run, negated_joints_envs).state())
    assert run.config == config
    # What was put aside with the temperature is still there.
    assert run.algorithm.alpha._log_alpha.requires_grad


def test_the_seed_fixes_the_report(run, negated_joints_envs):
    run = with_adapt(run, validation_threshold=1e9)
    _, _, first = adapt(run, negated_joints_envs)
    seed_global_generators(777)
    algorithm, _, again = adapt(run, negated_joints_envs)
    assert without_seconds(first) == without_seconds(again)
    third, _, _ = adapt(run, negated_joints_envs)
    assert_same_tree(
        {name: v for name, v in algorithm.state_dict().items() if isinstance(v, torch.Tensor)},
        {name: v for name, v in third.state_dict().items() if isinstance(v, torch.Tensor)},
    )
    _, _, other = adapt(run, negated_joints_envs, seed=1)
    assert other.returns != first.returns


def test_a_threshold_that_is_not_met_keeps_the_policy(run, negated_joints_envs):
    algorithm, _, report = adapt(with_adapt(run, validation_threshold=-1e9), negated_joints_envs)
    assert not report.relabeled
    assert "not below the threshold -1e+09" in report.reason
    assert list(report.returns) == ["initial context", "adapted context"]
    assert report.updates == report.synthetic_transitions == 0
    assert_same_tree(
        {name: v for name, v in algorithm.state_dict().items() if isinstance(v, torch.Tensor)},
        {name: v for name, v in run.algorithm.state_dict().items() if isinstance(v, torch.Tensor)},
    )


def test_without_a_threshold_fine_tuning_must_have_helped(run, negated_joints_envs):
    _, _, report = adapt(with_adapt(run, validation_threshold=None), negated_joints_envs)
    assert report.relabeled == (report.validation_loss[2] < report.validation_loss[0])
    assert ("validation loss fell" in report.reason) == report.relabeled
    frozen = with_adapt(run, validation_threshold=None, context_steps=0, weight_steps=0)
    _, _, report = adapt(frozen, negated_joints_envs)
    assert not report.relabeled
    assert "validation loss did not fall" in report.reason


def trained_on(monkeypatch) -> list[MixedReplayBuffer]:
    """The buffers that adaptations make from now on."""
    made = []

    class Remembered(MixedReplayBuffer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(fine_tuning, "MixedReplayBuffer", Remembered)
    return made


def test_where_only_rewards_vary_next_states_are_kept(velocity_run, velocity_envs, monkeypatch):
    made = trained_on(monkeypatch)
    run = with_adapt(load_run(velocity_run, velocity_envs), validation_threshold=1e9)
    _, _, report = adapt(run, velocity_envs, index=110)
    assert report.relabeled
    (buffer,) = made
    stored = run.replay.stored()
    known = {
        tuple(np.concatenate((obs, act, obs_next)).tolist()): float(rew)
        for obs, act, obs_next, rew in zip(
            stored.obs, stored.act, stored.obs_next, stored.rew, strict=True
        )
    }
    rows = range(40, 40 + buffer.num_synthetic)
    changed = 0
    for row in rows:
        key = np.concatenate((buffer.obs[row], buffer.act[row], buffer.obs_next[row]))
        assert tuple(key.tolist()) in known
        changed += buffer.rew[row] != known[tuple(key.tolist())]
    assert changed == buffer.num_synthetic == report.synthetic_transitions


def test_where_dynamics_vary_next_states_are_predicted(run, negated_joints_envs, monkeypatch):
    made = trained_on(monkeypatch)
    adapt(with_adapt(run, validation_threshold=1e9), negated_joints_envs)
    (buffer,) = made
    assert (buffer.num_real, buffer.num_synthetic) == (40, 200)
    stored = run.replay.stored()
    synthetic = slice(40, 240)
    observed = {tuple(row.tolist()) for row in stored.obs}
    assert all(tuple(row.tolist()) in observed for row in buffer.obs[synthetic])
    followed = {tuple(row.tolist()) for row in stored.obs_next}
    assert not any(tuple(row.tolist()) in followed for row in buffer.obs_next[synthetic])
    assert np.abs(buffer.act[synthetic]).max() <= 1
    # The real data is the adaptation's own.
    assert not any(tuple(row.tolist()) in observed for row in buffer.obs[:40])


def test_refuses_a_task_of_another_family(run, negated_joints_envs, velocity_envs):
    with pytest.raises(ValueError, match="a task of HalfCheetahNegatedJoints, got one of Half"):
        fine_tune_by_relabeling(run, negated_joints_envs, velocity_envs.task_set[0], seed=0)


def test_refuses_to_evaluate_no_episodes(run, negated_joints_envs):
    with pytest.raises(ValueError, match="evaluation_episodes"):
        fine_tune_by_relabeling(
            run,
            negated_joints_envs,
            negated_joints_envs.task_set[12],
            seed=0,
            evaluation_episodes=0,
        )
