"""Stable-Baselines3's models as Tianshou's: the same numbers, and back; its replay buffers."""

import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from tianshou.algorithm.modelfree.sac import AutoAlpha
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step
from torch import nn

from mier_adapt.integration import (
    ContextReplayBuffer,
    PolicyActor,
    build_sac,
    from_sb3,
    sb3_transitions,
    to_sb3,
    update,
)
from mier_adapt.integration.deterministic import deterministic_network

pytest.importorskip("stable_baselines3", reason="comes with the extra sb3")
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.td3.policies import Actor

OBS_DIM, ACT_DIM = 3, 2
LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32)


class Toy(gymnasium.Env):
    """Says in every observation which episode and step it is of; some episodes end for good."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBS_DIM,))
    action_space = spaces.Box(LOW, HIGH)

    def __init__(self, *, steps=5, ends_at=None, number=0):
        self.steps, self.ends_at, self.number = steps, ends_at, number
        self.episode, self.seen = -1, []

    def _obs(self):
        return np.array([self.number, self.episode, self.step_], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.step_ = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        obs, self.step_ = self._obs(), self.step_ + 1
        rew = float(100 * self.episode + self.step_)
        terminated = self.step_ == self.ends_at
        act = 2 * (action - LOW) / (HIGH - LOW) - 1
        self.seen.append((obs, act, rew, self._obs(), terminated))
        return self._obs(), rew, terminated, not terminated and self.step_ == self.steps, {}


def made(kind=SAC, env=None, **options):
    """A small model, whose targets and temperature differ from what they began with."""
    options = {"policy_kwargs": {"net_arch": [8, 6]}, "seed": 0, "buffer_size": 50, **options}
    model = kind("MlpPolicy", env or Toy(), device="cpu", **options)
    generator = torch.Generator().manual_seed(1)
    for each in model.policy.parameters():
        each.data.add_(0.3 * torch.randn(each.shape, generator=generator))
    if getattr(model, "log_ent_coef", None) is not None:
        model.log_ent_coef.data.fill_(-0.7)
    return model


def rows(seed=0, size=16):
    draw = np.random.default_rng(seed)
    return (
        draw.normal(0, 2, (size, OBS_DIM)).astype(np.float32),
        draw.uniform(-1, 1, (size, ACT_DIM)).astype(np.float32),
    )


def assert_same_numbers(model, algorithm):
    """What both say of the same observations and actions, to 1e-6 of its size."""
    obs, act = rows()
    seen, acted = torch.from_numpy(obs), torch.from_numpy(act)

    def same(one, other, atol=1e-6):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-6)

    with torch.no_grad():
        predicted, _ = model.predict(obs, deterministic=True)
        mine = algorithm.policy(Batch(obs=obs, info={})).act.numpy()
        np.testing.assert_allclose(algorithm.policy.map_action(mine), predicted, atol=1e-5)
        same(torch.from_numpy(mine), torch.from_numpy(model.policy.scale_action(predicted)))
        same(deterministic_network(algorithm.policy)(seen), torch.from_numpy(mine))
        critics = (algorithm.critic, algorithm.critic2)
        for one, other in zip(critics, model.critic(seen, acted), strict=True):
            same(one(obs, act), other)
        targets = (algorithm.critic_old, algorithm.critic2_old)
        for one, other in zip(targets, model.critic_target(seen, acted), strict=True):
            same(one(obs, act), other)
        if isinstance(model, TD3):
            same(algorithm.actor_old(obs)[0], model.actor_target(seen))
            return
        mean, log_std, _ = model.actor.get_action_dist_params(seen)
        loc, scale = algorithm.policy.actor(obs)[0]
        same(loc, mean)
        same(scale, log_std.exp())
        # The same noise in both, and how probable both say that it makes their action.
        torch.manual_seed(3)
        drawn, log_prob = model.actor.action_log_prob(seen)
        torch.manual_seed(3)
        with policy_within_training_step(algorithm.policy):
            result = algorithm.policy(Batch(obs=obs, info={}))
        same(result.act, drawn)
        # Both keep clear of log(0), SB3 by 1e-6 and Tianshou by less; before that they agree.
        kept = [
            torch.log(1 - drawn.square() + clear).sum(-1)
            for clear in (torch.finfo(torch.float32).eps, 1e-6)
        ]
        same(result.log_prob.flatten() + kept[0], log_prob + kept[1], atol=1e-5)


@settings(max_examples=20)
@given(
    kind=st.sampled_from([SAC, TD3]),
    pi=st.lists(st.integers(1, 7), max_size=3),
    qf=st.lists(st.integers(1, 7), max_size=3),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.PReLU]),
    shared=st.booleans(),
)
def test_a_model_of_any_shape_gives_the_same_numbers_and_goes_back(
    kind, pi, qf, activation, shared
):
    options = {
        "net_arch": {"pi": pi, "qf": qf},
        "activation_fn": activation,
        "share_features_extractor": shared,
    }
    model = made(kind, policy_kwargs=options)
    algorithm = from_sb3(model)
    assert_same_numbers(model, algorithm)
    other = made(kind, policy_kwargs=options)
    for each in other.policy.parameters():
        each.data.mul_(1.7)
    to_sb3(algorithm, other)
    for name, value in model.policy.state_dict().items():
        assert torch.equal(other.policy.state_dict()[name], value), name


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_it_is_a_copy_with_the_models_options(kind):
    options = {
        SAC: {"target_entropy": -0.4},
        TD3: {"policy_delay": 3, "target_policy_noise": 0.3, "target_noise_clip": 0.6},
    }[kind]
    kwargs = {
        "net_arch": [4],
        "optimizer_class": torch.optim.AdamW,
        "optimizer_kwargs": {"weight_decay": 0.03},
    }
    model = made(
        kind,
        learning_rate=lambda remaining: 5e-4 * (1 + remaining),
        gamma=0.9,
        tau=0.02,
        n_steps=2,
        policy_kwargs=kwargs,
        learning_starts=2,
        **options,
    )
    model.learn(10)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    state = torch.random.get_rng_state()
    algorithm = from_sb3(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (algorithm.gamma, algorithm.tau, algorithm.n_step_return_horizon) == (0.9, 0.02, 2)
    for mine, own in (
        (algorithm.policy_optim, model.actor.optimizer),
        (algorithm.critic_optim, model.critic.optimizer),
        (algorithm.critic2_optim, model.critic.optimizer),
    ):
        assert type(mine._optim) is torch.optim.AdamW
        assert mine._optim.param_groups[0]["weight_decay"] == 0.03
        assert mine._optim.param_groups[0]["lr"] == own.param_groups[0]["lr"] < 1e-3
    if kind is SAC:
        assert algorithm.alpha._target_entropy == -0.4
        assert algorithm.alpha._log_alpha.item() == model.log_ent_coef.item()
        lr = model.ent_coef_optimizer.param_groups[0]["lr"]
        assert algorithm.alpha._optim.param_groups[0]["lr"] == lr < 1e-3
    else:
        assert (algorithm.update_actor_freq, algorithm.policy_noise) == (3, 0.3)
        assert algorithm.noise_clip == 0.6
        assert from_sb3(made(TD3, target_noise_clip=0.0)).policy_noise == 0

    # It trains by itself, and the model stays as it was.
    log = sb3_transitions(model)
    buffer = ContextReplayBuffer.of([log], generator=np.random.default_rng(0))
    algorithm.n_step_return_horizon = 1
    for _ in range(4):
        losses = update(algorithm, buffer, 8)
    assert np.isfinite([*losses.values()]).all()
    for name, value in before.items():
        assert torch.equal(model.policy.state_dict()[name], value), name
    own = zip(algorithm.policy.actor.parameters(), model.actor.parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in own)


def test_a_fixed_temperature_stays_fixed():
    model = made(ent_coef=0.05)
    algorithm = from_sb3(model)
    assert algorithm.alpha.value == pytest.approx(0.05)
    assert not isinstance(algorithm.alpha, AutoAlpha)
    other = made(ent_coef=0.3)
    to_sb3(algorithm, other)
    assert other.ent_coef_tensor == model.ent_coef_tensor


@pytest.mark.parametrize("envs", [1, 2])
def test_it_explores_as_the_model_does(envs):
    """Also where SB3 has made one noise for each environment of the one that it was given."""
    noise = NormalActionNoise(np.array([0.5, 0.0]), np.array([0.0, 0.2]))
    model = made(TD3, DummyVecEnv([Toy] * envs), action_noise=noise, learning_starts=1)
    model.learn(4 * envs)
    algorithm = from_sb3(model)
    obs, _ = rows(size=400)
    actor = PolicyActor(algorithm.policy, torch.zeros(0))
    np.random.seed(0)  # noqa: NPY002 - SB3's noise draws from the global generator
    added = actor.act(obs, explore=True) - actor.act(obs, explore=False)
    inside = np.abs(actor.act(obs, explore=True)).max(-1) < 1
    np.testing.assert_allclose(added[inside, 0], 0.5, atol=1e-5)
    assert added[inside, 1].std() == pytest.approx(0.2, rel=0.3)
    quiet = PolicyActor(from_sb3(made(TD3)).policy, torch.zeros(0))
    np.testing.assert_array_equal(quiet.act(obs, explore=True), quiet.act(obs, explore=False))
    walk = OrnsteinUhlenbeckActionNoise(np.zeros(ACT_DIM), np.ones(ACT_DIM))
    algorithm = from_sb3(made(action_noise=walk))
    PolicyActor(algorithm.policy, torch.zeros(0)).act(obs, explore=True)
    assert not walk.noise_prev.any()  # the model's own has not been drawn from


# Back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_what_was_learned_goes_back_and_sb3_trains_on(kind):
    model = made(kind, learning_starts=2)
    model.learn(20)
    algorithm = from_sb3(model)
    buffer = ContextReplayBuffer.of([sb3_transitions(model)], generator=np.random.default_rng(0))
    for _ in range(4):
        update(algorithm, buffer, 8)
    assert model.actor.optimizer.state
    to_sb3(algorithm, model)
    assert_same_numbers(model, algorithm)
    if kind is SAC:
        assert model.log_ent_coef.item() == algorithm.alpha._log_alpha.item()
        assert not model.ent_coef_optimizer.state
    assert not model.actor.optimizer.state
    assert not model.critic.optimizer.state
    before = next(model.actor.parameters()).clone()
    model.learn(10, reset_num_timesteps=False)
    assert not torch.equal(before, next(model.actor.parameters()))
    # The algorithm is none of the model: they share no tensor.
    assert not torch.equal(
        next(algorithm.policy.actor.parameters()), next(model.actor.parameters())
    )


def test_back_goes_all_or_nothing():
    model = made()
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    wide = from_sb3(made(policy_kwargs={"net_arch": {"pi": [8, 6], "qf": [8, 7]}}))
    with pytest.raises(ValueError, match=r"to_sb3 expected .*critic 1: Linear.*critic 2's target"):
        to_sb3(wide, model)
    with pytest.raises(ValueError, match=r"actor: .*ReLU.* in SB3, .*Tanh.* in Tianshou"):
        to_sb3(from_sb3(made(policy_kwargs={"net_arch": [8, 6], "activation_fn": nn.Tanh})), model)
    with pytest.raises(ValueError, match="temperatures: one is learned, the other fixed"):
        to_sb3(from_sb3(made(ent_coef=0.1)), model)
    with pytest.raises(TypeError, match="both SACs or both TD3s"):
        to_sb3(from_sb3(made(TD3)), model)
    for name, value in model.policy.state_dict().items():
        assert torch.equal(before[name], value), name
    own = build_sac(Toy.observation_space, Toy.action_space, 0, hidden_sizes=(8, 6))
    to_sb3(own, model)  # of any make, as long as it is built alike
    assert_same_numbers(model, own)
    with pytest.raises(ValueError, match=r"actor: Linear\(in_features=3"):
        to_sb3(build_sac(Toy.observation_space, Toy.action_space, 2, hidden_sizes=(8, 6)), model)


# What cannot be taken over ------------------------------------------------------------------


class Images(Toy):
    observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)


class Parts(Toy):
    observation_space = spaces.Dict({"here": Toy.observation_space})


class Noisy(Actor):
    """An actor of one's own."""

    def forward(self, obs):
        return super().forward(obs) / 2


class Own(nn.Module):
    """A features extractor without weights, which still is none."""

    features_dim = OBS_DIM

    def __init__(self, space):
        super().__init__()

    def forward(self, obs):
        return 2 * obs


def with_own_actor():
    model = made(TD3)
    model.policy.actor.__class__ = Noisy
    return model


def with_dropout():
    model = made()
    model.policy.critic.q_networks[1].insert(1, nn.Dropout(0.1))  # DroQ's
    return model


REFUSED = {
    "gsde": (lambda: made(use_sde=True), ValueError, "use_sde=True"),
    "images": (
        lambda: SAC("CnnPolicy", Images(), buffer_size=1),
        ValueError,
        "model's observations to be a Box of one axis",
    ),
    "dict": (
        lambda: SAC("MultiInputPolicy", Parts(), buffer_size=1),
        ValueError,
        "FlattenObservation",
    ),
    "extractor": (
        lambda: made(policy_kwargs={"net_arch": [4], "features_extractor_class": Own}),
        ValueError,
        r"features extractors \['Own'\].*TransformObservation",
    ),
    "ddpg": (lambda: made(DDPG), ValueError, r"n_critics=1.*train a TD3"),
    "three critics": (
        lambda: made(policy_kwargs={"net_arch": [4], "n_critics": 3}),
        ValueError,
        "n_critics=3",
    ),
    "own actor": (with_own_actor, ValueError, r"networks of other classes, \['Noisy'\].*imitate"),
    "dropout": (with_dropout, ValueError, r"critic 2: .*Dropout\(p=0.1.* in SB3.*[Ii]mitate"),
    "normalized": (
        lambda: made(env=VecNormalize(DummyVecEnv([Toy]))),
        ValueError,
        r"VecNormalize.*TransformObservation\(env, vec_normalize.normalize_obs",
    ),
    "ppo": (lambda: PPO("MlpPolicy", Toy(), n_steps=8, batch_size=8), TypeError, "SAC or TD3 of"),
    "nothing": (lambda: None, TypeError, "SAC or TD3 of Stable-Baselines3, got None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_over_is_refused(name):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        from_sb3(make())
    if name != "dropout":
        with pytest.raises(error, match=message):
            to_sb3(from_sb3(made()), make())


def test_the_way_around_vecnormalize_leads_to_the_same_actions():
    """Statistics that stand still, in the environment: what the error says to do."""
    normalized = VecNormalize(DummyVecEnv([Toy]))
    model = made(env=normalized, learning_starts=5)
    model.learn(30)
    normalized.training = False
    raw, _ = rows()
    wanted, _ = model.predict(normalized.normalize_obs(raw), deterministic=True)
    env = gymnasium.wrappers.TransformObservation(Toy(), normalized.normalize_obs, None)
    model.set_env(env)
    shown, _ = env.reset()
    np.testing.assert_allclose(shown, normalized.normalize_obs(env.unwrapped._obs()))
    actor = PolicyActor(from_sb3(model).policy, torch.zeros(0))
    acted = actor.act(env.func(raw), explore=False)
    np.testing.assert_allclose(LOW + (HIGH - LOW) * (acted + 1) / 2, wanted, atol=1e-5)


# Replay buffers -----------------------------------------------------------------------------


def filled(envs, steps, *, buffer_size=50, **options):
    """A buffer that SB3's own loop filled, and what its environments saw."""
    model = made(env=DummyVecEnv([lambda e=e: e for e in envs]), buffer_size=buffer_size, **options)
    model.learning_starts = steps + 1
    model.learn(steps)
    return model


def as_seen(transitions):
    """Transitions as the environments noted them, one by one."""
    columns = (transitions.obs, transitions.act, transitions.rew, transitions.obs_next)
    return [
        (*(each.numpy() for each in row), bool(ended))
        for *row, ended in zip(*columns, transitions.terminated, strict=True)
    ]


def assert_seen(transitions, wanted):
    found = as_seen(transitions)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@given(
    steps=st.integers(1, 60),
    capacity=st.integers(1, 25),
    num_envs=st.integers(1, 3),
    length=st.integers(1, 7),
    ends_at=st.one_of(st.none(), st.integers(1, 7)),
    buffer=st.sampled_from([ReplayBuffer, NStepReplayBuffer]),
)
def test_a_buffer_is_what_the_environments_saw(steps, capacity, num_envs, length, ends_at, buffer):
    """Each environment's newest steps, in order; ends for good and by time are told apart."""
    envs = [Toy(steps=length, ends_at=ends_at, number=number) for number in range(num_envs)]
    model = filled(envs, steps, buffer_size=capacity * num_envs, replay_buffer_class=buffer)
    transitions = sb3_transitions(model)
    assert_seen(transitions, [row for env in envs for row in env.seen[-capacity:]])
    assert transitions.obs.dtype == torch.float32


@given(
    steps=st.integers(1, 60),
    capacity=st.integers(2, 25),
    num_envs=st.integers(1, 3),
    length=st.integers(1, 7),
)
def test_a_buffer_that_saves_memory_gives_what_it_still_knows(steps, capacity, num_envs, length):
    envs = [Toy(steps=length, number=number) for number in range(num_envs)]
    model = filled(
        envs,
        steps,
        buffer_size=capacity * num_envs,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    )
    wanted = []
    for env in envs:
        # A full ring has written the newest step's next observation over its oldest step's own.
        held = env.seen[-capacity:][len(env.seen) >= capacity :]
        wanted += [row for row in held if row[3][2] < length]
    if not wanted:
        with pytest.raises(ValueError, match="optimize_memory_usage"):
            sb3_transitions(model)
        return
    assert_seen(sb3_transitions(model), wanted)


def test_says_how_many_transitions_it_left_out(caplog):
    model = filled(
        [Toy()],
        12,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    )
    assert len(sb3_transitions(model)) == 10
    assert "left out 2 of 12 transitions" in caplog.text
    assert "2 of them ended an episode" in caplog.text


def test_a_loaded_model_says_where_its_buffer_is(tmp_path):
    model = filled([Toy()], 12)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = SAC.load(tmp_path / "model", device="cpu")
    assert_same_numbers(loaded, from_sb3(model))
    with pytest.raises(ValueError, match=r"model.load_replay_buffer\(path\)"):
        sb3_transitions(loaded)
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert_seen(sb3_transitions(loaded), as_seen(sb3_transitions(model)))


def test_buffers_that_say_too_little_are_refused():
    blind = {"handle_timeout_termination": False}
    endless = filled([Toy(steps=100)], 12, replay_buffer_kwargs=blind)
    assert len(sb3_transitions(endless)) == 12
    with pytest.raises(ValueError, match=r"handle_timeout_termination=False in which 2 episodes"):
        sb3_transitions(filled([Toy()], 12, replay_buffer_kwargs=blind))

    class Mine(ReplayBuffer):
        pass

    with pytest.raises(TypeError, match="got a Mine"):
        sb3_transitions(filled([Toy()], 12, replay_buffer_class=Mine))
    with pytest.raises(TypeError, match="with a replay buffer, such as SAC"):
        sb3_transitions(PPO("MlpPolicy", Toy(), n_steps=8, batch_size=8))


class Reach(gymnasium.Env):
    """A goal, as HER asks for."""

    action_space = spaces.Box(-1, 1, (1,))
    observation_space = spaces.Dict(
        {name: spaces.Box(-1, 1, (1,)) for name in ("observation", "achieved_goal", "desired_goal")}
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {name: np.zeros(1, np.float32) for name in self.observation_space}, {}

    def step(self, action):
        return self.reset()[0], 0.0, False, True, {}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return np.zeros(len(np.atleast_2d(achieved_goal)), np.float32)


def test_buffers_of_parts_are_refused():
    model = SAC(
        "MultiInputPolicy",
        Reach(),
        replay_buffer_class=HerReplayBuffer,
        buffer_size=50,
        learning_starts=100,
        device="cpu",
    )
    model.learn(8)
    with pytest.raises(TypeError, match="got a HerReplayBuffer"):
        sb3_transitions(model)
    discrete = DQN("MlpPolicy", "CartPole-v1", buffer_size=50, learning_starts=100, device="cpu")
    discrete.learn(8)
    with pytest.raises(ValueError, match="model's actions to be a Box"):
        sb3_transitions(discrete)


def test_without_sb3_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3.sac", None)
    with pytest.raises(ImportError, match=r"pip install 'mier-adapt\[sb3\]'"):
        from_sb3(object())
