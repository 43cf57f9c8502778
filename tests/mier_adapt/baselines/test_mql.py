import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from mier_adapt import Transitions
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.agents import FamilyEnvs, collect, evaluate
from mier_adapt.baselines import Mql, MqlConfig
from mier_adapt.baselines import mql as mql_module
from mier_adapt.baselines.mql import (
    HistoryActor,
    MqlNetworks,
    MqlPolicy,
    MqlTrainer,
    Td3,
    adapted,
    critic_loss,
    policy_loss,
    proximal,
    steps_of,
)
from mier_adapt.integration import ContextReplayBuffer
from mier_adapt.protocols import Actor, MetaPolicy, Method
from mier_adapt.training.metrics import read_metrics

from ..conftest import CHECKPOINT
from ..doubles import ACT_DIM, OBS_DIM, DriftEnv, assert_same_tree, random_transitions
from .lever import (
    BLIND_RETURN,
    EPISODE,
    SEEDS,
    LeverVectorEnv,
    Spaces,
    resumed_as_whole,
)


def lever_config(**changes) -> MqlConfig:
    values = {
        "family": "Lever",
        "updates": 6,
        "updates_per_iteration": 10,
        "tasks_per_iteration": 6,
        "initial_episodes": 40,
        "exploration_episodes": 2,
        "episode_steps": EPISODE,
        "history": 3,
        "context_dim": 16,
        "hidden_sizes": (32,),
        "batch_size": 120,
        "lr": 5e-3,
        "gamma": 0.6,
        "tau": 0.05,
        "exploration_noise": 0.5,
        "target_noise": 0.1,
        "replay_per_task": 1000,
        "own_updates": 4,
        "replay_updates": 4,
        "replay_batch_size": 64,
        "evaluate_every": 1000,
        "evaluated_tasks": 2,
    }
    return MqlConfig(**{**values, **changes})


SMALL = MqlConfig(
    family="HalfCheetahVel",
    history=3,
    context_dim=4,
    hidden_sizes=(8,),
    gamma=0.9,
    own_updates=2,
    replay_updates=3,
    replay_batch_size=16,
)


def small_networks(seed: int = 0) -> MqlNetworks:
    torch.manual_seed(seed)
    networks = MqlNetworks(SMALL, Spaces())
    torch.manual_seed(seed + 1)
    for target in (networks.target_policy, networks.target_critics):
        for parameter in target.parameters():  # so that nobody takes one for the other
            parameter.data += 0.3 * torch.randn_like(parameter)
    return networks


def small_batch(count: int = 6):
    stretches = random_transitions(count, SMALL.history + 1)
    stretches.obs_next[:, :-1] = stretches.obs[:, 1:]
    return steps_of(stretches)


def stored(*tasks: Transitions) -> ContextReplayBuffer:
    return ContextReplayBuffer.of(tasks, generator=np.random.default_rng(0))


# The context --------------------------------------------------------------------------------


def test_what_came_before_a_transition_by_hand():
    """Of one episode; after a termination, two steps before; and where an episode was cut."""
    obs = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 9]]).unsqueeze(-1)
    obs_next = torch.tensor([[2.0, 3, 4, 5], [2, 3, 4, 5], [2, 3, 4, 5]]).unsqueeze(-1)
    terminated = torch.zeros(3, 4, dtype=torch.bool)
    terminated[1, 1] = True
    act = torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 3).unsqueeze(-1)
    rew = torch.tensor([[10.0, 20, 30, 40]] * 3)
    steps = steps_of(Transitions(obs, act, rew, obs_next, terminated))
    first, second, third, last = ([0.1, 10.0, 1.0], [0.2, 20, 2], [0.3, 30, 3], [0.4, 40, 4])
    none = [0.0, 0.0, 0.0]
    expected = [[first, second, third], [none, none, third], [none, none, none]]
    torch.testing.assert_close(steps.history, torch.tensor(expected))
    expected = [[second, third, last], [none, third, last], [none, none, [0.4, 40, 9]]]
    torch.testing.assert_close(steps.history_next, torch.tensor(expected))
    torch.testing.assert_close(steps.transitions.obs, torch.tensor([[4.0], [4.0], [9.0]]))


def test_what_is_seen_while_acting_is_what_is_learned_from():
    """Whether episodes end for good or are cut, and before they are as long as a history."""
    env = SyncVectorEnv(
        [lambda: TimeLimit(DriftEnv(strength=2.0), 7)] * 2,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    networks, seen = small_networks(), []
    networks.policy.context.register_forward_hook(lambda module, given, _: seen.append(given[0]))
    actor = MqlPolicy(SMALL, networks).initial_actor(2)
    torch.manual_seed(1)
    made = collect(env, None, actor, steps=20, generator=np.random.default_rng(0))
    assert made.truncated.any()
    assert made.transitions.terminated.any()
    for slot in range(2):
        replay = stored(made.transitions[slot])
        steps = steps_of(replay.stretches(replay.stored_indices(), SMALL.history + 1))
        acting = torch.stack([each[slot] for each in seen])
        torch.testing.assert_close(steps.history, acting, rtol=0, atol=0)
        assert (~acting.flatten(1).any(1)).sum() > 1  # more than one episode begins from nothing
    collect(env, None, actor, steps=1, generator=np.random.default_rng(0))
    assert not seen[-1].any()  # a new task, or its next episode


def test_slots_forget_by_themselves_and_tasks_have_policies_of_their_own():
    policies = [small_networks(seed).policy for seed in (0, 1)]
    actor = HistoryActor(policies, SMALL)
    assert isinstance(actor, Actor)
    obs = np.random.default_rng(0).normal(size=(4, OBS_DIM))
    actor.start_episodes(np.ones(4, dtype=bool))
    first = actor.act(obs, explore=False)
    nothing = torch.zeros(2, 3, ACT_DIM + 1 + OBS_DIM)
    for task, policy in enumerate(policies):
        slots = slice(2 * task, 2 * task + 2)
        expected = policy(torch.from_numpy(obs[slots]).float(), nothing).detach().numpy()
        np.testing.assert_allclose(first[slots], expected, rtol=1e-5)
    actor.remember(first, np.arange(1.0, 5.0, dtype=np.float32))
    actor.start_episodes(np.array([True, False, False, True]))
    second = actor.act(obs, explore=False)
    assert ((second == first).all(-1) == [True, False, False, True]).all()
    with pytest.raises(RuntimeError, match="expected remember"):
        actor.act(obs, explore=False)
    with pytest.raises(ValueError, match="as many slots for each of 2 memories, got 3 slots"):
        HistoryActor(policies, SMALL).act(obs[:3], explore=False)


def test_exploring_adds_noise_that_is_cut():
    networks, config = small_networks(), dataclasses.replace(SMALL, exploration_noise=0.5)
    obs = np.zeros((20_000, OBS_DIM))
    torch.manual_seed(0)
    noisy, sure = (
        HistoryActor([networks.policy], config).act(obs, explore=explore)
        for explore in (True, False)
    )
    assert (sure == sure[0]).all()
    inside = torch.distributions.Normal(torch.from_numpy(sure[0]), 0.5)
    np.testing.assert_allclose(
        (noisy <= 0).mean(0), inside.cdf(torch.zeros(ACT_DIM)).numpy(), atol=0.015
    )
    assert np.abs(noisy).max() == 1.0


# TD3 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_the_critics_loss_is_that_of_two_regressions(weighted):
    """Added up transition by transition, without noise, some of which end their episodes."""
    networks, batch = small_networks(), small_batch()
    config, now = dataclasses.replace(SMALL, target_noise=0.0), batch.transitions
    assert 0 < int(now.terminated.sum()) < 6
    weight = torch.arange(6.0) if weighted else None
    loss, value = critic_loss(networks, batch, config, weight)
    total, values = 0.0, []
    for row in range(6):
        one = slice(row, row + 1)
        act = networks.target_policy(now.obs_next[one], batch.history_next[one])
        after = networks.target_critics(now.obs_next[one], act, batch.history_next[one])
        lasting = 0.0 if now.terminated[row] else 0.9
        target = float(now.rew[row]) + lasting * min(map(float, after.flatten().detach()))
        for critic in networks.critics(now.obs[one], now.act[one], batch.history[one]).detach():
            values.append(float(critic))
            total += (row if weighted else 1) * (values[-1] - target) ** 2 / 6
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)
    assert float(value) == pytest.approx(np.mean(values), rel=1e-5)


def test_the_targets_noise_is_cut_twice():
    networks, batch = small_networks(), small_batch(1000)
    networks.target_policy.layers[-1].bias.data += torch.tensor([0.0, 5.0])
    config = dataclasses.replace(SMALL, target_noise=3.0, target_noise_bound=0.2)
    seen = []
    networks.target_critics.register_forward_hook(lambda module, given, _: seen.append(given[1]))
    critic_loss(networks, batch, config, None)
    sure = networks.target_policy(batch.transitions.obs_next, batch.history_next).detach()
    (noisy,) = seen
    assert float(noisy.max()) == 1.0
    away = (noisy - sure)[:, 0].abs()
    assert float(away.max()) <= 0.2 + 1e-6
    assert float((away > 0.19).float().mean()) > 0.5


def test_the_policys_loss_is_the_first_critics_value_of_its_actions():
    networks, batch = small_networks(), small_batch()
    weight, obs, history = torch.arange(6.0), batch.transitions.obs, batch.history
    values = networks.critics(obs, networks.policy(obs, history), history).detach()
    assert not torch.allclose(values[0], values[1])
    for each, expected in ((None, -values[0].mean()), (weight, -(weight * values[0]).mean())):
        torch.testing.assert_close(policy_loss(networks, batch, each).detach(), expected)


def test_each_loss_moves_its_own_network_with_its_context_and_targets_follow():
    networks, batch = small_networks(), small_batch()
    learner = Td3(networks, dataclasses.replace(SMALL, tau=0.25), lr=1e-2)

    def moved(number: int) -> set[str]:
        before = {name: each.clone() for name, each in networks.state_dict().items()}
        learner.step(batch, number)
        after = networks.state_dict()
        for name, each in after.items():
            if name.startswith("target_") and number % 2 == 0:
                mixed = 0.75 * before[name] + 0.25 * after[name.removeprefix("target_")]
                torch.testing.assert_close(each, mixed)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        networks_moved = {name.split(".")[0] for name in changed}
        assert changed == {name for name in before if name.split(".")[0] in networks_moved}
        return networks_moved

    assert moved(1) == {"critics"}
    assert moved(2) == {"critics", "policy", "target_critics", "target_policy"}


# Adaptation ---------------------------------------------------------------------------------


def test_the_proximal_term_and_its_gradient():
    start = small_networks().policy
    now = copy.deepcopy(start)
    assert float(proximal(now, start).detach()) == 0.0
    steps = [0.1 * torch.randn_like(each) for each in now.parameters()]
    for parameter, step in zip(now.parameters(), steps, strict=True):
        parameter.data += step
    term = proximal(now, start)
    expected = sum(float(step.square().sum()) for step in steps)
    assert float(term.detach()) == pytest.approx(expected, rel=1e-4)
    term.backward()
    for parameter, step in zip(now.parameters(), steps, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * step, atol=1e-6, rtol=1e-4)
    assert all(each.grad is None for each in start.parameters())


def adapting(monkeypatch, own, known, **changes):
    """What adapted gives, and each step that it took, with its weights and penalties."""
    calls, step = [], Td3.step

    def watched(self, batch, number, *, weight=None, penalty):
        penalties = [float(penalty(name).detach()) for name in ("critics", "policy")]
        calls.append((batch, number, weight, *penalties))
        return step(self, batch, number, weight=weight, penalty=penalty)

    networks = small_networks().requires_grad_(False)
    before = copy.deepcopy(networks.state_dict())
    config = dataclasses.replace(SMALL, **changes)
    torch.manual_seed(3)
    with monkeypatch.context() as patch:
        patch.setattr(Td3, "step", watched)
        new, ess = adapted(networks, stored(own), stored(*known), config, np.random.default_rng(1))
    assert_same_tree(dict(networks.state_dict()), dict(before))
    return networks, new, ess, calls


def rewarded(rew: float, seed: int) -> Transitions:
    """One episode with the same reward in every step."""
    transitions = random_transitions(40, seed=seed)
    transitions.obs_next[:-1] = transitions.obs[1:]
    return dataclasses.replace(
        transitions,
        rew=torch.full((40,), rew),
        terminated=torch.zeros(40, dtype=torch.bool),
    )


def test_own_transitions_come_first_and_then_known_ones_that_are_alike(monkeypatch):
    own, alike, other = rewarded(3.0, 0), rewarded(3.1, 1), rewarded(-3.0, 2)
    _, new, ess, calls = adapting(
        monkeypatch, own, (alike, other), replay_batch_size=200, likelihood_weight=10.0
    )
    assert [number for _, number, *_ in calls] == [0, 1, 0, 1, 2]
    for batch, _, weight, *_ in calls[:2]:
        assert weight is None
        torch.testing.assert_close(batch.transitions.obs, own.obs)
        torch.testing.assert_close(batch.transitions.rew, own.rew)
    for batch, _, weight, *_ in calls[2:]:
        assert batch.transitions.rew.shape == (200,)
        is_alike = batch.transitions.rew > 0
        assert is_alike.any()
        assert not is_alike.all()
        assert float(weight.max()) <= math.exp(SMALL.most_log_weight) + 1e-5
        assert ((weight == 0) | (weight >= 0.1)).all()
        assert float(weight[is_alike].mean()) > 3 * float(weight[~is_alike].mean())
    assert 0.2 < ess < 0.9
    assert not any(each.requires_grad for each in new.parameters())


def test_weights_hold_the_networks_by_how_few_samples_are_left(monkeypatch):
    own, known = rewarded(3.0, 0), (rewarded(3.0, 1), rewarded(-3.0, 2))
    distances = []
    for size in (1.0, 0.5, 0.0):
        with monkeypatch.context() as patch:
            patch.setattr(mql_module, "effective_sample_size", lambda weight, size=size: size)
            start, new, ess, calls = adapting(monkeypatch, own, known, replay_updates=30)
        assert ess == size
        distances.append(float(proximal(new, start)))
        penalties = [calls[k][part] for k in range(len(calls)) for part in (3, 4)]
        assert any(penalties) == (size < 1)  # in both kinds of steps, and of both networks
        if size < 1:
            assert all(calls[1][3:])
            assert all(calls[-1][3:])
        assert calls[0][3:] == (0.0, 0.0)
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.9 * distances[0]


def test_the_penalty_is_one_less_the_effective_sample_size_times_the_squared_distance(monkeypatch):
    monkeypatch.setattr(mql_module, "effective_sample_size", lambda weight: 0.25)
    own, known = rewarded(3.0, 0), (rewarded(1.0, 1),)
    once, twice = (
        adapting(monkeypatch, own, known, own_updates=steps, replay_updates=0) for steps in (1, 2)
    )
    start, moved, *_ = once
    for part, name in enumerate(("critics", "policy")):
        pairs = zip(
            getattr(start, name).parameters(), getattr(moved, name).parameters(), strict=True
        )
        distance = sum(float((now - then).square().sum()) for then, now in pairs)
        assert distance > 0
        assert twice[3][1][3 + part] == pytest.approx(0.75 * distance, rel=1e-4)


def test_without_steps_the_policy_is_meta_trainings(monkeypatch):
    known = (rewarded(3.0, 1),)
    start, new, *_ = adapting(monkeypatch, rewarded(1.0, 0), known, own_updates=0, replay_updates=0)
    assert_same_tree(dict(start.state_dict()), dict(new.state_dict()))


def small_policy(rew: float = 0.0) -> MqlPolicy:
    replay = stored(rewarded(rew, 1), rewarded(1.0, 2))
    return MqlPolicy(SMALL, small_networks().requires_grad_(False), replay)


def acts(actor: HistoryActor, tasks: int) -> np.ndarray:
    return actor.act(np.ones((tasks, OBS_DIM)), explore=False)


def test_tasks_do_not_know_of_each_other_and_leave_nothing_behind():
    policy, explored = small_policy(), random_transitions(2, 12)
    assert isinstance(policy, MetaPolicy)
    before = copy.deepcopy(dict(policy.networks.state_dict())), policy.replay.stored()

    def adapt(transitions):
        torch.manual_seed(5)
        return acts(policy.adapt(transitions), 2)

    first = adapt(explored)
    poisoned = dataclasses.replace(explored, rew=explored.rew + torch.tensor([[0.0], [9.0]]))
    second = adapt(poisoned)
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])
    np.testing.assert_array_equal(adapt(explored), first)
    assert_same_tree(dict(policy.networks.state_dict()), before[0])
    assert torch.equal(policy.replay.stored().rew, before[1].rew)
    torch.manual_seed(5)
    other = acts(small_policy(rew=4.0).adapt(explored), 2)
    assert not np.array_equal(other, first)  # it does read what meta-training gathered


def test_there_is_no_adapting_before_meta_training():
    dims, generator = {"obs_dim": OBS_DIM, "act_dim": ACT_DIM}, np.random.default_rng(0)
    empty = ContextReplayBuffer(1, 1, **dims, context_dim=0, generator=generator)
    for replay in (None, empty):
        with pytest.raises(ValueError, match="expected meta-training's transitions to draw from"):
            MqlPolicy(SMALL, small_networks(), replay).adapt(random_transitions(1, 5))


# Meta-training ------------------------------------------------------------------------------


def cut_off(networks: MqlNetworks) -> None:
    for name in ("policy", "critics", "target_policy", "target_critics"):
        getattr(networks, name).context.register_forward_hook(
            lambda module, given, context: torch.zeros_like(context)
        )


def learned(tasks, *, seed: int, blind: bool = False) -> float:
    """The share of what knowing the task is worth that new ones return.

    An episode begins without knowing it, so that without adapting no more than 0.75 can be had, and
    0.5 by those who do not care what their first action will tell.
    """
    config = lever_config(updates=800)
    with FamilyEnvs(tasks) as envs:
        trainer = MqlTrainer(config, envs, seed=seed)
        if blind:
            cut_off(trainer.networks)
        while not trainer.finished:
            trainer.update()
            trainer.updates += 1
        evaluations = evaluate(
            trainer.policy, envs, tasks.meta_test, seed=1, adaptation_steps=8, episode_steps=EPISODE
        )
    found = np.mean([each.returns_adapted for each in evaluations])
    return float((found - BLIND_RETURN) / (EPISODE - BLIND_RETURN))


@pytest.mark.parametrize("seed", SEEDS)
def test_it_learns_what_cannot_be_done_without_a_context(lever, seed):
    assert learned(lever, seed=seed) > 0.4


@pytest.mark.parametrize("seed", SEEDS)
def test_without_its_context_it_does_not(lever, seed):
    assert learned(lever, seed=seed, blind=True) < 0.1


def test_meta_training_never_sees_a_meta_test_task(lever):
    config = lever_config(updates=4, updates_per_iteration=2, evaluate_every=1)
    with FamilyEnvs(lever) as envs:
        trainer = MqlTrainer(config, envs, seed=0)
        while not trainer.finished:
            trainer.step()
        assert LeverVectorEnv.seen == set(lever.meta_train)
        assert trainer.env_steps == len(trainer.replay) == (6 * 40 + 2 * 6) * EPISODE
        before = trainer.replay.stored()
        explored, adapt = [], trainer.policy.adapt
        trainer.policy.adapt = lambda given: explored.append(given) or adapt(given)
        LeverVectorEnv.seen.clear()
        evaluate(
            trainer.policy, envs, lever.meta_test, seed=1, adaptation_steps=8, episode_steps=EPISODE
        )
    assert LeverVectorEnv.seen == set(lever.meta_test)
    (transitions,) = explored
    assert transitions.rew.shape == (4, 8)  # what was explored, and no episode of the evaluation
    after = trainer.replay.stored()
    assert torch.equal(before.rew, after.rew)
    assert torch.equal(before.act, after.act)


# The method ---------------------------------------------------------------------------------


def test_a_run_that_stops_anywhere_ends_bit_for_bit_alike_and_keeps_its_replay(lever, tmp_path):
    config = lever_config(updates_per_iteration=2, evaluate_every=2, replay_per_task=48)
    method = Mql(config=config)
    assert isinstance(method, Method)
    tree = resumed_as_whole(method, tmp_path)
    assert max(tree["replays"]["replay"]["lengths"]) == 48  # a ring that has come around
    rows = read_metrics(tmp_path / "whole")
    assert [row["updates"] for row in rows] == [2, 4, 6]
    assert ["return_adapted" in row for row in rows] == [False, True, True]
    assert {"critic_loss", "value"} <= set(rows[0])
    policy, whole = method.load(tmp_path / "parts"), []
    method.meta_train(
        tmp_path / "again", seed=1, on_step=lambda trainer, row: whole.append(trainer.policy)
    )
    explored = random_transitions(2, 8, obs_dim=1, act_dim=1)
    found = []
    for each in (policy, whole[-1]):
        torch.manual_seed(0)
        found.append(each.adapt(explored).act(np.zeros((2, 1)), explore=False))
    np.testing.assert_array_equal(*found)
    assert not any(each.requires_grad for each in policy.networks.parameters())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree: tree["replays"].pop("replay"),
        lambda tree: tree["replays"]["replay"].update(lengths=[10**12] * 6),
        lambda tree: tree["replays"]["replay"]["columns"].update(rew="nothing"),
        lambda tree: tree["networks"].pop("critics.context.gru.bias_hh_l0"),
    ],
)
def test_a_policy_whose_checkpoint_does_not_fit_is_refused(lever, tmp_path, spoil):
    method = Mql(config=lever_config())
    assert not method.meta_train(tmp_path, seed=3, should_stop=iter([False, True]).__next__)
    method.load(tmp_path)
    tree = load_tree(tmp_path / CHECKPOINT)
    spoil(tree)
    save_tree(tmp_path / CHECKPOINT, tree)
    with pytest.raises(CheckpointError, match="does not fit its run"):
        method.load(tmp_path)


def test_a_configuration_is_checked_and_goes_through_json():
    assert MqlConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    with pytest.raises(ValueError, match="MqlConfig expected history >= 1"):
        dataclasses.replace(SMALL, history=0)
    with pytest.raises(ValueError, match="Not a configuration of this version"):
        MqlConfig.from_dict({"family": "HalfCheetahVel", "nonsense": 1})
