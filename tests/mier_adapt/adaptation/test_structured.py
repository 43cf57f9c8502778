"""Robots that changed in a way that can be named and undone: nothing has to be learned."""

import dataclasses
import json

import gymnasium
import numpy as np
import pytest
import torch

from mier_adapt import Agent, GradientContextAdapter, NewTask, Transitions, adapt, load_run
from mier_adapt.adaptation import AlwaysGate, MarginGate, stages
from mier_adapt.adaptation.sweep import adapt_to_each
from mier_adapt.agents import AdaptConfig
from mier_adapt.compensation import Compensation
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt.wrappers import CompensatedAction

from ..doubles import ACT_DIM, OBS_DIM, ClosedForm, CountedEnv, DriftEnv, small_sac

STEPS = 30
CONFIG = AdaptConfig.for_own_policy(
    adaptation_steps=60,
    weight_steps=0,
    relabel_rounds=1,
    relabel_size=60,
    updates_per_round=2,
    batch_size=16,
    gate=MarginGate(margin=0.0),
)


class DriftModel(ClosedForm):
    """What :class:`DriftEnv` does, and how sure that is."""

    obs_dim, act_dim, context_dim, std = OBS_DIM, ACT_DIM, 0, 0.05

    def mean(self, obs, act, context):
        obs_next = 0.9 * obs + torch.cat((act, act[..., :1]), -1)
        return -obs_next.abs().sum(-1), obs_next


class Unsmooth(DriftModel):
    """Says how likely transitions are, but not what that depends on."""

    def loss(self, transitions, context):
        if any(each.requires_grad for each in vars(transitions).values()):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return super().loss(transitions, context)


def drifting(strength=1.0):
    return CountedEnv(gymnasium.wrappers.TimeLimit(DriftEnv(strength=strength), STEPS))


def agent(model=None):
    """A policy, and what it met: the robot as it was."""
    torch.manual_seed(0)
    sac = small_sac(context_dim=0)
    obs, act = torch.randn(300, OBS_DIM), torch.rand(300, ACT_DIM) * 2 - 1
    rew, obs_next = DriftModel().mean(obs, act, None)
    stored = Transitions(obs, act, rew, obs_next, torch.zeros(300, dtype=torch.bool))
    return Agent(
        adapter=GradientContextAdapter(model or DriftModel()),
        algorithm=sac,
        replay=ContextReplayBuffer.of([stored], generator=np.random.default_rng(0)),
        conditioned=False,
    )


def adapted(strength, *, model=None, episodes=2, env=None, logged=None, **changes):
    task = NewTask.of_env(env or drifting(strength), termination_fn=DriftEnv.ends)
    config = dataclasses.replace(CONFIG, **changes)
    return adapt(agent(model), task, config, seed=0, evaluation_episodes=episodes, logged=logged)


def test_reversed_motors_are_named_and_undone_and_nothing_is_learned():
    env = drifting(-1.0)
    adaptation = adapted(-1.0, env=env)
    report = adaptation.report
    assert list(report.returns) == ["unchanged", "compensated"]
    assert report.seconds.keys() == {"identify", "diagnose", "gate"}
    spent = report.real_transitions + report.gate_transitions + report.evaluation_transitions
    assert (spent, sum(report.resets.values())) == (env.steps, env.resets)
    said = [each[:19] for each in adaptation.diagnosis.sentences]
    assert said == ["motor 1 is reversed", "motor 2 is reversed"]
    # What it does now is what it did on the robot as it was, from the same starts.
    as_it_was = adapted(1.0, diagnose=False).report.returns["unchanged"]
    assert report.returns["compensated"] == pytest.approx(as_it_was)
    assert report.train_loss is report.validation_loss is report.disagreement is None
    assert (report.synthetic_transitions, report.updates, report.weight_steps) == (0, 0, ())
    assert json.loads(json.dumps(report.to_dict()))["diagnosis"]["chosen"] == "actuators signs"
    assert "What changed: motor 1 is reversed" in str(report)
    assert "nothing had to be learned" in str(report)


def test_a_log_alone_says_what_changed_and_undoes_it():
    gathered = adapted(-1.0, diagnose=False, episodes=0).transitions
    env = drifting(-1.0)
    adaptation = adapted(
        -1.0, env=env, episodes=0, gate=AlwaysGate(), adaptation_steps=2, logged=gathered
    )
    assert (env.steps, env.resets) == (0, 0)
    assert adaptation.report.decision == "compensated"
    said = [each[:19] for each in adaptation.diagnosis.sentences]
    assert said == ["motor 1 is reversed", "motor 2 is reversed"]


def test_what_is_handed_back_acts_behind_a_wrapper_and_alone():
    adaptation = adapted(-1.0, gate=AlwaysGate())
    assert adaptation.report.decision == "compensated"
    obs = np.random.default_rng(0).normal(size=(4, OBS_DIM)).astype(np.float32)
    before = agent().initial_actor(1).act(obs, explore=False)
    np.testing.assert_allclose(adaptation.actor.act(obs, explore=False), -before, atol=1e-6)
    changed = CompensatedAction(DriftEnv(strength=-1.0), adaptation.compensation)
    intact = DriftEnv()
    for env in (changed, intact):
        env.reset(seed=3)
    act = np.array([0.3, -0.6], np.float32)
    np.testing.assert_allclose(changed.step(act)[0], intact.step(act)[0], atol=1e-6)


def test_a_sweep_keeps_what_undoes_the_change(tmp_path):
    tasks = {
        name: NewTask.of_env(drifting(strength), label=name, termination_fn=DriftEnv.ends)
        for name, strength in (("reversed", -1.0), ("same", 1.0))
    }
    config = dataclasses.replace(CONFIG, gate=AlwaysGate())
    options = {"seeds": (0,), "out": tmp_path, "evaluation_episodes": 0}
    first, _ = adapt_to_each(agent(), tasks, config, **options)
    (path,) = tmp_path.glob("*.compensation.json")
    assert path.name == "reversed-seed-0.compensation.json"
    act = np.array([[0.3, -0.6]])
    loaded = Compensation.load(path).action(act)
    np.testing.assert_array_equal(loaded, first.compensation.action(act))


def test_no_task_is_adapted_to_where_a_later_seed_is_none(tmp_path):
    options = {"seeds": (0, -1), "out": tmp_path / "out", "evaluation_episodes": 0}
    with pytest.raises(ValueError, match=r"expected seeds\[1\] >= 0, got -1"):
        adapt_to_each(agent(), {}, CONFIG, **options)
    assert not list(tmp_path.iterdir())


def test_where_nothing_changed_nothing_is_spent_on_a_choice():
    adaptation = adapted(1.0)
    report = adaptation.report
    assert list(report.returns) == ["unchanged"]
    assert (report.decision, report.reason) == ("unchanged", "nothing changed")
    assert report.gate_transitions == 0
    assert adaptation.compensation is None


@pytest.mark.parametrize(("strength", "options"), [(-1.0, {"learn_always": True}), (0.3, {})])
def test_it_goes_on_to_learn_where_asked_to_or_where_motors_are_too_weak(strength, options):
    report = adapted(strength, **options).report
    stages = ["unchanged", "compensated", "relabeled"]
    assert list(report.returns) == list(report.gate_returns) == stages
    assert report.updates == 2
    assert "model loss" in str(report)


@pytest.mark.parametrize(("options", "scale"), [({}, 1.0), ({"diagnose": False}, 3.0)])
def test_steps_are_larger_where_no_diagnosis_explains_the_task(options, scale):
    options |= {"learn_always": True, "gate": AlwaysGate(), "episodes": 0}
    algorithm = adapted(-1.0, **options).actor.algorithm
    optimizers = (algorithm.policy_optim, algorithm.critic_optim, algorithm.critic2_optim)
    sizes = [each._optim.param_groups[0]["lr"] for each in optimizers]
    wanted = CONFIG.actor_lr, CONFIG.critic_lr, CONFIG.critic_lr
    assert sizes == pytest.approx([scale * each for each in wanted])


def assert_within_reach(buffer, compensation, *, real=False):
    """Transitions are what motors of that strength make of what was wanted."""
    first = buffer.maxsize - buffer.buffers[1].maxsize
    rows = slice(buffer.num_real) if real else slice(first, first + buffer.num_synthetic)
    columns = buffer.obs[rows], buffer.act[rows], buffer.obs_next[rows]
    obs, act, obs_next = (torch.as_tensor(each) for each in columns)
    strength = torch.as_tensor(compensation.act_matrix.diagonal().copy()).float()
    assert (act.abs() > 1.5 * strength).any()
    _, expected = DriftModel().mean(obs, torch.clamp(act, -strength, strength), None)
    assert (obs_next - expected).abs().max() < 6 * DriftModel.std


def test_behind_motors_that_are_too_weak_relabeling_knows_what_they_can(trained_on):
    adaptation = adapted(0.3, weight_steps=0, updates_per_round=1)
    assert adaptation.report.returns.keys() == {"unchanged", "compensated", "relabeled"}
    (buffer,) = trained_on
    assert_within_reach(buffer, adaptation.diagnosis.compensation)


def test_sources_of_ones_own_speak_of_the_robot_as_it_is(trained_on):
    stream = []

    class Stored:
        def stream(self, source):
            for each in source:
                stream.append(each)
                yield each

    task = NewTask.of_env(drifting(0.3), termination_fn=DriftEnv.ends)
    options = {"seed": 0, "evaluation_episodes": 0, "sources": lambda _: lambda policy: [Stored()]}
    adaptation = adapt(agent(), task, CONFIG, **options)
    assert adaptation.diagnosis.compensation is not None
    assert stream
    (buffer,) = trained_on
    commands = adaptation.transitions.act
    np.testing.assert_array_equal(buffer.act[: buffer.num_real], commands)


class Windy(DriftEnv):
    """Blown about, and away from home, or back, by less than that."""

    wind = 0.0

    def step(self, action):
        _, _, _, truncated, info = super().step(action)
        wind = self.wind * np.sign(self._state)  # which neither motors nor sensors could do
        blown = wind + DriftModel.std * self.np_random.normal(size=OBS_DIM)
        self._state = (self._state + blown).astype(np.float32)
        ended = bool(np.abs(self._state).max() > 4)
        return self._state.copy(), -float(np.abs(self._state).sum()), ended, truncated, info


def windy(wind):
    """A policy whose last experience is there in order, and the robot that it meets."""
    whole, rows = agent(), []
    env = gymnasium.wrappers.TimeLimit(Windy(), STEPS)
    generator, over = np.random.default_rng(0), True
    for step in range(25 * CONFIG.adaptation_steps):
        if over:
            obs, _ = env.reset(seed=step)
        act = generator.uniform(-0.5, 0.5, ACT_DIM).astype(np.float32)
        obs_next, rew, terminated, truncated, _ = env.step(act)
        rows.append((obs, act, np.float32(rew), obs_next, terminated))
        obs, over = obs_next, terminated or truncated
    stored = Transitions(*(torch.from_numpy(np.array(each)) for each in zip(*rows, strict=True)))
    env.unwrapped.wind = wind
    replay = ContextReplayBuffer.of([stored], generator=np.random.default_rng(0))
    return dataclasses.replace(whole, replay=replay), env


def blown(wind, **options):
    """What is made of it."""
    whole, env = windy(wind)
    task = NewTask.of_env(env, termination_fn=DriftEnv.ends)
    return adapt(whole, task, CONFIG, seed=0, evaluation_episodes=0, **options)


def test_what_shows_in_no_single_step_is_told_and_learned_from():
    adaptation = blown(0.03)
    assert adaptation.diagnosis.chosen.name == "nothing changed"
    assert adaptation.diagnosis.changed
    assert "something in the dynamics changed" in str(adaptation.report)
    assert adaptation.report.updates == 2


def test_where_nothing_changed_all_steps_together_say_so_too():
    adaptation = blown(0.0)
    assert adaptation.diagnosis.p_value > 1e-4
    assert (adaptation.report.decision, adaptation.report.reason) == (
        "unchanged",
        "nothing changed",
    )


def test_of_many_new_steps_there_are_as_many_more_known_ones(monkeypatch):
    monkeypatch.setattr(stages, "_KNOWN_ALIKE", 1)
    assert blown(0.03).diagnosis.p_value < 1e-4


def test_steps_that_another_policy_took_are_not_compared():
    log = blown(0.03).transitions
    assert blown(0.03, logged=log).diagnosis.p_value is None


def test_without_a_diagnosis_nothing_is_assumed():
    adaptation = adapted(-1.0, diagnose=False)
    assert adaptation.diagnosis is adaptation.report.diagnosis is None
    assert list(adaptation.report.returns) == ["unchanged", "relabeled"]


def test_a_model_without_gradients_tells_what_can_be_told_by_trying():
    found = adapted(-1.0, model=Unsmooth())
    assert found.report.diagnosis["chosen"] == "actuators signs"
    tried = [each["name"] for each in found.report.diagnosis["explanations"]]
    assert "actuators gains" not in " ".join(tried)


def test_too_few_transitions_to_tell_from_are_refused_before_the_first_step():
    env = drifting()
    with pytest.raises(ValueError, match=r"adaptation_steps >= 10, .* diagnose=False"):
        adapted(1.0, env=env, adaptation_steps=9)
    assert env.steps == 0


def test_a_run_tells_its_tasks_by_name(negated_joints_run, negated_joints_envs):
    run = load_run(negated_joints_run, negated_joints_envs)
    task = run.new_task(negated_joints_envs, negated_joints_envs.task_set[12])
    config = dataclasses.replace(run.adapt_config, diagnose=True, learn_always=True)
    found = [adapt(run, task, config, seed=0, evaluation_episodes=0) for _ in range(2)]
    assert found[0].diagnosis.sentences == found[1].diagnosis.sentences
    names = {each.name for each in found[0].diagnosis.explanations}
    assert {"a new context", "new weights", "actuators affine"} <= names
    if (known := found[0].diagnosis.chosen.known_task) is not None:
        said = " ".join(found[0].diagnosis.sentences)
        assert str(negated_joints_envs.task_set[known]) in said
