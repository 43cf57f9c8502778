"""A model of Stable-Baselines3 on a changed robot, in one call."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mier_adapt import (
    AdaptedPolicy,
    CompensatedAction,
    ContextModel,
    GradientContextAdapter,
    Transitions,
    adapt_algorithm,
    adapt_sb3,
    meta_train_offline,
)
from mier_adapt.adaptation import AlwaysGate, own_policy
from mier_adapt.agents import AdaptConfig, ModelConfig
from mier_adapt.integration import from_sb3, sb3_transitions, to_sb3

from ..doubles import SMALL_OWN, assert_same_tree

pytest.importorskip("stable_baselines3", reason="comes with the extra sb3")
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv


class Cart(gymnasium.Env):
    """A cart that is pushed: ``vel_next = 0.9 vel + motor * push``; the reward is its speed."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(-2, 2, (1,))

    def __init__(self, motor=1.0):
        self.motor = motor

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2)
        return self.state.astype(np.float32), {}

    def step(self, action):
        position, velocity = self.state
        velocity = 0.9 * velocity + 0.5 * self.motor * float(action[0])
        self.state = np.array([position + 0.1 * velocity, velocity])
        return self.state.astype(np.float32), float(velocity), False, False, {}


def cart(motor=1.0, steps=30):
    return gymnasium.wrappers.TimeLimit(Cart(motor), steps)


def made(kind=SAC, env=None, steps=400, **options):
    noise = NormalActionNoise(np.zeros(1), np.full(1, 0.3)) if kind is TD3 else None
    model = kind(
        "MlpPolicy",
        env or cart(),
        policy_kwargs={"net_arch": [16]},
        buffer_size=1_000,
        learning_starts=steps - 50,
        action_noise=noise,
        seed=0,
        device="cpu",
        **options,
    )
    return model.learn(steps)


@pytest.fixture(autouse=True)
def _few_model_steps(monkeypatch):
    monkeypatch.setattr(own_policy, "_FEWEST_STEPS", 20)


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_what_was_learned_acts_is_saved_and_goes_back(kind, tmp_path):
    model, env = made(kind), cart(0.5)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    config = dataclasses.replace(SMALL_OWN, gate=AlwaysGate())
    stages = []
    adaptation = adapt_sb3(
        model, env, seed=3, config=config, on_stage=lambda stage, progress: stages.append(stage)
    )
    assert list(dict.fromkeys(stages)) == ["model", "identify", "refine", "relabel", "gate"]
    assert adaptation.report.decision == "relabeled"
    assert_same_tree(dict(model.policy.state_dict()), before)
    obs = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    commands = adaptation.predict(obs)
    adaptation.save(tmp_path / "policy")
    np.testing.assert_array_equal(AdaptedPolicy.load(tmp_path / "policy").predict(obs), commands)
    assert np.abs(commands - model.predict(obs, deterministic=True)[0]).max() > 1e-4
    to_sb3(adaptation.algorithm, model)
    np.testing.assert_allclose(commands, model.predict(obs, deterministic=True)[0], atol=1e-5)

    # The same as by hand, and the same again.
    model.policy.load_state_dict(before)
    by_hand = adapt_algorithm(from_sb3(model), env, [sb3_transitions(model)], seed=3, config=config)
    np.testing.assert_array_equal(by_hand.predict(obs), commands)


def test_behind_a_compensation_the_model_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(own_policy, "_FEWEST_STEPS", 300)
    model, env = made(steps=900), cart(-1.0)
    config = AdaptConfig.for_own_policy(adaptation_steps=100, gate=AlwaysGate())
    adaptation = adapt_sb3(model, env, seed=0, config=config, evaluation_episodes=1)
    assert adaptation.compensation is not None
    assert adaptation.diagnosis.changed
    obs = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    own, _ = model.predict(obs, deterministic=True)
    repaired = CompensatedAction(env, adaptation.compensation)
    for shown, wanted, command in zip(obs, own, adaptation.predict(obs), strict=True):
        np.testing.assert_allclose(command, -wanted, atol=1e-4)
        repaired.reset(seed=0)
        env.unwrapped.state = intact_state = shown.astype(np.float64)
        reached, *_ = repaired.step(wanted)
        intact = Cart()
        intact.state = intact_state
        np.testing.assert_allclose(reached, intact.step(wanted)[0], atol=1e-4)
    to_sb3(adaptation.algorithm, model)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], own)


def test_takes_other_experience_in_place_of_the_models(tmp_path):
    model = made()
    model.save(tmp_path / "model")
    loaded = SAC.load(tmp_path / "model", device="cpu")
    options = {"seed": 0, "config": SMALL_OWN, "evaluation_episodes": 1}
    with pytest.raises(ValueError, match=r"adapt_sb3 expected .*load_replay_buffer\(path\)"):
        adapt_sb3(loaded, cart(0.5), **options)
    obs = np.zeros((1, 2), np.float32)
    acts = [
        adapt_sb3(loaded, cart(0.5), earlier=[earlier], **options).predict(obs)
        for earlier in (model.replay_buffer, sb3_transitions(model))
    ]
    np.testing.assert_array_equal(*acts)


def test_takes_a_model_that_was_trained_beforehand():
    model, stages = made(), []
    options = {"seed": 0, "config": SMALL_OWN, "evaluation_episodes": 1}
    adapter = meta_train_offline(
        [sb3_transitions(model)], steps=20, seed=0, config=ModelConfig(context_dim=0)
    )
    before = {name: value.clone() for name, value in adapter.model.state_dict().items()}
    for motor in (0.5, -1.0):  # of several changed robots, each time as it was
        adapt_sb3(
            model,
            cart(motor),
            adapter=adapter,
            on_stage=lambda stage, progress: stages.append(stage),
            **options,
        )
        assert_same_tree(dict(adapter.model.state_dict()), before)
    assert "model" not in stages
    of_others = GradientContextAdapter(ContextModel(3, 1, 0, hidden_sizes=(4,)))
    with pytest.raises(ValueError, match=r"adapt_sb3 expected adapter .*\(2, 1\), got .*\(3, 1\)"):
        adapt_sb3(model, cart(0.5), adapter=of_others, **options)


def test_says_what_to_give_in_place_of_what_came():
    model, options = made(), {"seed": 0, "config": SMALL_OWN}
    several = DummyVecEnv([cart])
    with pytest.raises(TypeError, match=r"env to be one gymnasium.Env.*vec_env.envs\[0\]"):
        adapt_sb3(model, several, **options)
    with pytest.raises(TypeError, match=r"algorithm to be of Tianshou, got a SAC.*adapt_sb3\(mod"):
        adapt_algorithm(model, cart(), [model.replay_buffer], **options)
    with pytest.raises(TypeError, match=r"earlier\[0\] to be of Tianshou, got a ReplayBuffer"):
        adapt_algorithm(from_sb3(model), cart(), [model.replay_buffer], **options)
    wide = gymnasium.wrappers.TransformObservation(
        cart(), lambda obs: np.append(obs, 0), spaces.Box(-np.inf, np.inf, (3,))
    )
    with pytest.raises(ValueError, match=r"adapt_sb3 expected .* dimensions .* got \(2, 1\)"):
        adapt_sb3(model, wide, **options)
    other = gymnasium.wrappers.RescaleAction(cart(), np.float32(-1), np.float32(1))
    with pytest.raises(ValueError, match=r"adapt_sb3 expected .*RescaleAction"):
        adapt_sb3(model, other, **options)
    with pytest.raises(TypeError, match=r"adapt_sb3 expected earlier\[0\] to have SB3's ReplayBuf"):
        adapt_sb3(model, cart(), earlier=[3], **options)
    with pytest.raises(ValueError, match="at least one of earlier, got none"):
        adapt_sb3(model, cart(), earlier=[], **options)
    log = sb3_transitions(model)
    ended = Transitions(log.obs, log.act, log.rew, log.obs_next, ~log.terminated)
    with pytest.raises(ValueError, match=r"adapt_sb3 expected .*termination_fn, since"):
        adapt_sb3(model, cart(), earlier=[ended], **options)


def test_a_buffer_that_cannot_tell_needs_a_rule_for_the_end():
    model = made(
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    )
    options = {"seed": 0, "config": SMALL_OWN, "evaluation_episodes": 1}
    with pytest.raises(ValueError, match=r"adapt_sb3 expected a termination_fn, since a buffer"):
        adapt_sb3(model, cart(0.5), **options)
    adaptation = adapt_sb3(
        model,
        cart(0.5),
        termination_fn=lambda obs, act, obs_next: np.zeros(len(obs), dtype=bool),
        **options,
    )
    assert adaptation.report.real_transitions == 60


def test_the_callers_random_numbers_are_the_callers():
    model = made()
    state, drawn = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    adapt_sb3(model, cart(0.5), seed=0, config=SMALL_OWN, evaluation_episodes=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == drawn).all()  # noqa: NPY002
