import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

import mier_adapt
from mier_adapt import NewTask, Transitions, load_run, preset
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt._storage.randomness import global_generator_state, seed_global_generators
from mier_adapt.adaptation import AlwaysGate, front_door, learner, stages
from mier_adapt.adaptation.identification import Identified, novelty
from mier_adapt.agents.metering import Spent
from mier_adapt.integration import algorithm_state, update

from ..doubles import assert_same_tree, random_transitions


@pytest.fixture
def run(negated_joints_run, negated_joints_envs):
    return load_run(negated_joints_run, negated_joints_envs)


def adapt(run, envs, *, index: int = 12, seed: int = 0, changes=None, **options):
    """Adapt to a task of the family, as the run does but for these changes."""
    adaptation = mier_adapt.adapt(
        run,
        run.new_task(envs, envs.task_set[index]),
        dataclasses.replace(run.adapt_config, **(changes or {})),
        seed=seed,
        evaluation_episodes=2,
        **options,
    )
    return adaptation.algorithm, adaptation.context, adaptation.report


UNSEEN = {"gate": AlwaysGate()}  # what a stage made is handed back without a look at it


def without_seconds(report) -> dict:
    values = dataclasses.asdict(report)
    values.pop("seconds")
    return values


def weights(algorithm) -> dict:
    state = algorithm.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


STAGES = ["initial context", "adapted context", "actor only", "relabeled"]


def test_adapts_in_stages_and_reports_them(run, negated_joints_envs):
    stages = []
    algorithm, context, report = adapt(
        run,
        negated_joints_envs,
        on_stage=lambda stage, progress: stages.append((stage, progress)),
    )
    task = negated_joints_envs.task_set[12]
    assert report.task == str(task)
    assert report.parameters == task.parameters
    assert list(report.returns) == STAGES
    assert all(len(returns) == 2 for returns in report.returns.values())
    assert report.real_transitions == 40
    assert report.gate_transitions == 2 * 1 * 20
    assert report.evaluation_transitions == 4 * 2 * 20
    assert report.synthetic_transitions == 2 * 100
    assert report.updates == 2 * 3
    assert report.train_loss[2] < report.train_loss[0]
    assert report.disagreement > 0
    assert len(report.weight_steps) == run.adapt_config.num_models
    assert context.shape == (3,)
    assert context.any()
    names = list(dict.fromkeys(stage for stage, _ in stages))
    assert names == ["identify", "refresh", "refine", "relabel", "gate"] == list(report.seconds)
    progress = [value for stage, value in stages if stage == "relabel"]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert json.loads(json.dumps(report.to_dict()))["seed"] == 0
    assert algorithm is not run.algorithm


@pytest.mark.parametrize(("after", "better"), [(6.0, True), (5.1, False), (4.0, False)])
def test_the_gate_keeps_what_did_clearly_better_in_real_episodes(
    run, negated_joints_envs, monkeypatch, after, better
):
    returns = iter([(5.0,), (after,)])
    stages = []
    real = NewTask.returns

    def told(*args, **kwargs):
        if stages[-1:] == ["gate"]:
            return next(returns)
        return real(*args, **kwargs)

    monkeypatch.setattr(NewTask, "returns", told)
    algorithm, _, report = adapt(
        run, negated_joints_envs, on_stage=lambda stage, progress: stages.append(stage)
    )
    kept = not torch.equal(
        next(algorithm.policy.parameters()), next(run.algorithm.policy.parameters())
    )
    assert kept == better
    assert report.decision == ("relabeled" if better else "adapted context")
    assert f"{after:.0f} in 1 real episode(s), against 5" in report.reason
    assert ("has to be 4% better" in report.reason) != better
    assert report.gate_returns == {
        "adapted context": (5.0,),
        "relabeled": (after,),
    }


@pytest.mark.parametrize(
    ("gathered", "initial", "decision"),
    [
        (7.0, 8.0, "initial context"),  # it is better than what the gate kept
        (7.0, 6.1, "relabeled"),  # it is not, by a margin
        (5.9, None, "relabeled"),  # there is no reason to play it
    ],
)
def test_what_is_handed_back_is_no_worse_than_what_identified_the_task(
    run, negated_joints_envs, monkeypatch, gathered, initial, decision
):
    stages, played = [], []
    gate = iter([5.0, 6.0, initial])
    real = NewTask.returns

    def told(self, actor, **options):
        if stages[-1:] != ["gate"]:
            return real(self, actor, **options)
        played.append((actor.name, options["generator"].random()))
        return (next(gate),)

    monkeypatch.setattr(NewTask, "returns", told)
    monkeypatch.setattr(Identified, "initial_returns", [gathered])
    adaptation = mier_adapt.adapt(
        run,
        run.new_task(negated_joints_envs, negated_joints_envs.task_set[12]),
        run.adapt_config,
        seed=0,
        on_stage=lambda stage, progress: stages.append(stage),
    )
    assert adaptation.report.decision == decision
    names = ["adapted context", "relabeled", "initial context"]
    assert [name for name, _ in played] == names[: 2 if initial is None else 3]
    assert len({start for _, start in played}) == 1
    if decision == "initial context":
        assert "8 in 1 real episode(s), against 6 before" in adaptation.report.reason
        assert torch.equal(adaptation.actor.actor.contexts, run.model.initial_context)


@pytest.mark.parametrize("excess", [10.0, 3.0, None])
def test_a_known_tasks_policy_is_tried_where_no_context_explains_the_new_rewards(
    velocity_run, velocity_envs, monkeypatch, excess
):
    run = load_run(velocity_run, velocity_envs)
    real = random_transitions(30, obs_dim=run.model.obs_dim, act_dim=run.model.act_dim)
    found = Identified(real, np.zeros(30, np.bool_), torch.zeros(3), Spent())
    contexts = torch.arange(300.0).reshape(100, 3)
    config = dataclasses.replace(run.adapt_config, weight_steps=1, num_models=2)
    fitted = stages.refine(run, config, real, torch.zeros(100, 3), np.random.default_rng(0))
    for each in fitted:  # it likes one observation, the more the larger it is
        monkeypatch.setattr(each.model, "mean", lambda obs, act, context: (obs[:, 8], None))
    assert stages.is_outside(run, run.adapt_config, excess) == (excess == 10.0)
    candidate = stages.known_candidate(run, found, contexts, fitted)
    newest = run.replay.recent_transitions(40).obs[..., 8].mean(1)
    assert candidate.name == "known task"
    assert torch.equal(candidate.actor.contexts, contexts[int(newest.argmax())])
    without = dataclasses.replace(run.adapt_config, try_known_task=False)
    assert not stages.is_outside(run, without, excess)


def test_where_dynamics_vary_no_known_tasks_policy_is_tried(run):
    assert not stages.is_outside(run, run.adapt_config, 10.0)


@pytest.mark.parametrize(("known", "taken"), [(6.0, True), (5.1, False)])
@pytest.mark.parametrize("relabeled", [9.0, 1.0])
def test_adaptation_goes_on_from_the_known_tasks_policy_where_that_returns_more(
    velocity_run, velocity_envs, monkeypatch, known, taken, relabeled
):
    monkeypatch.setattr(front_door, "novelty", lambda *arguments: 10.0)
    run = load_run(velocity_run, velocity_envs)
    episodes = {"adapted context": 5.0, "known task": known, "relabeled": relabeled}
    stages_seen, played, began, nearest = [], [], [], []
    real, train = NewTask.returns, front_door.train_on_synthetic

    def told(self, actor, **options):
        if stages_seen[-1:] != ["gate"]:
            return real(self, actor, **options)
        played.append(actor.name)
        return (episodes[actor.name],)

    def seen(*arguments):
        nearest.append(stages.known_candidate(*arguments))
        return nearest[-1]

    def watched(agent, config, start, *arguments, **options):
        began.append(start.name)
        return train(agent, config, start, *arguments, **options)

    monkeypatch.setattr(NewTask, "returns", told)
    monkeypatch.setattr(front_door, "train_on_synthetic", watched)
    monkeypatch.setattr(front_door, "known_candidate", seen)
    monkeypatch.setattr(Identified, "initial_returns", [])
    adaptation = mier_adapt.adapt(
        run,
        run.new_task(velocity_envs, velocity_envs.task_set[110]),
        run.adapt_config,
        seed=0,
        evaluation_episodes=1,
        on_stage=lambda stage, progress: stages_seen.append(stage),
    )
    report, start = adaptation.report, "known task" if taken else "adapted context"
    assert played == ["adapted context", "known task", "relabeled"]  # each of them once
    assert began == [start]
    assert report.decision == ("relabeled" if relabeled == 9.0 else start)
    assert report.gate_returns == {name: (each,) for name, each in episodes.items()}
    assert "known task" in report.returns
    assert list(report.returns)[:3] == ["initial context", "adapted context", "actor only"]
    assert torch.equal(adaptation.context, adaptation.actor.actor.contexts)
    assert torch.equal(adaptation.context, nearest[0].actor.contexts) == taken


def test_episodes_that_identified_the_task_are_those_under_the_initial_context():
    rewards, ends = torch.arange(1.0, 11.0), torch.zeros(10, dtype=torch.bool)
    ends[6] = True
    cut = np.zeros(10, np.bool_)
    cut[[1, 4, 9]] = True
    obs, act = torch.zeros(10, 2), torch.zeros(10, 1)
    real = Transitions(obs=obs, act=act, rew=rewards, obs_next=obs, terminated=ends)
    for steps, expected in ((0, []), (2, [3.0]), (8, [3.0, 12.0, 13.0]), (10, [3, 12, 13, 27])):
        found = Identified(real, cut, torch.zeros(3), Spent(), 0, steps)
        assert found.initial_returns == expected


@pytest.mark.parametrize(
    ("changes", "stages", "decision"),
    [
        ({"refresh_updates": 0}, ["initial context", "adapted context", "relabeled"], "relabeled"),
        ({"relabel_rounds": 0}, ["initial context", "adapted context", "actor only"], "actor only"),
        (
            {"refresh_updates": 0, "relabel_rounds": 0},
            ["initial context", "adapted context"],
            "adapted context",
        ),
    ],
)
def test_each_stage_can_be_left_out(run, negated_joints_envs, changes, stages, decision):
    _, _, report = adapt(run, negated_joints_envs, changes={**UNSEEN, **changes})
    assert list(report.returns) == stages
    assert report.decision == decision
    assert report.gate_transitions == 0
    assert report.gate_returns == {}


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.5, 3), (1.0, 6)])
def test_hands_back_the_average_of_the_last_policies(
    run, negated_joints_envs, monkeypatch, share, count
):
    policies = []

    def kept(algorithm, *args):
        losses = update(algorithm, *args)
        policies.append(copy.deepcopy(algorithm.policy.state_dict()))
        return losses

    monkeypatch.setattr(learner, "update", kept)
    algorithm, _, report = adapt(
        run, negated_joints_envs, changes={**UNSEEN, "averaged_share": share}
    )
    assert len(policies) == report.updates == 6
    for name, value in algorithm.policy.state_dict().items():
        mean = torch.stack([each[name] for each in policies[-count:]]).mean(0)
        torch.testing.assert_close(value, mean)


def test_the_published_algorithm_is_a_preset(run, negated_joints_envs):
    published = preset("halfcheetah-negated-joints-paper").adapt
    shortened = {
        "adaptation_steps": 40,
        "weight_steps": 3,
        "relabel_rounds": 1,
        "relabel_size": 50,
        "updates_per_round": 2,
        "validation_threshold": 1e9,
    }
    run.adapt_config = dataclasses.replace(published, **shortened)
    _, _, report = adapt(run, negated_joints_envs)
    assert list(report.returns) == ["initial context", "adapted context", "relabeled"]
    assert report.decision == "relabeled"
    assert report.disagreement == 0
    assert len(report.weight_steps) == 1


def test_a_refreshed_actor_learns_from_critics_that_stay(run, negated_joints_envs):
    algorithm, _, _ = adapt(
        run, negated_joints_envs, changes={**UNSEEN, "relabel_rounds": 0, "refresh_updates": 5}
    )
    before, after = weights(run.algorithm), weights(algorithm)
    critics = [name for name in after if name.startswith("critic")]
    assert_same_tree({n: after[n] for n in critics}, {n: before[n] for n in critics})
    actor = [name for name in after if name.startswith("policy.actor")]
    assert not all(torch.equal(after[name], before[name]) for name in actor)
    assert all(p.requires_grad for p in algorithm.critic.parameters())


def test_novelty_tells_a_meta_training_task_from_a_far_one(run, negated_joints_envs):
    contexts = torch.tensor([[0.0, 0.0, float(i)] for i in range(10)])
    stored = run.replay.sample_transitions(
        np.arange(10), 40, adaptation=True, generator=np.random.default_rng(0)
    )
    losses = run.model.loss(stored, contexts).detach()
    real = run.replay.sample_transitions(
        np.array([3]), 40, adaptation=True, generator=np.random.default_rng(1)
    )[0]
    among = novelty(run, real, contexts[3], contexts)
    loss = run.model.loss(real, contexts[3]).detach()
    assert among == pytest.approx(float((loss - losses.mean()) / losses.std()))
    wild = dataclasses.replace(real, rew=real.rew + 1e3)
    assert novelty(run, wild, contexts[3], contexts) > among + 3


def test_the_run_is_unchanged_and_so_are_the_global_generators(
    run, negated_joints_envs, negated_joints_run
):
    before, configs = global_generator_state(), (run.config, run.adapt_config)
    steps, lrs = run.adapter.steps, run.adapter.lrs
    adapt(run, negated_joints_envs, changes=UNSEEN)
    assert_same_tree(global_generator_state(), before)
    assert_same_tree(run.state(), load_run(negated_joints_run, negated_joints_envs).state())
    assert (run.config, run.adapt_config) == configs
    assert (run.adapter.steps, run.adapter.lrs) == (steps, lrs)
    # What was put aside with the temperature is still there.
    assert run.algorithm.alpha._log_alpha.requires_grad


def test_the_seed_fixes_the_report(run, negated_joints_envs):
    run.adapt_config = dataclasses.replace(run.adapt_config, **UNSEEN)
    _, _, first = adapt(run, negated_joints_envs)
    seed_global_generators(777)
    algorithm, _, again = adapt(run, negated_joints_envs)
    assert without_seconds(first) == without_seconds(again)
    third, _, _ = adapt(run, negated_joints_envs)
    assert_same_tree(weights(algorithm), weights(third))
    _, _, other = adapt(run, negated_joints_envs, seed=1)
    assert other.returns != first.returns


def test_a_threshold_that_is_not_met_keeps_the_policy(run, negated_joints_envs):
    algorithm, _, report = adapt(
        run, negated_joints_envs, changes={"validation_threshold": -1e9, "refresh_updates": 0}
    )
    assert report.decision == "adapted context"
    assert "not below the threshold -1e+09" in report.reason
    assert list(report.returns) == ["initial context", "adapted context"]
    assert report.updates == report.synthetic_transitions == 0
    assert_same_tree(weights(algorithm), weights(run.algorithm))


def test_where_only_rewards_vary_next_states_are_kept(velocity_run, velocity_envs, trained_on):
    run = load_run(velocity_run, velocity_envs)
    _, _, report = adapt(run, velocity_envs, index=110, changes=UNSEEN)
    (buffer,) = trained_on
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


def test_where_dynamics_vary_next_states_are_predicted(run, negated_joints_envs, trained_on):
    adapt(run, negated_joints_envs, changes=UNSEEN)
    (buffer,) = trained_on
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
    task = velocity_envs.task_set[0]
    with pytest.raises(ValueError, match=r"of HalfCheetahNegatedJoints, got .*HalfCheetahVel"):
        run.new_task(negated_joints_envs, task)


def test_evaluating_no_episodes_costs_nothing_and_changes_nothing(run, negated_joints_envs):
    task = run.new_task(negated_joints_envs, negated_joints_envs.task_set[12])
    adaptation = mier_adapt.adapt(run, task, run.adapt_config, seed=0, evaluation_episodes=0)
    report = adaptation.report
    assert report.evaluation_transitions == 0
    assert report.returns == {}
    evaluated = mier_adapt.adapt(run, task, run.adapt_config, seed=0, evaluation_episodes=1)
    assert report.gate_returns == evaluated.report.gate_returns
    assert_same_tree(weights(adaptation.algorithm), weights(evaluated.algorithm))


@pytest.mark.parametrize("interrupted", ["identify", "relabel"])
def test_an_interrupted_adaptation_goes_on_from_its_real_transitions(
    run, negated_joints_envs, tmp_path, monkeypatch, interrupted
):
    checkpoint = tmp_path / "transitions.safetensors"
    algorithm, context, report = adapt(run, negated_joints_envs)

    rounds = []
    act = NewTask.run

    def counted(*args, explore=True, **kwargs):
        if explore:
            rounds.append(1)
            if interrupted == "identify" and len(rounds) == 2:
                raise KeyboardInterrupt
        return act(*args, explore=explore, **kwargs)

    monkeypatch.setattr(NewTask, "run", counted)

    def interrupt(stage, progress):
        if stage == interrupted == "relabel":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(run, negated_joints_envs, checkpoint=checkpoint, on_stage=interrupt)
    resumed = adapt(run, negated_joints_envs, checkpoint=checkpoint)
    assert len(rounds) == (3 if interrupted == "identify" else 2)
    assert_same_tree(algorithm_state(algorithm), algorithm_state(resumed[0]))
    assert torch.equal(context, resumed[1])
    assert without_seconds(report) == without_seconds(resumed[2])

    with pytest.raises(ValueError, match="another adaptation: seed differ"):
        adapt(run, negated_joints_envs, seed=1, checkpoint=checkpoint)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ValueError, match=r"threads differ .*torch\.set_num_threads"):
            adapt(run, negated_joints_envs, checkpoint=checkpoint)
    finally:
        torch.set_num_threads(threads)
    assert report.threads == threads
    with torch.no_grad():
        next(run.algorithm.policy.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="another adaptation: weights differ"):
        adapt(run, negated_joints_envs, checkpoint=checkpoint)
    hostile = load_tree(checkpoint)
    hostile["adaptation"]["seed"] = torch.zeros(2)  # whose comparison raises RuntimeError
    for tree in ({"real": 1}, hostile):
        save_tree(checkpoint, tree)
        with pytest.raises(CheckpointError, match="not the checkpoint of an adaptation"):
            adapt(run, negated_joints_envs, checkpoint=checkpoint)


def test_an_adaptation_goes_on_without_room_for_its_checkpoint(
    run, negated_joints_envs, tmp_path, caplog
):
    context = adapt(run, negated_joints_envs)[1]
    found = adapt(run, negated_joints_envs, checkpoint=tmp_path / "gone" / "file")[1]
    assert torch.equal(context, found)
    assert "The adaptation goes on in memory" in caplog.text
