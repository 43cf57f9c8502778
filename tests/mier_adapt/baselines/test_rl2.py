import dataclasses
import json

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from hypothesis import given
from hypothesis import strategies as st

from mier_adapt import Transitions
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.agents import FamilyEnvs, collect, evaluate
from mier_adapt.agents.rollouts import collect_episodes
from mier_adapt.agents.run_file import OtherMethodError
from mier_adapt.baselines import Pearl, PearlConfig, Rl2, Rl2Config
from mier_adapt.baselines.policy_gradients import clipped_objective
from mier_adapt.baselines.rl2 import (
    RecurrentValue,
    Rl2Networks,
    Rl2Policy,
    Rl2Trainer,
    advantages,
    log_prob,
    seen_in,
)
from mier_adapt.baselines.runs import descend
from mier_adapt.protocols import Actor, MetaPolicy, Method
from mier_adapt.training.metrics import read_metrics

from ..conftest import CHECKPOINT
from ..doubles import ACT_DIM, OBS_DIM, DriftEnv, assert_same_tree, random_transitions
from .lever import (
    BLIND_RESTING_RETURN,
    EPISODE,
    SEEDS,
    LeverVectorEnv,
    RestingLeverVectorEnv,
    Spaces,
    register_lever,
)


def lever_config(**changes) -> Rl2Config:
    values = {
        "family": "Lever",
        "updates": 5,
        "trials_per_update": 6,
        "exploration_episodes": 2,
        "episode_steps": EPISODE,
        "hidden_size": 16,
        "initial_std": 0.6,
        "epochs": 4,
        "trials_per_minibatch": 4,
        "lr": 1e-2,
        "gamma": 0.9,
        "gae_lambda": 0.9,
        "evaluate_every": 100,
        "evaluated_tasks": 2,
    }
    return Rl2Config(**{**values, **changes})


SMALL = Rl2Config(family="HalfCheetahVel", hidden_size=8, gamma=0.9)


def small_policy(seed: int = 0) -> Rl2Policy:
    torch.manual_seed(seed)
    return Rl2Policy(SMALL, Rl2Networks(SMALL, Spaces()))


def drifts(count: int = 2) -> SyncVectorEnv:
    """Episodes that a time limit cuts, and some that end for good before it."""
    return SyncVectorEnv(
        [lambda: TimeLimit(DriftEnv(strength=2.0), 7)] * count,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )


# What is seen -------------------------------------------------------------------------------


def test_what_is_seen_of_a_trial_by_hand():
    """Five steps: the second ends its episode for good, the fourth is cut by a time limit."""
    obs = torch.tensor([0.0, 1.0, 5.0, 6.0, 8.0]).reshape(1, 5, 1)
    obs_next = torch.tensor([1.0, 5.0, 6.0, 7.0, 9.0]).reshape(1, 5, 1)
    trial = Transitions(
        obs=obs,
        act=torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).reshape(1, 5, 1),
        rew=torch.tensor([[10.0, 20.0, 30.0, 40.0, 50.0]]),
        obs_next=obs_next,
        terminated=torch.tensor([[False, True, False, False, False]]),
    )
    expected = [
        [0.0, 0.0, 0.0, 1.0],
        [1.0, 0.1, 10.0, 0.0],
        [5.0, 0.2, 20.0, 1.0],
        [6.0, 0.3, 30.0, 0.0],
        [8.0, 0.4, 40.0, 1.0],
    ]
    torch.testing.assert_close(seen_in(trial), torch.tensor([expected]))
    torch.testing.assert_close(
        seen_in(trial._map(lambda each: each[:, :1])), torch.tensor([expected[:1]])
    )


# Values and advantages ----------------------------------------------------------------------


def test_advantages_by_hand():
    """delta = (1, 2, 1), each counted by a quarter of the ones after it."""
    rew, value = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.0, 2.0]])
    found = advantages(rew, value, gamma=0.5, gae_lambda=0.5)
    torch.testing.assert_close(found, torch.tensor([[1.5625, 2.25, 1.0]]))


@given(st.integers(0, 10**6), st.floats(0.1, 1), st.floats(0, 1))
def test_advantages_with_their_values_are_discounted_returns_or_one_step_targets(
    seed, gamma, gae_lambda
):
    generator = torch.Generator().manual_seed(seed)
    rew, value = torch.randn(2, 2, 6, generator=generator, dtype=torch.float64)
    discounts = gamma ** torch.arange(6, dtype=torch.float64)
    whole = advantages(rew, value, gamma=gamma, gae_lambda=1.0) + value
    for step in range(6):
        expected = (rew[:, step:] * discounts[: 6 - step]).sum(1)
        torch.testing.assert_close(whole[:, step], expected)
    one = advantages(rew, value, gamma=gamma, gae_lambda=0.0) + value
    torch.testing.assert_close(one[:, :-1], rew[:, :-1] + gamma * value[:, 1:])
    torch.testing.assert_close(one[:, -1], rew[:, -1])
    # Linear in the rewards, so a reward counts for the steps up to its own alone.
    later = rew.clone()
    later[:, 3] += 1
    moved = advantages(later, value, gamma=gamma, gae_lambda=gae_lambda)
    moved = moved - advantages(rew, value, gamma=gamma, gae_lambda=gae_lambda)
    factors = (gamma * gae_lambda) ** torch.tensor([3.0, 2, 1, 0], dtype=torch.float64)
    torch.testing.assert_close(moved[:, :4], factors.expand(2, 4))
    assert not moved[:, 4:].any()


def test_values_are_learned_in_units_of_the_returns():
    torch.manual_seed(0)
    value, seen = RecurrentValue(3, SMALL), torch.randn(2, 5, 3)
    before, returns = value(seen), 100 * torch.randn(2, 5) - 500
    torch.testing.assert_close(before, value.head(value.gru(seen)[0]).squeeze(-1))
    value.measure(returns)
    torch.testing.assert_close(value(seen), before * returns.std() + returns.mean())
    with torch.no_grad():
        value.head.weight.zero_()
        value.head.bias.zero_()
    assert float(value.loss(seen, returns).detach()) == pytest.approx(
        0.9
    )  # 9 of 10, of an unbiased std
    value.measure(torch.full((2, 5), 3.0))
    assert float(value.loss(seen, torch.full((2, 5), 3.0)).detach()) == 0.0


# PPO ----------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.floats(0.05, 0.5))
def test_the_clipped_objective_and_its_gradient_are_those_of_the_formula(seed, clip_ratio):
    generator = torch.Generator().manual_seed(seed)
    log_ratio, advantage = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    log_ratio = (0.5 * log_ratio).requires_grad_()
    objective = clipped_objective(log_ratio, advantage, clip_ratio)
    (gradient,) = torch.autograd.grad(objective, log_ratio)
    total, slopes = 0.0, np.zeros((4, 5))
    for t in range(4):
        for b in range(5):
            ratio, gain = np.exp(float(log_ratio[t, b].detach())), float(advantage[t, b])
            bounded = min(max(ratio, 1 - clip_ratio), 1 + clip_ratio)
            total += min(ratio * gain, bounded * gain) / 20
            held = ratio > 1 + clip_ratio if gain > 0 else ratio < 1 - clip_ratio
            slopes[t, b] = 0.0 if held else ratio * gain / 20
    assert float(objective.detach()) == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-12, atol=0)


def test_log_probabilities_are_those_of_a_gaussian_that_is_cut():
    mean = torch.tensor([0.3, -0.8], dtype=torch.float64)
    log_std = torch.tensor([-0.5, 0.2], dtype=torch.float64)
    normal = torch.distributions.Normal(mean, log_std.exp())
    one = torch.ones((), dtype=torch.float64)
    inside = torch.tensor([[0.9, -0.9], [-0.2, 0.999]], dtype=torch.float64)
    torch.testing.assert_close(
        log_prob(inside, mean.expand(2, 2), log_std), normal.log_prob(inside).sum(-1)
    )
    cut = torch.tensor([1.0, -1.0], dtype=torch.float64)
    beyond = (1 - normal.cdf(one))[0].log() + normal.cdf(-one)[1].log()
    torch.testing.assert_close(log_prob(cut, mean, log_std), beyond)
    # What lies at the bounds and between them adds up to 1, in each component.
    for part in range(2):
        where = torch.linspace(-1, 1, 20_001, dtype=torch.float64).unsqueeze(-1)
        chances = log_prob(where, mean[part].expand_as(where), log_std[part].unsqueeze(0)).exp()
        whole = chances[0] + chances[1:-1].sum() * 1e-4 + chances[-1]
        assert float(whole) == pytest.approx(1, abs=1e-3)


def test_gradients_of_log_probabilities():
    act = torch.tensor([[1.0, -0.3], [-1.0, 1.0], [0.2, -1.0]], dtype=torch.float64)
    mean = torch.tensor([[0.3, -2.0], [0.1, 4.0], [1.5, 0.0]], dtype=torch.float64)
    log_std = torch.tensor([-0.5, 0.2], dtype=torch.float64)
    inputs = mean.requires_grad_(), log_std.requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: log_prob(act, *given), inputs)
    # Where next to nothing lies beyond a bound, float32 still says which way to it: log of a
    # Gaussian's tail beyond 29.6 deviations falls by 29.6 a deviation, of which e^2 make one.
    act, mean = torch.tensor([[1.0, -1.0]]), torch.tensor([[-3.0, 3.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(log_prob(act, mean, torch.tensor([-2.0, -2.0])).sum(), mean)
    expected = torch.tensor([[1.0, -1.0]]) * 4 * np.exp(4)
    torch.testing.assert_close(slope, expected, rtol=2e-3, atol=0)


def test_each_loss_moves_its_own_network(lever):
    with FamilyEnvs(lever) as envs:
        trainer = Rl2Trainer(lever_config(), envs, seed=0)
        trainer.step()
    trials = random_transitions(3, 6, obs_dim=1, act_dim=1)
    networks, seen = trainer.networks, seen_in(trials)
    for name, loss in (
        (
            "policy",
            lambda: -log_prob(trials.act, networks.policy(seen)[0], networks.policy.log_std),
        ),
        ("value", lambda: networks.value.loss(seen, trials.rew)),
    ):
        before = {key: each.detach().clone() for key, each in networks.named_parameters()}
        descend(trainer.optimizers[name], loss().mean())
        moved = {
            key for key, each in networks.named_parameters() if not torch.equal(each, before[key])
        }
        assert moved == {key for key in before if key.startswith(f"{name}.")}


def test_an_update_follows_the_formula_once(lever):
    """One epoch of one minibatch: Adam's first step is lr along the sign of the gradient."""
    config = lever_config(epochs=1, trials_per_minibatch=6)
    with FamilyEnvs(lever) as envs:
        trainer = Rl2Trainer(config, envs, seed=0)
        before = {key: each.detach().clone() for key, each in trainer.networks.named_parameters()}
        gathered = []
        gather = trainer._gather
        trainer._gather = lambda: gathered.append(gather()) or gathered[-1]
        row = trainer.step()
        after = trainer.networks.policy.mean.bias.detach().clone()
    (trials,) = gathered
    networks = Rl2Networks(config, envs)
    networks.load_state_dict({**trainer.networks.state_dict(), **before})
    seen = seen_in(trials)
    with torch.no_grad():
        networks.value.center.zero_()
        networks.value.scale.fill_(1.0)
        values = networks.value(seen)
    advantage = advantages(trials.rew, values, gamma=0.9, gae_lambda=0.9)
    advantage = (advantage - advantage.mean()) / advantage.std()
    # At the first step ratios are 1, so that the objective's gradient is the policy gradient's.
    chance = log_prob(trials.act, networks.policy(seen)[0], networks.policy.log_std)
    (chance * advantage).mean().backward()
    step = after - before["policy.mean.bias"]
    torch.testing.assert_close(step, config.lr * networks.policy.mean.bias.grad.sign())
    assert row["episode_return"] == pytest.approx(float(trials.rew.sum()) / 18, rel=1e-5)
    assert row["policy_loss"] == pytest.approx(0.0, abs=1e-6)
    log_std = trainer.networks.policy.log_std.detach()
    assert row["entropy"] == pytest.approx(
        float(torch.distributions.Normal(0.0, log_std.exp()).entropy().sum()), rel=1e-5
    )
    with torch.no_grad():
        old, new = (
            torch.distributions.Normal(net.policy(seen)[0], net.policy.log_std.exp())
            for net in (networks, trainer.networks)
        )
    kl = torch.distributions.kl_divergence(old, new).sum(-1).mean()
    assert row["kl"] == pytest.approx(float(kl), rel=1e-3)
    assert row["kl"] > 0


# Memory -------------------------------------------------------------------------------------


@pytest.fixture
def watched(lever):
    """Two updates of a trainer, and what its GRU was given and gave at each step it acted."""
    with FamilyEnvs(lever) as envs:
        trainer = Rl2Trainer(lever_config(), envs, seed=0)
        calls = []

        def watch(module, inputs, outputs):
            if inputs[1] is not None:
                calls.append((inputs[0].clone(), inputs[1].clone(), outputs[1].clone()))

        gathered, gather = [], trainer._gather
        trainer._gather = lambda: gathered.append(gather()) or gathered[-1]
        trainer.networks.policy.gru.register_forward_hook(watch)
        trainer.step()
        trainer.step()
    return calls, gathered


def test_memory_is_kept_over_the_episodes_of_a_trial_and_no_longer(watched):
    calls, _ = watched
    trial = 3 * EPISODE
    assert len(calls) == 2 * trial
    for step, (_, hidden, _) in enumerate(calls):
        if step % trial == 0:
            assert not hidden.any()
        else:
            assert torch.equal(hidden, calls[step - 1][2])
            assert hidden.any()


def test_what_was_seen_while_acting_is_what_is_learned_from(watched):
    calls, gathered = watched
    for trials, begin in zip(gathered, (0, 3 * EPISODE), strict=True):
        acting = torch.cat([seen for seen, _, _ in calls[begin : begin + 3 * EPISODE]], 1)
        assert torch.equal(acting, seen_in(trials))
        flags = acting[..., -1]
        assert torch.equal(flags, torch.tensor([1.0, 0, 0, 0] * 3).expand(6, -1))
        assert acting[:, EPISODE, 1:3].all()  # a new episode knows the last one's end


def test_a_trial_is_of_one_task(watched):
    _, gathered = watched
    for trials in gathered:
        distance = (1 - trials.rew).clamp(min=0).sqrt()
        places = torch.stack((trials.act[..., 0] - distance, trials.act[..., 0] + distance))
        for first, second in zip(*places, strict=True):
            same = [
                float(
                    ((first - place).abs() < 1e-3).logical_or((second - place).abs() < 1e-3).all()
                )
                for place in (-0.9, -0.7, -0.5, 0.5, 0.7, 0.9)
            ]
            assert sum(same) == 1


@pytest.mark.parametrize("steps", [1, 5, 14, 20])
def test_adapting_to_what_an_actor_gathered_is_to_have_gathered_it(steps):
    """Whether episodes end for good, are cut, or are not over yet."""
    policy, env = small_policy(), drifts()
    actor = policy.initial_actor(2)
    torch.manual_seed(1)
    made = collect(env, None, actor, steps=steps, generator=np.random.default_rng(0))
    if steps == 20:
        assert made.truncated.any()
        assert made.transitions.terminated.any()
    replayed = policy.adapt(made.transitions)
    torch.testing.assert_close(
        replayed.memory["hidden"], actor.memory["hidden"], rtol=1e-4, atol=1e-6
    )
    again = [
        collect(
            env, None, each, steps=10, generator=np.random.default_rng(1), explore=False
        ).transitions.act
        for each in (actor, replayed)
    ]
    torch.testing.assert_close(again[0], again[1], rtol=1e-4, atol=1e-5)


def test_adapting_to_several_episodes_that_were_gathered_apart():
    policy = small_policy()
    actor = policy.initial_actor(2)
    rollouts = collect_episodes(
        drifts, [None] * 2, actor, steps=12, episode_steps=4, generator=np.random.default_rng(0)
    )
    assert rollouts[0].transitions.rew.shape == (3, 4)
    gathered = Transitions.stack([each.transitions.flatten() for each in rollouts])
    replayed = policy.adapt(gathered)
    torch.testing.assert_close(
        replayed.memory["hidden"], actor.memory["hidden"], rtol=1e-4, atol=1e-6
    )
    # With one flag less it is another memory, so the test above can fail.
    joined = gathered.obs_next.clone()
    joined[:, 3] = gathered.obs[:, 4]
    forgot = policy.adapt(dataclasses.replace(gathered, obs_next=joined))
    assert not torch.allclose(forgot.memory["hidden"], actor.memory["hidden"], rtol=1e-4, atol=1e-6)


def test_tasks_do_not_know_of_each_other():
    policy, gathered = small_policy(), random_transitions(3, 10)
    together = policy.adapt(gathered)
    for task in range(3):
        alone = policy.adapt(gathered[torch.tensor([task])])
        torch.testing.assert_close(alone.memory["hidden"][0], together.memory["hidden"][task])
    moved = dataclasses.replace(gathered, rew=gathered.rew.clone())
    moved.rew[1, 4] += 1
    changed = (policy.adapt(moved).memory["hidden"] != together.memory["hidden"]).any(-1)
    assert changed.tolist() == [False, True, False]


def test_slots_of_a_task_begin_with_its_memory_and_go_on_alone():
    policy = small_policy()
    actor = policy.adapt(random_transitions(2, 5))
    assert isinstance(actor, Actor)
    before = actor.memory["hidden"].clone()
    actor.start_episodes(np.ones(6, dtype=bool))
    assert torch.equal(actor.memory["hidden"], before.repeat_interleave(3, 0))
    obs = np.random.default_rng(0).normal(size=(6, OBS_DIM))
    actor.act(obs, explore=True)
    actor.remember(np.zeros((6, ACT_DIM), np.float32), np.arange(6, dtype=np.float32))
    assert len(torch.unique(actor.memory["hidden"], dim=0)) == 6
    with pytest.raises(ValueError, match="expected as many slots for each of 6 memories, got 2"):
        actor.start_episodes(np.ones(2, dtype=bool))


def test_actions_are_drawn_around_the_mean_and_cut():
    policy = small_policy()
    obs = np.zeros((20_000, OBS_DIM))
    torch.manual_seed(0)
    drawn, sure = (policy.initial_actor(1).act(obs, explore=explore) for explore in (True, False))
    assert (sure == sure[0]).all()
    assert np.abs(drawn).max() == 1.0
    expected = torch.distributions.Normal(torch.from_numpy(sure[0]), 1.0)
    for sign in (-1, 1):
        share = (
            expected.cdf(torch.tensor(-1.0)) if sign < 0 else 1 - expected.cdf(torch.tensor(1.0))
        )
        np.testing.assert_allclose((drawn == sign).mean(0), share, atol=0.015)


# Meta-training ------------------------------------------------------------------------------


def forget(trainer: Rl2Trainer) -> None:
    """Let the policy begin every step with an empty memory, in acting and in learning."""
    gru = trainer.networks.policy.gru
    forward = gru.forward

    def stepwise(seen, hidden=None):
        states = forward(seen.flatten(0, 1).unsqueeze(1))[0].reshape(*seen.shape[:2], -1)
        return states, states[:, -1].unsqueeze(0)

    gru.forward = stepwise


def learned(tasks, *, seed: int, forgetful: bool = False) -> float:
    """The share of what memory is worth that a new task's last episode returns."""
    config = lever_config(updates=80, trials_per_update=64, trials_per_minibatch=32)
    with FamilyEnvs(tasks) as envs:
        trainer = Rl2Trainer(config, envs, seed=seed)
        if forgetful:
            forget(trainer)
        while not trainer.finished:
            trainer.step()
        evaluations = evaluate(
            trainer.policy,
            envs,
            tasks.meta_test,
            seed=1,
            adaptation_steps=config.adaptation_steps,
            episode_steps=EPISODE,
        )
    found = np.mean([each.returns_adapted for each in evaluations])
    return float((found - BLIND_RESTING_RETURN) / (EPISODE - BLIND_RESTING_RETURN))


@pytest.fixture
def resting_lever(monkeypatch):
    return register_lever(monkeypatch, RestingLeverVectorEnv)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_learns_what_cannot_be_done_without_memory(resting_lever, seed):
    assert learned(resting_lever, seed=seed) > 0.7


@pytest.mark.parametrize("seed", SEEDS)
def test_without_memory_it_does_not(resting_lever, seed):
    assert learned(resting_lever, seed=seed, forgetful=True) < 0.2


def test_meta_training_never_runs_a_meta_test_task(lever):
    config = lever_config(updates=8, trials_per_update=12, evaluate_every=1)
    with FamilyEnvs(lever) as envs:
        trainer = Rl2Trainer(config, envs, seed=0)
        while not trainer.finished:
            trainer.step()
    assert LeverVectorEnv.seen == set(lever.meta_train)
    assert trainer.env_steps == 8 * 12 * 3 * EPISODE
    assert trainer.replays == {}


def test_before_it_adapts_it_remembers_nothing_and_after_it_what_it_explored(lever, monkeypatch):
    with FamilyEnvs(lever) as envs:
        policy = Rl2Trainer(lever_config(), envs, seed=0).policy
        explored, adapt = [], policy.adapt
        monkeypatch.setattr(policy, "adapt", lambda given: explored.append(given) or adapt(given))
        LeverVectorEnv.seen.clear()
        evaluations = evaluate(
            policy, envs, lever.meta_test, seed=1, adaptation_steps=8, episode_steps=EPISODE
        )
        assert LeverVectorEnv.seen == set(lever.meta_test)
        (transitions,) = explored
        assert transitions.rew.shape == (4, 8)
        for actor, name in (
            (policy.initial_actor(4), "returns_initial"),
            (adapt(transitions), "returns_adapted"),
        ):
            again = collect_episodes(
                envs.of_size,
                lever.meta_test,
                actor,
                steps=EPISODE,
                episode_steps=EPISODE,
                generator=np.random.default_rng(2),
                explore=False,
            )
            for rollout, each in zip(again, evaluations, strict=True):
                np.testing.assert_array_equal(rollout.first_returns, getattr(each, name))


def test_a_trainer_goes_on_from_its_state_bit_for_bit(lever):
    config = lever_config(updates=6, updates_per_iteration=4, evaluate_every=1)

    def rows(trainer, stop):
        found = [trainer.step() for _ in range(stop - trainer.updates)]
        return [{k: v for k, v in row.items() if k != "seconds"} for row in found if row]

    with FamilyEnvs(lever) as envs:
        whole = Rl2Trainer(config, envs, seed=3)
        expected = rows(whole, 6)
        assert [row["updates"] for row in expected] == [4, 6]
        found, trainer = [], Rl2Trainer(config, envs, seed=3)
        for stop in (1, 4, 5, 6):
            found += rows(trainer, stop)
            state = torch.utils._pytree.tree_map(
                lambda each: each.clone() if isinstance(each, torch.Tensor) else each,
                trainer.state(),
            )
            trainer = Rl2Trainer(config, envs, seed=99)
            trainer.load_state(state)
        assert found == expected
        assert_same_tree(trainer.state(), whole.state(), ignore=("seconds",))
        assert rows(Rl2Trainer(config, envs, seed=4), 6) != expected


def test_what_is_not_finite_ends_a_run(lever):
    with FamilyEnvs(lever) as envs:
        trainer = Rl2Trainer(lever_config(), envs, seed=0)
        with torch.no_grad():
            next(trainer.networks.value.parameters())[0, 0] = torch.nan
        with pytest.raises(FloatingPointError, match="loss is nan over the updates up to 1"):
            trainer.step()


# The method ---------------------------------------------------------------------------------


def run_in(directory, *stops, seed: int = 3, **changes) -> bool:
    """Train, stopped after so many steps each time, and then to the end."""
    method = Rl2(config=lever_config(**{"evaluate_every": 2, **changes}))
    for stop in stops:
        steps = iter(range(stop))
        finished = method.meta_train(
            directory, seed=seed, should_stop=lambda steps=steps: next(steps, None) is None
        )
        assert not finished
    return method.meta_train(directory, seed=seed)


def test_it_is_a_method_whose_runs_leave_what_all_runs_do(lever, tmp_path):
    method = Rl2(config=lever_config(evaluate_every=2))
    assert isinstance(method, Method)
    global_generators = torch.get_rng_state()
    assert run_in(tmp_path)
    assert torch.equal(torch.get_rng_state(), global_generators)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"run.json", CHECKPOINT, "metrics.jsonl", "tensorboard", "learning_curve.png"} <= names
    said = json.loads((tmp_path / "run.json").read_text())
    assert (said["method"], said["seed"], said["task_set_hash"]) == ("rl2", 3, lever.hash)
    assert said["config"] == method.config.to_dict()
    rows = read_metrics(tmp_path)
    assert [row["updates"] for row in rows] == [1, 2, 3, 4, 5]
    assert ["return_adapted" in row for row in rows] == [False, True, False, True, True]
    for row in rows:
        assert set(Rl2Trainer.measures) <= set(row)
        assert not {"loss_initial", "loss_adapted"} & set(row)
    policy = method.load(tmp_path)
    assert isinstance(policy, MetaPolicy)
    assert policy.config == method.config
    assert not any(each.requires_grad for each in policy.networks.parameters())


def test_a_run_that_stops_anywhere_ends_bit_for_bit_alike(lever, tmp_path):
    assert run_in(tmp_path / "whole")
    assert run_in(tmp_path / "parts", 0, 1, 2)
    whole, parts = (load_tree(tmp_path / name / CHECKPOINT) for name in ("whole", "parts"))
    assert_same_tree(whole, parts, ignore=("seconds",))
    rows = [
        [{**row, "seconds": 0} for row in read_metrics(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert rows[0] == rows[1]
    assert run_in(tmp_path / "other", seed=4)
    other = load_tree(tmp_path / "other" / CHECKPOINT)
    name = "policy.gru.weight_hh_l0"
    assert not torch.equal(other["networks"][name], whole["networks"][name])


def test_directories_of_other_runs_are_refused(lever, tmp_path):
    assert run_in(tmp_path)
    with pytest.raises(ValueError, match="of another run: hidden_size differ"):
        run_in(tmp_path, hidden_size=3)
    pearl = Pearl(config=PearlConfig(family="Lever"))
    theirs = "is a run of method 'rl2', not of 'pearl'"
    with pytest.raises(OtherMethodError, match=theirs):
        pearl.load(tmp_path)
    with pytest.raises(OtherMethodError, match=theirs):
        pearl.meta_train(tmp_path, seed=3)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree: tree["networks"].pop("policy.log_std"),
        lambda tree: tree["networks"].pop("value.scale"),
        lambda tree: tree["networks"].update({"policy.gru.bias_hh_l0": torch.zeros(2)}),
        lambda tree: tree["optimizers"].pop("value"),
        lambda tree: tree["manifest"]["config"].update(hidden_size=2**30),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(lever, tmp_path, spoil):
    assert not Rl2(config=lever_config()).meta_train(
        tmp_path, seed=3, should_stop=iter([False, True]).__next__
    )
    tree = load_tree(tmp_path / CHECKPOINT)
    spoil(tree)
    save_tree(tmp_path / CHECKPOINT, tree)
    with pytest.raises(CheckpointError, match="does not fit its run"):
        run_in(tmp_path, evaluate_every=100)


def test_a_configuration_is_checked_and_goes_through_json():
    assert Rl2Config.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    assert (SMALL.adaptation_steps, SMALL.trial_steps) == (200, 400)
    with pytest.raises(ValueError, match="Rl2Config expected clip_ratio > 0"):
        dataclasses.replace(SMALL, clip_ratio=0.0)
    with pytest.raises(ValueError, match="family must be one of"):
        Rl2Config(family="Nonsense")
    with pytest.raises(ValueError, match="Not a configuration of this version"):
        Rl2Config.from_dict({"family": "HalfCheetahVel", "nonsense": 1})
