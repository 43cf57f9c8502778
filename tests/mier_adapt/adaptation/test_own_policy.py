import dataclasses
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv

from mier_adapt import AdaptedPolicy, Transitions, adapt_algorithm, meta_train_offline
from mier_adapt.adaptation import AlwaysGate, own_policy
from mier_adapt.agents import ModelConfig
from mier_adapt.integration import (
    ContextReplayBuffer,
    algorithm_state,
    from_tianshou,
    load_algorithm_state,
    update,
)
from mier_adapt.training import imitate

from ..doubles import ALGORITHMS, SMALL_OWN, assert_same_tree


@pytest.fixture(autouse=True)
def _few_model_steps(monkeypatch):
    monkeypatch.setattr(own_policy, "_FEWEST_STEPS", 20)


def swimmer():
    return gymnasium.make("Swimmer-v5", max_episode_steps=30)


@pytest.fixture(scope="module")
def buffer():
    """What stock Tianshou's collector stores of random actions."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - stock Tianshou draws from the global generators
    envs = DummyVectorEnv([swimmer, swimmer])
    stored = VectorReplayBuffer(1_000, 2)
    collector = Collector(new(), envs, stored)
    collector.reset()
    collector.collect(n_step=300, random=True)
    return stored


def new(name="SAC"):
    """A tiny stock algorithm that knows no context."""
    torch.manual_seed(0)
    return ALGORITHMS[name](8, 0)


def test_reads_what_stock_collectors_store(buffer):
    transitions = from_tianshou(buffer)
    assert len(transitions) == len(buffer) == 300
    assert transitions.obs.shape == (300, 8)
    assert float(transitions.act.abs().max()) <= 1
    assert float(transitions.act.abs().max()) > 0.9
    episode = buffer.buffers[0]
    assert torch.equal(transitions.rew[:10], torch.as_tensor(episode.rew[:10]).float())
    assert torch.equal(transitions.obs[1], transitions.obs_next[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": dataclasses.replace(SMALL_OWN, refresh_updates=1)}, "refresh_updates=0 for a"),
        ({"config": SMALL_OWN, "checkpoint": Path("real")}, "a task with a label to go with"),
        ({"config": SMALL_OWN, "termination_fn": lambda o, a, n: False}, "to return bool of shape"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_trained(options, message, buffer):
    stages = []
    with pytest.raises(ValueError, match=f"adapt_algorithm expected .*{message}"):
        adapt_algorithm(
            new(),
            swimmer(),
            [buffer],
            seed=0,
            on_stage=lambda stage, share: stages.append(stage),
            **options,
        )
    assert not stages


@pytest.mark.parametrize("name", ["SAC", "TD3", "REDQ"])
def test_adapts_stock_algorithms_in_stock_environments(name, buffer):
    env = swimmer()
    algorithm = new(name)
    before = {k: v.clone() for k, v in algorithm.policy.state_dict().items()}
    stages = []
    adaptation = adapt_algorithm(
        algorithm,
        env,
        [buffer],
        seed=0,
        config=SMALL_OWN,
        evaluation_episodes=2,
        on_stage=lambda stage, progress: stages.append(stage),
    )
    adapted, context, report = adaptation.algorithm, adaptation.context, adaptation.report
    assert list(dict.fromkeys(stages)) == ["model", "identify", "refine", "relabel", "gate"]
    assert list(report.returns) == ["unchanged", "relabeled"]
    assert report.decision in report.returns
    assert report.real_transitions == 60
    assert report.gate_transitions in range(2 * 2 * 30, 2 * 8 * 30 + 1, 2 * 30)
    assert report.novelty is None
    assert report.task == "Swimmer-v5"
    assert context.shape == (0,)
    assert report.validation_loss[2] <= report.validation_loss[0]
    after = algorithm.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    kept = adapted.policy.state_dict()
    changed = any(not torch.equal(before[name], kept[name]) for name in before)
    assert changed == (report.decision == "relabeled")


def test_the_same_seed_gives_the_same_policy(buffer):
    weights = []
    for _ in range(2):
        env = swimmer()
        config = dataclasses.replace(SMALL_OWN, gate=AlwaysGate())
        adapted = adapt_algorithm(new(), env, [buffer], seed=3, config=config).algorithm
        weights.append(torch.cat([p.detach().flatten() for p in adapted.policy.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("name", ["SAC", "TD3", "REDQ"])
def test_what_is_handed_back_is_a_policy_and_trains_on(buffer, name, tmp_path):
    """It acts by itself, and the algorithm goes on as if it had never been adapted."""
    algorithm, env = new(name), swimmer()
    config = dataclasses.replace(SMALL_OWN, gate=AlwaysGate())
    adaptation = adapt_algorithm(algorithm, env, [buffer], seed=3, config=config)
    obs = np.random.default_rng(0).normal(size=(5, 8))
    acted = adaptation.actor.act(obs, explore=False)
    low, high = env.action_space.low, env.action_space.high
    commands = low + (high - low) * (acted + 1) / 2
    np.testing.assert_allclose(adaptation.predict(obs), commands, atol=1e-6)
    before = algorithm.policy.state_dict()
    after = adaptation.algorithm.policy.state_dict()
    assert any(not torch.equal(after[each], before[each]) for each in before)
    assert_same_tree(after, adaptation.actor.algorithm.policy.state_dict())

    adaptation.save(tmp_path / "policy")
    loaded = AdaptedPolicy.load(tmp_path / "policy")
    np.testing.assert_array_equal(loaded.predict(obs), adaptation.predict(obs))
    assert loaded.about["environment"] == {"id": "Swimmer-v5", "max_episode_steps": 30}
    assert loaded.about["decision"] == "relabeled"
    built = new(name)
    load_algorithm_state(built, loaded.algorithm_state)
    kept = algorithm_state(algorithm)
    trained = algorithm_state(built)
    for part in ("counters", "alpha_optimizer"):
        assert_same_tree(trained.get(part), kept.get(part))
    if name != "TD3":
        assert torch.equal(built.alpha._log_alpha, algorithm.alpha._log_alpha)
        assert built.alpha._log_alpha.requires_grad
    rates = [each["lr"] for each in built.policy_optim._optim.param_groups]
    assert rates == [each["lr"] for each in algorithm.policy_optim._optim.param_groups]
    update(built, from_policy(buffer), 16)


def from_policy(buffer):
    """What an algorithm without a context trains on."""
    return ContextReplayBuffer.of([from_tianshou(buffer)], generator=np.random.default_rng(0))


def test_a_model_with_a_context_of_its_own_may_identify_the_task(buffer):
    env = swimmer()
    log = from_tianshou(buffer)
    tasks = [log, Transitions(log.obs, log.act, log.rew - 1, log.obs_next, log.terminated)]
    adapter = meta_train_offline(
        tasks, steps=5, seed=0, config=ModelConfig(context_dim=2, hidden_sizes=(16,))
    )
    adaptation = adapt_algorithm(
        new(), env, tasks, seed=0, config=SMALL_OWN, adapter=adapter, evaluation_episodes=1
    )
    assert adaptation.context.shape == (2,)
    assert adaptation.context.any()


def test_says_what_does_not_fit(buffer):
    env = swimmer()
    log = from_tianshou(buffer)
    ended = Transitions(log.obs, log.act, log.rew, log.obs_next, ~log.terminated)
    with pytest.raises(ValueError, match=r"adapt_algorithm expected .*termination_fn, since"):
        adapt_algorithm(new(), env, [ended], seed=0, config=SMALL_OWN)
    narrow = Transitions(log.obs[:, :6], log.act, log.rew, log.obs_next[:, :6], log.terminated)
    with pytest.raises(ValueError, match=r"of \(8, 2\) dimensions.* got \(6, 2\)"):
        adapt_algorithm(new(), env, [log, narrow], seed=0, config=SMALL_OWN)
    with pytest.raises(ValueError, match=r"adapt_algorithm expected .* \(8, 2\), got \(6, 2\)"):
        adapt_algorithm(new(), env, [narrow], seed=0, config=SMALL_OWN)
    with pytest.raises(ValueError, match="at least one of earlier, got none"):
        adapt_algorithm(new(), env, [], seed=0, config=SMALL_OWN)
    endless = gymnasium.make("Swimmer-v5", max_episode_steps=-1)
    with pytest.raises(ValueError, match="with a time limit"):
        adapt_algorithm(new(), endless, [log], seed=0, config=SMALL_OWN)


def test_meta_training_offline_tells_tasks_apart(buffer):
    log = from_tianshou(buffer)
    tasks = [
        Transitions(log.obs, log.act, log.rew + shift, log.obs_next, log.terminated)
        for shift in (-5.0, 0.0, 5.0)
    ]
    losses = []
    adapter = meta_train_offline(
        tasks,
        steps=150,
        seed=0,
        # At the default lr its loss jumps, with some seeds just before the end.
        config=ModelConfig(context_dim=2, hidden_sizes=(32, 32), batch_size=32, lr=3e-4),
        on_step=lambda step, loss: losses.append(loss),
    )
    assert len(losses) == 150
    contexts = adapter.adapt(Transitions.stack(tasks))
    with torch.no_grad():
        own = adapter.model.loss(Transitions.stack(tasks), contexts)
        other = adapter.model.loss(Transitions.stack(tasks), contexts.roll(1, 0))
    assert (own < other).all()


@pytest.mark.parametrize("name", ["SAC", "TD3", "REDQ"])
def test_imitation_acts_like_the_policy_and_learns_its_worth(name, buffer):
    log = from_tianshou(buffer)
    algorithm = new(name)

    def policy(obs):
        return torch.tanh(obs[:, :2])

    progress = []
    difference = imitate(
        algorithm,
        policy,
        log,
        seed=0,
        actor_updates=300,
        critic_updates=5,
        batch_size=64,
        lr=3e-3,
        on_update=progress.append,
    )
    assert difference < 0.15
    assert progress[-1] == 1.0
    with pytest.raises(ValueError, match=r"policy to return .* of shape \(8, 2\), got \(8, 8\)"):
        imitate(algorithm, lambda obs: obs, log, seed=0, batch_size=8)
    with pytest.raises(ValueError, match=r"policy returns in \[-1, 1\], got values from"):
        imitate(algorithm, lambda obs: obs[:, :2] + 3, log, seed=0)
