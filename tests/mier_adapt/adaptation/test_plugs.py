"""What plugs into an adaptation: models of any make, sources of synthetic data, gates."""

import dataclasses
from collections.abc import Iterable, Iterator

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from mier_adapt import (
    Agent,
    ContextModel,
    ExperienceRelabeler,
    GradientContextAdapter,
    NewTask,
    Transitions,
    adapt,
    fit_model,
)
from mier_adapt.adaptation import AlwaysGate, MarginGate, NeverGate
from mier_adapt.agents import AdaptConfig, collect
from mier_adapt.integration import ContextReplayBuffer, build_sac
from mier_adapt.protocols import Gate, SyntheticSource

from ..doubles import CountedEnv, LinearModel, random_transitions

CONFIG = AdaptConfig(
    adaptation_steps=30,
    diagnose=False,
    collection_rounds=1,
    refresh_updates=0,
    num_models=2,
    weight_steps=0,
    relabel_rounds=2,
    relabel_size=40,
    updates_per_round=3,
    batch_size=16,
    averaged_share=0.0,
)


def never(obs, act, obs_next):
    return np.zeros(len(obs), dtype=bool)


def pendulum() -> CountedEnv:
    return CountedEnv(gymnasium.make("Pendulum-v1", max_episode_steps=20))


def agent_with(model, env, logs=None) -> Agent:
    """An unconditioned SAC with a model of any make."""
    torch.manual_seed(0)
    logs = logs or [random_transitions(50, act_dim=1, seed=seed) for seed in range(2)]
    return Agent(
        adapter=GradientContextAdapter(model),
        algorithm=build_sac(env.observation_space, env.action_space, 0, hidden_sizes=(8,)),
        replay=ContextReplayBuffer.of(logs, generator=np.random.default_rng(0)),
        conditioned=False,
    )


# Models of any make -------------------------------------------------------------------------


@pytest.mark.parametrize("varies", ["reward_and_dynamics", "reward"])
def test_a_linear_model_goes_through_an_adaptation(varies, trained_on):
    model = LinearModel(3, 1, 0, varies=varies, std=0.01)
    assert not isinstance(model, torch.nn.Module)
    env = pendulum()
    agent = agent_with(model, env)
    task = NewTask.of_env(env, termination_fn=never)
    adaptation = adapt(agent, task, CONFIG, seed=0, evaluation_episodes=2)
    adapted, context, report = adaptation.algorithm, adaptation.context, adaptation.report
    assert context.shape == (0,)
    assert list(report.returns) == ["unchanged", "relabeled"]
    assert report.weight_steps == (0, 0)
    assert report.disagreement == 0
    assert report.train_loss[0] == report.train_loss[2]
    assert env.steps == 30 + report.gate_transitions + report.evaluation_transitions
    (buffer,) = trained_on
    assert (buffer.num_real, buffer.num_synthetic) == (30, 80)
    rows = slice(30, 110)
    obs, act = torch.from_numpy(buffer.obs[rows]), torch.from_numpy(buffer.act[rows])
    rew, obs_next = model.mean(obs, act, context)
    np.testing.assert_allclose(buffer.rew[rows], rew.numpy(), atol=0.06)
    if obs_next is None:
        stored = {tuple(row) for row in agent.replay.stored().obs_next.tolist()}
        assert all(tuple(row) in stored for row in buffer.obs_next[rows].tolist())
    else:
        np.testing.assert_allclose(buffer.obs_next[rows], obs_next.numpy(), atol=0.06)
    assert type(adapted) is type(agent.algorithm)


def test_a_linear_model_relabels_what_is_stored():
    model = LinearModel(3, 1, 0, std=0.0)
    stored = random_transitions(20, act_dim=1)
    relabeler = ExperienceRelabeler(model, torch.zeros(0), termination_fn=never)
    relabeled = relabeler.relabel(stored)
    rew, obs_next = model.mean(stored.obs, stored.act, torch.zeros(0))
    assert torch.equal(relabeled.rew, rew)
    assert torch.equal(relabeled.obs_next, obs_next)
    assert torch.equal(relabeled.act, stored.act)


class Simulated:
    """A task model that is a simulator: the inverted pendulum, with a motor of any strength."""

    obs_dim, act_dim, context_dim = 4, 1, 0
    varies = "reward_and_dynamics"
    initial_context = torch.zeros(0)

    def __init__(self, *, strength: float = 1.0) -> None:
        self.env = changed(strength).unwrapped
        self.simulated = 0

    def mean(self, obs, act, context):
        rows = [
            self._step(*each)
            for each in zip(
                obs.reshape(-1, 4).double().numpy(), act.reshape(-1, 1).numpy(), strict=True
            )
        ]
        rew, obs_next = (torch.tensor(np.array(each)).to(obs) for each in zip(*rows, strict=True))
        return rew.reshape(obs.shape[:-1]), obs_next.reshape(obs.shape)

    def sample(self, obs, act, context, *, generator=None):
        return self.mean(obs, act, context)

    def loss(self, transitions, context):
        rew, obs_next = self.mean(transitions.obs, transitions.act, context)
        error = (obs_next - transitions.obs_next).square().mean((-2, -1))
        return error + (rew - transitions.rew).square().mean(-1)

    def _step(self, obs, act):
        """The environment's own step, from a state that it was never in."""
        model, data = self.env.model, self.env.data
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = obs[:2], obs[2:]
        data.ctrl[:] = 3.0 * act  # its actions reach from -3 to 3
        mujoco.mj_step(model, data, self.env.frame_skip)
        self.simulated += 1
        obs_next = np.concatenate((data.qpos, data.qvel))
        return float(not fallen(None, None, obs_next[None])[0]), obs_next


def fallen(obs, act, obs_next):
    return ~np.isfinite(obs_next).all(-1) | (np.abs(obs_next[:, 1]) > 0.2)


def changed(strength: float) -> gymnasium.Env:
    """The inverted pendulum with a motor of this many times its strength."""
    env = gymnasium.make("InvertedPendulum-v5", max_episode_steps=20)
    env.unwrapped.model.actuator_gear[:] *= strength
    return env


class RandomActor:
    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def act(self, obs, *, explore):
        return self.generator.uniform(-1, 1, (len(obs), 1)).astype(np.float32)


def played(env: gymnasium.Env, steps: int) -> Transitions:
    """What random actions led to."""
    task = NewTask.of_env(env)
    rollout = collect(
        task.env_of_size(1), None, RandomActor(), steps=steps, generator=np.random.default_rng(1)
    )
    return rollout.transitions.flatten()


def test_a_simulator_goes_through_an_adaptation(trained_on):
    env = CountedEnv(changed(0.4))
    logs = [played(changed(strength), 60) for strength in (1.0, 0.8)]
    losses, steps = {}, []
    for strength in (1.0, 0.4):
        model = Simulated(strength=strength)
        agent = agent_with(model, env, logs)
        task = NewTask.of_env(env, label="weak motor", termination_fn=fallen)
        before = env.steps
        adaptation = adapt(agent, task, CONFIG, seed=0, evaluation_episodes=1)
        report = adaptation.report
        steps.append(env.steps - before)
        assert list(report.returns) == ["unchanged", "relabeled"]
        assert report.real_transitions == 30
        assert model.simulated > report.synthetic_transitions == 80
        losses[strength] = report.validation_loss[0]
        spent = report.real_transitions + report.gate_transitions + report.evaluation_transitions
        assert steps[-1] == spent < 30 + 2 * 20 + 2 * 20  # an episode that ends is not gone on with
    # A simulator with the right motor knows what the changed robot does.
    assert losses[0.4] < 1e-6 < losses[1.0]
    buffer = trained_on[-1]
    rows = slice(30, 110)
    np.testing.assert_array_equal(
        buffer.terminated[rows], fallen(None, None, buffer.obs_next[rows])
    )
    np.testing.assert_array_equal(buffer.rew[rows], ~buffer.terminated[rows])
    assert buffer.terminated[rows].any()
    assert not buffer.terminated[rows].all()


# Models that lack something -----------------------------------------------------------------


class Without:
    """A linear model that lacks a part."""

    def __init__(self, *missing: str) -> None:
        self._model, self._missing = LinearModel(3, 1, 0), missing

    def __getattr__(self, name: str):
        if name.startswith("__") or name in self._missing:
            raise AttributeError(name)
        return getattr(self._model, name)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "missing", [("sample",), ("loss",), ("mean",), ("context_dim", "initial_context"), ("varies",)]
)
def test_a_model_that_lacks_a_part_is_refused_where_it_is_given(missing):
    message = f"to be a TaskModel, .* has no {', '.join(missing)}"
    env = pendulum()
    with pytest.raises(TypeError, match=f"GradientContextAdapter expected model {message}"):
        agent_with(Without(*missing), env)
    with pytest.raises(TypeError, match=f"ExperienceRelabeler expected model {message}"):
        ExperienceRelabeler(Without(*missing), torch.zeros(0))
    assert (env.steps, env.resets) == (0, 0)


def test_a_model_without_weights_is_refused_where_weights_are_to_be_fitted():
    env = pendulum()
    agent, task = agent_with(LinearModel(3, 1, 0), env), NewTask.of_env(env, termination_fn=never)
    config = dataclasses.replace(CONFIG, weight_steps=5)
    with pytest.raises(TypeError, match=r"adapt expected a model with weights.* weight_steps=0"):
        adapt(agent, task, config, seed=0)
    assert (env.steps, env.resets) == (0, 0)
    with pytest.raises(TypeError, match=r"fit_model expected a model with weights"):
        fit_model(agent.adapter, random_transitions(9, act_dim=1), weight_steps=1)


# Sources of one's own -----------------------------------------------------------------------


class Mirrored:
    """Synthetic data without a model: what was stored, seen in a mirror."""

    def __init__(self, policy) -> None:
        self.policy, self.taken = policy, 0

    def stream(self, source: Iterable[Transitions]) -> Iterator[Transitions]:
        for stored in source:
            self.taken += len(stored)
            act = self.policy(-stored.obs)
            yield Transitions(-stored.obs, act, stored.rew + 1, -stored.obs_next, stored.terminated)


def test_sources_of_ones_own_make_the_synthetic_data(trained_on):
    env = pendulum()
    agent = agent_with(LinearModel(3, 1, 0), env)
    task = NewTask.of_env(env)  # no rule for the end of an episode: that is the sources' own
    given, made = [], []

    def sources(fitted):
        given.extend(fitted)

        def sources_of(policy):
            made.extend([Mirrored(policy), Mirrored(policy)])
            return made

        return sources_of

    report = adapt(agent, task, CONFIG, seed=0, evaluation_episodes=1, sources=sources).report
    assert [each.model for each in given] == [agent.model] * 2
    assert all(isinstance(each, SyntheticSource) for each in made)
    assert [each.taken for each in made] == [40, 40]  # evenly, over both rounds
    assert report.synthetic_transitions == 80
    (buffer,) = trained_on
    mirrored = {tuple(row) for row in (-agent.replay.stored().obs).tolist()}
    assert all(tuple(row) in mirrored for row in buffer.obs[30:110].tolist())
    assert np.abs(buffer.act[30:110]).max() <= 1


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_what_sources_have_made_is_counted(chunks, trained_on):
    """Not what they were asked for: they may give less of it, or more."""

    class Generous(Mirrored):
        def stream(self, source):
            stored, *_ = super().stream(source)
            yield from [stored[:7]] * chunks

    env = pendulum()
    report = adapt(
        agent_with(LinearModel(3, 1, 0), env),
        NewTask.of_env(env),
        CONFIG,
        seed=0,
        evaluation_episodes=1,
        sources=lambda fitted: lambda policy: [Generous(policy)],
    ).report
    (buffer,) = trained_on
    assert report.synthetic_transitions == CONFIG.relabel_rounds * 7 * chunks
    assert buffer.num_synthetic == min(80, report.synthetic_transitions)
    assert report.updates == CONFIG.relabel_rounds * CONFIG.updates_per_round


# Gates --------------------------------------------------------------------------------------


class Sequential:
    """Plays pairs of episodes, one more each time, and keeps the worst: a gate of one's own."""

    def __init__(self, pairs: int) -> None:
        self.pairs, self.seen = pairs, []

    def choose(self, candidates, play):
        for _ in range(self.pairs):
            self.seen.append({each.name: play(each, 1) for each in candidates})
        worst = min(candidates, key=lambda each: sum(self.returns(each.name)))
        return worst, f"it returned least in {self.pairs} episodes"

    def returns(self, name: str) -> tuple[float, ...]:
        return tuple(value for pair in self.seen for value in pair[name])


class Once:
    """Plays all episodes of a candidate at once."""

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes

    def choose(self, candidates, play):
        for each in candidates:
            assert len(play(each, self.episodes)) == self.episodes
        return candidates[1], "it is the second"


def with_gate(gate) -> tuple:
    """An adaptation that ends with this gate, its agent, and the steps of its environment."""
    env = pendulum()
    agent = agent_with(LinearModel(3, 1, 0), env)
    config = dataclasses.replace(CONFIG, gate=gate, actor_lr=0.05)
    task = NewTask.of_env(env, termination_fn=never)
    adaptation = adapt(agent, task, config, seed=0, evaluation_episodes=2)
    report = adaptation.report
    spent = report.real_transitions + report.gate_transitions + report.evaluation_transitions
    assert env.steps == spent
    return adaptation, agent


def same_policy(adaptation, agent) -> bool:
    own, other = (each.policy.state_dict() for each in (adaptation.algorithm, agent.algorithm))
    return all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.parametrize(
    ("gate", "kept", "reason"),
    [
        (NeverGate(), "unchanged", "the gate lets nothing pass"),
        (AlwaysGate(), "relabeled", "there is no gate"),
    ],
    ids=str,
)
def test_a_gate_may_decide_without_an_episode(gate, kept, reason):
    adaptation, agent = with_gate(gate)
    report = adaptation.report
    assert (report.decision, report.reason) == (kept, reason)
    assert (report.gate_transitions, report.gate_returns) == (0, {})
    assert list(report.returns) == ["unchanged", "relabeled"]
    assert same_policy(adaptation, agent) == (kept == "unchanged")


@pytest.mark.parametrize("episodes", [1, 3])
@pytest.mark.parametrize(("margin", "kept"), [(0.0, "relabeled"), (1e9, "unchanged")])
def test_the_margin_gate_plays_both_and_keeps_the_better_by_a_margin(
    episodes, margin, kept, monkeypatch
):
    returns = NewTask.returns
    worth = {"unchanged": -2.0, "relabeled": -1.0}

    def told(task, actor, **options):
        found = returns(task, actor, **options)
        return (worth[actor.name],) * len(found)

    monkeypatch.setattr(NewTask, "returns", told)
    adaptation, agent = with_gate(MarginGate(episodes=episodes, margin=margin))
    report = adaptation.report
    assert report.decision == kept
    assert report.gate_returns == {name: (value,) * episodes for name, value in worth.items()}
    assert report.gate_transitions == 2 * episodes * 20
    assert f"-1 in {episodes} real episode(s), against -2" in report.reason
    assert same_policy(adaptation, agent) == (kept == "unchanged")


def test_a_gate_of_ones_own_decides_and_all_that_it_plays_is_counted():
    gate = Sequential(3)
    assert isinstance(gate, Gate)
    report = with_gate(gate)[0].report
    assert report.reason == "it returned least in 3 episodes"
    played = {name: gate.returns(name) for name in ("unchanged", "relabeled")}
    assert report.gate_returns == played
    assert report.gate_transitions == 2 * 3 * 20
    assert sum(played[report.decision]) == min(map(sum, played.values()))
    # Each episode has a start of its own, which the two candidates share.
    assert len(set(played["unchanged"])) == 3
    at_once = with_gate(Once(3))[0].report.gate_returns
    assert at_once == played


def test_an_interrupted_adaptation_goes_on_with_a_gate_of_ones_own(tmp_path):
    """As another process would make it anew."""
    env = pendulum()
    agent = agent_with(LinearModel(3, 1, 0), env)
    task = NewTask.of_env(env, label="mine", termination_fn=never)

    def interrupt(stage, progress):
        if stage == "refine":
            raise KeyboardInterrupt

    def again(**options):
        config = dataclasses.replace(CONFIG, gate=Sequential(2))
        return adapt(agent, task, config, seed=0, evaluation_episodes=1, **options).report

    whole = again()
    kept = {"checkpoint": tmp_path / "real.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        again(**kept, on_stage=interrupt)
    before = env.steps
    resumed = again(**kept)
    assert env.steps - before == resumed.gate_transitions + resumed.evaluation_transitions
    assert dataclasses.replace(resumed, seconds={}) == dataclasses.replace(whole, seconds={})


def test_a_models_context_may_be_identified_without_weights():
    """A linear model with a context, for a policy that knows nothing of it."""
    env = pendulum()
    agent = agent_with(LinearModel(3, 1, 2), env)
    config = dataclasses.replace(CONFIG, relabel_rounds=0)
    task = NewTask.of_env(env, termination_fn=never)
    adaptation = adapt(agent, task, config, seed=0, evaluation_episodes=1)
    assert adaptation.context.any()
    report = adaptation.report
    assert report.train_loss[1] < report.train_loss[0]
    assert report.decision == "unchanged"


def test_a_subclass_of_the_librarys_model_predicts_as_it_says(trained_on):
    class Cheerful(ContextModel):
        """Sees a reward of 100 everywhere."""

        def forward(self, obs, act, context):
            prediction = super().forward(obs, act, context)
            return prediction._replace(rew_mean=torch.full_like(prediction.rew_mean, 100.0))

    env = pendulum()
    agent = agent_with(Cheerful(3, 1, 0, hidden_sizes=(8,)), env)
    config = dataclasses.replace(CONFIG, weight_steps=3)
    adapt(agent, NewTask.of_env(env, termination_fn=never), config, seed=0, evaluation_episodes=1)
    (buffer,) = trained_on
    assert buffer.rew[30:110].min() > 50
