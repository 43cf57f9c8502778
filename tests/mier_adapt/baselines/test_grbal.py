import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mier_adapt import Transitions
from mier_adapt._storage.checkpoints import CheckpointError, load_tree, save_tree
from mier_adapt.agents import FamilyEnvs, collect, evaluate
from mier_adapt.agents.run_file import OtherMethodError
from mier_adapt.baselines import Grbal, GrbalConfig, Pearl, PearlConfig
from mier_adapt.baselines.grbal import (
    DynamicsModel,
    GrbalPolicy,
    GrbalTrainer,
    Steps,
    best_plan,
    meta_loss,
)
from mier_adapt.protocols import Actor, MetaPolicy, Method
from mier_adapt.training.metrics import read_metrics
from mier_adapt_envs import Task

from ..conftest import CHECKPOINT
from ..doubles import assert_same_tree, random_transitions
from .lever import GAIN_EPISODE as EPISODE
from .lever import GAINS, SEEDS, GainFamily, GainVectorEnv, Spaces, register_gain, resumed_as_whole


@pytest.fixture(autouse=True)
def gain(monkeypatch):
    return register_gain(monkeypatch)


def gain_config(**changes) -> GrbalConfig:
    values = {
        "family": "Gain",
        "updates": 5,
        "updates_per_iteration": 2,
        "initial_episodes": 2,
        "episodes_per_iteration": 3,
        "episode_steps": EPISODE,
        "replay_per_task": 200,
        "past_steps": 4,
        "future_steps": 4,
        "windows_per_batch": 16,
        "hidden_sizes": (16,),
        "inner_lr": 0.1,
        "lr": 5e-3,
        "horizon": 2,
        "candidates": 64,
        "evaluate_every": 100,
        "evaluated_tasks": 2,
    }
    return GrbalConfig(**{**values, **changes})


def precise_model(**changes) -> DynamicsModel:
    """A small one in double precision, with scales that are not 1."""
    torch.manual_seed(0)
    model = DynamicsModel(gain_config(hidden_sizes=(7, 5), **changes), Spaces()).double()
    steps = precise_steps(1, 50)
    model.measure(*(3 * each[0] + 1 for each in steps))
    with torch.no_grad():
        for layer in model.layers:
            layer.bias.normal_()
    return model


def precise_steps(tasks: int, count: int) -> Steps:
    given = random_transitions(tasks, count).to(torch.float64)
    return Steps(given.obs, given.act, given.obs_next)


def plain_loss(model: DynamicsModel, weights: list, steps: Steps, task: int) -> torch.Tensor:
    """Of one task, layer by layer."""
    obs, act, obs_next = (each[task] for each in steps)
    hidden = (torch.cat((obs, act), -1) - model.input_mean) / model.input_scale
    for number in range(0, len(weights), 2):
        hidden = F.linear(hidden, weights[number], weights[number + 1])
        hidden = hidden.relu() if number < len(weights) - 2 else hidden
    target = (obs_next - obs - model.delta_mean) / model.delta_scale
    return F.mse_loss(hidden, target)


# The model, and its update ------------------------------------------------------------------


def test_all_tasks_steps_at_once_are_those_of_a_plain_loop():
    model, past, other = precise_model(inner_lr=0.3), precise_steps(3, 6), precise_steps(3, 9)
    known = torch.tensor([True, False, True])
    new = model.adapted(past, known)
    assert len(new) == 3
    before, after = (model.loss(other, each).detach() for each in (None, new))
    for task in range(3):
        weights = [each.detach().requires_grad_() for each in model.layers.parameters()]
        loss = plain_loss(model, weights, past, task)
        torch.testing.assert_close(model.loss(past)[task], loss)
        loss.backward()
        if known[task]:
            size = float(model.inner_lr.detach())
            weights = [(each - size * each.grad).detach() for each in weights]
        expected = plain_loss(model, weights, other, task).detach()
        same = torch.isclose(expected, before[task], rtol=1e-9)
        assert bool(same) == (not known[task])
        torch.testing.assert_close(after[task], expected, rtol=1e-12, atol=1e-12)
    written_out = model.loss(other, [each.written_out() for each in new]).detach()
    torch.testing.assert_close(written_out, after, rtol=1e-12, atol=1e-12)


def test_the_meta_gradient_is_that_of_finite_differences():
    model, windows = precise_model(inner_lr=0.2), precise_steps(4, 7)

    def value() -> torch.Tensor:
        return meta_loss(model, windows, past_steps=3)[0].mean()

    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(value(), list(parameters.values()))
    new = model.adapted(windows.part(slice(3)), torch.ones(4, dtype=torch.bool))
    fixed = [
        dataclasses.replace(each, seen=each.seen.detach(), step=each.step.detach()) for each in new
    ]
    loss = model.loss(windows.part(slice(3, None)), fixed).mean()
    (first_order,) = torch.autograd.grad(loss, [model.layers[0].weight])
    assert not torch.allclose(gradients[1], first_order, rtol=1e-2)  # what second order adds
    generator = np.random.default_rng(0)
    for (name, each), gradient in zip(parameters.items(), gradients, strict=True):
        flat = each.detach().view(-1)
        for index in generator.integers(len(flat), size=min(4, len(flat))).tolist():
            before, around = float(flat[index]), []
            for sign in (1, -1):
                flat[index] = before + sign * 1e-6
                around.append(float(value().detach()))
            flat[index] = before
            expected = (around[0] - around[1]) / 2e-6
            found = float(gradient.view(-1)[index])
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_losses_are_of_the_future_alone_by_a_model_of_the_past():
    model, windows = precise_model(), precise_steps(2, 7)
    adapted, prior = meta_loss(model, windows, past_steps=3)
    new = model.adapted(windows.part(slice(3)), torch.ones(2, dtype=torch.bool))
    future = windows.part(slice(3, None))
    torch.testing.assert_close(adapted, model.loss(future, new))
    torch.testing.assert_close(prior, model.loss(future).detach())
    assert not torch.allclose(adapted, prior, rtol=1e-3)


def test_scales_are_of_the_experience_and_what_never_changes_stays():
    model, steps = precise_model(), precise_steps(1, 40)
    obs, act, obs_next = (each[0].clone() for each in steps)
    obs[:, 0], obs_next[:, 0] = 2.0, 2.0
    model.measure(obs, act, obs_next)
    delta = obs_next - obs
    with torch.no_grad():
        for each in model.layers.parameters():
            each.zero_()
        found = model.obs_next(obs[None], act[None])
        loss = model.loss(Steps(obs[None], act[None], obs_next[None]))
    torch.testing.assert_close(found[0], obs + delta.mean(0))
    dims = obs.shape[-1]
    torch.testing.assert_close(loss, torch.tensor([(dims - 1) / dims], dtype=torch.float64))


# Planning -----------------------------------------------------------------------------------


def linear_policy(matrix: np.ndarray, **changes) -> GrbalPolicy:
    """A policy whose model is obs_next = obs + matrix [obs, act], by pairs of ReLUs."""
    obs_dim, input_dim = matrix.shape

    class Linear(Spaces):
        observation_space = type(Spaces.observation_space)(-1.0, 1.0, (obs_dim,))
        action_space = type(Spaces.action_space)(-1.0, 1.0, (input_dim - obs_dim,))

    config = gain_config(hidden_sizes=(2 * input_dim,), **changes)
    model = DynamicsModel(config, Linear()).double()
    identity, columns = torch.eye(input_dim).double(), torch.from_numpy(matrix.T)
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.cat((identity, -identity)))
        model.layers[1].weight.copy_(torch.cat((columns, -columns)).T)
    return GrbalPolicy(config, model)


DRIFT = np.array([[0.0, 0.3, 0.1], [-0.1, -0.05, 0.5]])
"""A mass on a spring, pushed."""
STATE_COST, ACT_COST = np.diag([1.0, 0.2]), 0.1


def quadratic_reward(obs, act, obs_next):
    state = np.einsum("bi,ij,bj->b", obs_next, STATE_COST, obs_next)
    return -state - ACT_COST * np.square(act[:, 0])


def riccati(horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """The first gain K, act = -K obs, and the cost matrix of what follows in so many steps."""
    a, b = np.eye(2) + DRIFT[:, :2], DRIFT[:, 2:]
    value = np.zeros((2, 2))
    for _ in range(horizon):
        ahead = STATE_COST + value
        gain = np.linalg.solve(ACT_COST + b.T @ ahead @ b, b.T @ ahead @ a)
        value = a.T @ ahead @ a - a.T @ ahead @ b @ gain
    return gain, value


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"planner": "cem", "horizon": 4, "candidates": 300, "cem_rounds": 25}, 0.01),
        ({"planner": "cem", "horizon": 2, "candidates": 100, "cem_rounds": 25}, 0.01),
        ({"planner": "shooting", "horizon": 2, "candidates": 20_000}, 0.1),
    ],
)
def test_plans_are_the_optimal_ones_of_a_linear_quadratic_task(options, tolerance):
    policy = linear_policy(DRIFT, **options)
    policy._reward_fn = quadratic_reward
    torch.manual_seed(0)
    gain, value = riccati(options["horizon"])
    obs = torch.tensor([[0.4, 0.1], [-0.3, 0.2], [0.0, -0.5]], dtype=torch.float64)
    best = -np.einsum("bi,ij,bj->b", obs.numpy(), value, obs.numpy())
    actor = policy.initial_actor(3)
    act = policy.chosen(obs, actor.past, torch.zeros(3, dtype=torch.bool))
    expected = -obs.numpy() @ gain.T
    assert (np.abs(expected) < 0.9).all()  # bounds would not do for Riccati
    assert np.abs(expected).max() > 0.2
    np.testing.assert_allclose(act.numpy(), expected, rtol=0, atol=tolerance)
    plan = best_plan(
        lambda plans: policy.imagined_returns(obs, plans),
        obs.new_zeros(3, options["horizon"], 1),
        policy.config,
    )
    found = policy.imagined_returns(obs, plan.unsqueeze(1))[:, 0].numpy()
    assert (found <= best + 1e-9).all()
    np.testing.assert_allclose(found, best, rtol=0, atol=tolerance**2)


def test_imagined_returns_are_those_of_steps_by_hand_up_to_the_end():
    """x' = x + act; the reward is x', and an episode ends beyond 1."""
    policy = linear_policy(np.array([[0.0, 1.0]]), horizon=3)
    policy._reward_fn = lambda obs, act, obs_next: obs_next[:, 0]
    policy._termination_fn = lambda obs, act, obs_next: obs_next[:, 0] > 1
    obs = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    plans = torch.tensor([[0.2, 0.2, 0.2], [1.0, -1.0, 0.0]], dtype=torch.float64)
    found = policy.imagined_returns(obs, plans[None, :, :, None].expand(2, -1, -1, -1))
    # 0.7 + 0.9 + 1.1 and 1.5, where it ends; -0.8 - 0.6 - 0.4 and 0 - 1 - 1.
    expected = torch.tensor([[2.7, 1.5], [-1.8, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_shooting_takes_the_best_of_uniform_plans_and_cem_goes_on_from_its_elites():
    seen: list[torch.Tensor] = []

    def returns(plans):
        seen.append(plans)
        return -(plans - 0.4).square().sum((2, 3))

    torch.manual_seed(0)
    rest = torch.zeros(2, 3, 1)
    found = best_plan(returns, rest, gain_config(candidates=2000))
    (plans,) = seen
    assert plans.shape == (2, 2000, 3, 1)
    torch.testing.assert_close(plans.mean((1, 2, 3)), torch.zeros(2), rtol=0, atol=0.04)
    torch.testing.assert_close(plans.var((1, 2, 3)), torch.full((2,), 1 / 3), rtol=0.05, atol=0)
    for task in range(2):
        assert torch.equal(found[task], plans[task, returns(plans)[task].argmax()])
    seen.clear()
    config = gain_config(planner="cem", candidates=2000, cem_rounds=3, cem_elites=0.05)
    found = best_plan(returns, rest, config)
    assert len(seen) == 3
    assert all(plans.abs().max() <= 1 for plans in seen)
    for before, after in itertools.pairwise(list(seen)):
        best = before[0, returns(before)[0].topk(100).indices]
        expected = 0.1 * (before[0].mean(0) if before is not seen[0] else 0) + 0.9 * best.mean(0)
        torch.testing.assert_close(after[0].mean(0), expected, rtol=0, atol=0.05)
        torch.testing.assert_close(after[0].std(0), best.std(0, correction=0), rtol=0.15, atol=0.01)
    assert torch.equal(found[0], seen[2][0, returns(seen[2])[0].argmax()])


# Acting, and the past -----------------------------------------------------------------------


def watched(policy: GrbalPolicy) -> list[tuple[Steps, torch.Tensor]]:
    """What an actor of this policy is going to adapt to, step by step."""
    calls, chosen = [], policy.chosen

    def watch(obs, past, known):
        calls.append((past, known))
        return chosen(obs, past, known)

    policy.chosen = watch
    return calls


def small_policy(**changes) -> GrbalPolicy:
    torch.manual_seed(0)
    config = gain_config(**changes)
    with FamilyEnvs(GainFamily.task_sets()["standard"]) as envs:
        return GrbalPolicy(config, DynamicsModel(config, envs))


def gathered(policy: GrbalPolicy, actor: Actor, steps: int) -> tuple[Transitions, list]:
    """Two new tasks' transitions by an actor, and what it adapted to."""
    calls = watched(policy)
    env = GainVectorEnv(2)
    tasks = [Task("Gain", (gain,)) for gain in (-0.9, 0.7)]
    rollout = collect(env, tasks, actor, steps=steps, generator=np.random.default_rng(0))
    assert len(calls) == steps
    return rollout.transitions, calls


def test_each_step_adapts_to_the_last_ones_of_its_own_episode():
    policy = small_policy()
    actor = policy.initial_actor(2)
    assert isinstance(actor, Actor)
    made, calls = gathered(policy, actor, 2 * EPISODE + 3)
    for step, (past, known) in enumerate(calls):
        own = step % EPISODE  # steps of the episode that are over
        assert known.tolist() == [own >= 4] * 2
        for column, whole in zip(past, (made.obs, made.act, made.obs_next), strict=True):
            if own >= 4:
                assert torch.equal(column, whole[:, step - 4 : step])
            else:
                assert torch.equal(column[:, 4 - own :], whole[:, step - own : step])
                assert not column[:, : 4 - own].any()


@pytest.mark.parametrize("explored", [2, 20])
def test_after_exploration_each_episode_begins_with_its_last_steps(explored):
    policy, known_before = small_policy(), random_transitions(2, explored, obs_dim=1, act_dim=1)
    kept = known_before._map(lambda each: each[:, -4:])
    made, calls = gathered(policy, policy.adapt(known_before), EPISODE + 3)
    have = min(explored, 4)
    for step, (past, known) in enumerate(calls):
        own = step % EPISODE
        assert known.tolist() == [have + own >= 4] * 2
        for column, before, whole in zip(
            past,
            (kept.obs, kept.act, kept.obs_next),
            (made.obs, made.act, made.obs_next),
            strict=True,
        ):
            expected = torch.cat((before, whole[:, step - own : step]), 1)[:, -4:]
            assert torch.equal(column[:, -expected.shape[1] :], expected)


def test_what_was_executed_is_learned_from_rather_than_what_was_asked_for():
    policy = small_policy()
    actor = policy.initial_actor(1)
    calls = watched(policy)
    for step in range(2):
        actor.act(np.array([[float(step)]]), explore=False)
        actor.remember(np.array([[0.25 + step]], np.float32), np.zeros(1, np.float32))
    past, _ = calls[-1]
    assert [float(each[0, -1, 0]) for each in past] == [0.0, 0.25, 1.0]


def test_slots_of_a_task_begin_with_its_past_and_go_on_alone():
    policy = small_policy()
    explored = random_transitions(2, 6, obs_dim=1, act_dim=1)
    actor = policy.adapt(explored)
    actor.start_episodes(np.ones(6, dtype=bool))
    assert torch.equal(actor.past.obs, explored.obs[:, -4:].repeat_interleave(3, 0))
    actor.act(np.arange(6.0)[:, None], explore=True)
    with pytest.raises(RuntimeError, match="expected remember"):
        actor.act(np.arange(6.0)[:, None], explore=True)
    actor.remember(np.arange(6, dtype=np.float32)[:, None] / 6, np.zeros(6, np.float32))
    actor.start_episodes(np.array([True, *[False] * 5]))
    actor.act(np.arange(6.0)[:, None], explore=True)
    assert torch.equal(actor.past.obs[0], explored.obs[0, -4:])
    assert actor.past.obs[1:, -1, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    with pytest.raises(ValueError, match="expected as many slots for each of 6 memories, got 2"):
        actor.start_episodes(np.ones(2, dtype=bool))


def test_nothing_that_is_planned_moves_the_meta_trained_weights():
    policy = small_policy(inner_lr=0.5)
    before = {name: each.clone() for name, each in policy.networks.state_dict().items()}
    gathered(policy, policy.adapt(random_transitions(2, 6, obs_dim=1, act_dim=1)), 6)
    assert_same_tree(before, dict(policy.networks.state_dict()))
    assert all(each.grad is None for each in policy.networks.parameters())


def test_a_known_past_matters_for_what_is_chosen():
    policy = small_policy(inner_lr=0.5)
    past = policy.adapt(random_transitions(20, 6, obs_dim=1, act_dim=1)).past
    obs = torch.linspace(-1, 1, 20)[:, None]
    chosen = []
    for known in (True, True, False):
        torch.manual_seed(0)
        chosen.append(policy.chosen(obs, past, torch.full((20,), known)))
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[1], chosen[2])


# Meta-training ------------------------------------------------------------------------------


def learned(tasks, *, seed: int, **changes) -> float:
    """What new tasks' episodes return after adaptation."""
    config = gain_config(
        updates=800,
        updates_per_iteration=100,
        episodes_per_iteration=6,
        hidden_sizes=(32,),
        **changes,
    )
    with FamilyEnvs(tasks) as envs:
        trainer = GrbalTrainer(config, envs, seed=seed)
        while not trainer.finished:
            trainer.step()
        evaluations = evaluate(
            trainer.policy,
            envs,
            tasks.meta_test,
            seed=1,
            adaptation_steps=config.adaptation_steps,
            episode_steps=EPISODE,
            episodes=2,
        )
    return float(np.mean([each.returns_adapted for each in evaluations]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("changes", [{}, {"learn_inner_lr": True}, {"planner": "cem"}])
def test_it_learns_what_cannot_be_done_without_adapting(gain, seed, changes):
    """The best return is about -0.5, that of resting -12."""
    assert learned(gain, seed=seed, **changes) > -4


@pytest.mark.parametrize("seed", SEEDS)
def test_with_an_inner_step_of_0_it_does_not(gain, seed):
    assert learned(gain, seed=seed, inner_lr=0.0) < -9


def test_windows_are_of_one_episode_and_of_one_task(gain):
    """Also where a ring has been written over."""
    with FamilyEnvs(gain) as envs:
        trainer = GrbalTrainer(gain_config(replay_per_task=31, windows_per_batch=200), envs, seed=0)
        for _ in range(9):
            trainer.step()
        obs, act, obs_next = (each[..., 0] for each in trainer._windows())
    assert torch.equal(obs[:, 1:], obs_next[:, :-1])
    gains = 2 * (obs_next - obs) / act
    used = act.abs() > 0.2
    gains = torch.where(used, gains, torch.nan).nanmean(1, keepdim=True).expand_as(gains)
    torch.testing.assert_close(obs_next, obs + gains * act / 2, rtol=0, atol=1e-5)
    found = sorted({round(float(each), 2) for each in gains[:, 0]})
    assert found == sorted(GAINS)


def test_the_first_and_the_last_window_of_each_episode_are_possible(gain):
    with FamilyEnvs(gain) as envs:
        trainer = GrbalTrainer(gain_config(), envs, seed=0)
        trainer.step()
        found = trainer._possible_ends().tolist()
    per_episode = list(range(8 - 1, EPISODE))
    per_task = [*per_episode, *(EPISODE + end for end in per_episode)]
    assert found == [200 * task + end for task in range(len(GAINS)) for end in per_task]


def test_meta_training_gathers_as_it_says_and_never_in_a_meta_test_task(gain):
    config = gain_config(evaluate_every=1)
    with FamilyEnvs(gain) as envs:
        trainer = GrbalTrainer(config, envs, seed=0)
        steps = []
        while not trainer.finished:
            trainer.step()
            steps.append(trainer.env_steps // EPISODE)
    assert steps == [12, 12, 15, 15, 18]
    assert GainVectorEnv.seen == set(gain.meta_train)
    scale = trainer.replay.stored().act.std(correction=0)
    torch.testing.assert_close(trainer.networks.input_scale[1], scale)


def test_an_update_follows_the_formula_once(gain):
    """Adam's first step is lr along the sign of the gradient."""
    with FamilyEnvs(gain) as envs:
        trainer = GrbalTrainer(gain_config(learn_inner_lr=True), envs, seed=0)
        drawn, windows = [], trainer._windows
        trainer._windows = lambda: drawn.append(windows()) or drawn[-1]
        before = {key: each.detach().clone() for key, each in trainer.networks.named_parameters()}
        trainer.update()
        after = {key: each.detach().clone() for key, each in trainer.networks.named_parameters()}
        trainer.networks.load_state_dict({**trainer.networks.state_dict(), **before})
    loss = meta_loss(trainer.networks, drawn[0], past_steps=4)[0].mean()
    names, parameters = zip(*trainer.networks.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        torch.testing.assert_close(after[name] - before[name], -5e-3 * gradient.sign())


def test_the_inner_steps_size_is_learned_only_where_asked(gain):
    sizes = []
    for learn in (False, True):
        with FamilyEnvs(gain) as envs:
            trainer = GrbalTrainer(gain_config(learn_inner_lr=learn), envs, seed=0)
            trainer.step()
        sizes.append(float(trainer.networks.inner_lr.detach()))
    assert sizes[0] == pytest.approx(0.1)
    assert sizes[1] != pytest.approx(0.1)


def test_at_test_nothing_but_exploration_and_its_own_episode_is_known(gain):
    with FamilyEnvs(gain) as envs:
        trainer = GrbalTrainer(gain_config(updates=4), envs, seed=0)
        while not trainer.finished:
            trainer.step()
        policy, adapt = trainer.policy, trainer.policy.adapt
        explored, GainVectorEnv.seen = [], set()
        policy.adapt = lambda given: explored.append(given) or adapt(given)
        calls = watched(policy)
        evaluate(
            policy, envs, gain.meta_test, seed=1, adaptation_steps=EPISODE, episode_steps=EPISODE
        )
        assert GainVectorEnv.seen == set(gain.meta_test)
    # Two explorations, then an episode without and one with what was explored.
    assert len(calls) == 4 * EPISODE
    (given,) = explored
    assert torch.equal(calls[-EPISODE][0].obs, given.obs[:, -4:])
    gains = torch.tensor([each.parameters[0] for each in gain.meta_test])[:, None, None]
    for number, (past, known) in enumerate(calls):
        assert known.all() == (number >= 3 * EPISODE or number % EPISODE >= 4)
        if known.all():
            torch.testing.assert_close(past.obs_next, past.obs + gains * past.act / 2)


def test_a_trainer_goes_on_from_its_state_bit_for_bit(gain):
    def rows(trainer, stop):
        found = [trainer.step() for _ in range(stop - trainer.updates)]
        return [{k: v for k, v in row.items() if k != "seconds"} for row in found if row]

    config = gain_config(evaluate_every=1)
    with FamilyEnvs(gain) as envs:
        whole = GrbalTrainer(config, envs, seed=3)
        expected = rows(whole, 5)
        assert [row["updates"] for row in expected] == [2, 4, 5]
        found, trainer = [], GrbalTrainer(config, envs, seed=3)
        for stop in (1, 2, 4, 5):
            found += rows(trainer, stop)
            state = torch.utils._pytree.tree_map(
                lambda each: each.clone() if isinstance(each, torch.Tensor) else each,
                trainer.state(),
            )
            trainer = GrbalTrainer(config, envs, seed=99)
            trainer.step()  # so that it has windows of its own
            trainer.load_state(state)
        assert found == expected
        assert_same_tree(trainer.state(), whole.state(), ignore=("seconds",))


def test_episodes_that_are_all_too_short_are_told(gain):
    with FamilyEnvs(gain) as envs:
        trainer = GrbalTrainer(gain_config(episode_steps=20, future_steps=16), envs, seed=0)
        with pytest.raises(ValueError, match=r"expected episodes of at least .* = 20 steps"):
            trainer.step()


def test_what_is_not_finite_ends_a_run(gain):
    with FamilyEnvs(gain) as envs:
        trainer = GrbalTrainer(gain_config(updates_per_iteration=1), envs, seed=0)
        with torch.no_grad():
            trainer.networks.layers[0].weight[0, 0] = torch.nan
        with pytest.raises(FloatingPointError, match="loss is nan over the updates up to 1"):
            trainer.step()


# The method ---------------------------------------------------------------------------------


def test_it_is_a_method_whose_runs_stop_anywhere_and_leave_what_all_runs_do(gain, tmp_path):
    method = Grbal(config=gain_config(updates=7, evaluate_every=2))
    assert isinstance(method, Method)
    tree = resumed_as_whole(method, tmp_path)
    assert tree["updates"] == 7
    run = tmp_path / "whole"
    said = json.loads((run / "run.json").read_text())
    assert (said["method"], said["seed"], said["task_set_hash"]) == ("grbal", 1, gain.hash)
    assert GrbalConfig.from_dict(said["config"]) == method.config
    rows = read_metrics(run)
    assert ["return_adapted" in row for row in rows] == [False, True, False, True]
    for row in rows:
        assert set(GrbalTrainer.measures) <= set(row)
        assert not {"loss_initial", "loss_adapted"} & set(row)
    policy = method.load(run)
    assert isinstance(policy, MetaPolicy)
    assert policy.config == method.config
    assert not any(each.requires_grad for each in policy.networks.parameters())
    gathered(policy, policy.initial_actor(2), 6)  # adapts although nothing requires gradients


def test_directories_of_other_runs_are_refused(gain, tmp_path):
    stop = {"seed": 3, "should_stop": lambda: True}
    Grbal(config=gain_config()).meta_train(tmp_path, **stop)
    with pytest.raises(ValueError, match="of another run: horizon differ"):
        Grbal(config=gain_config(horizon=3)).meta_train(tmp_path, **stop)
    pearl = Pearl(config=PearlConfig(family="Gain"))
    with pytest.raises(OtherMethodError, match="is a run of method 'grbal', not of 'pearl'"):
        pearl.load(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree: tree["networks"].pop("inner_lr"),
        lambda tree: tree["networks"].update({"delta_scale": torch.ones(2)}),
        lambda tree: tree["optimizers"].pop("model"),
        lambda tree: tree["replays"].pop("replay"),
        lambda tree: tree["manifest"]["config"].update(hidden_sizes=[2**30, 2**30]),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(gain, tmp_path, spoil):
    method = Grbal(config=gain_config())
    method.meta_train(tmp_path, seed=3, should_stop=iter([False, True]).__next__)
    tree = load_tree(tmp_path / CHECKPOINT)
    spoil(tree)
    save_tree(tmp_path / CHECKPOINT, tree)
    with pytest.raises(CheckpointError, match="does not fit its run"):
        method.meta_train(tmp_path, seed=3)


def test_a_configuration_is_checked_and_goes_through_json():
    config = GrbalConfig(family="HalfCheetahNegatedJoints")
    assert GrbalConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(
        ValueError, match=r"^GrbalConfig expected family .* HalfCheetahVel\.$"
    ) as told:
        GrbalConfig(family="HalfCheetahVel")
    for family in ("HalfCheetahNegatedJoints", "AntNegatedJoints"):
        assert family in str(told.value)
        GrbalConfig(family=family)
    assert "AntDir" not in str(told.value)
    with pytest.raises(ValueError, match=r"expected episode_steps >= .*, got 31 < 16 \+ 16"):
        dataclasses.replace(config, episode_steps=31)
