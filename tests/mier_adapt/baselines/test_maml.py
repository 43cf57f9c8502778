import dataclasses
import math

import numpy as np
import pytest
import torch

from mier_adapt import Transitions
from mier_adapt.agents import FamilyEnvs, evaluate
from mier_adapt.baselines import Maml, MamlConfig, maml
from mier_adapt.baselines.maml import (
    Experience,
    GaussianPolicy,
    InnerStepPolicy,
    MamlTrainer,
    adapted,
    baseline_of,
    conjugate_gradients,
    experience_of,
    inner_loss,
)
from mier_adapt.baselines.policy_gradients import Gaussian, discounted
from mier_adapt.protocols import Actor, MetaPolicy, Method

from ..doubles import ACT_DIM, OBS_DIM
from .lever import (
    BLIND_RETURN,
    EPISODE,
    NEW_PLACES,
    SEEDS,
    LeverVectorEnv,
    Spaces,
    resumed_as_whole,
)


def lever_config(**changes) -> MamlConfig:
    values = {
        "family": "Lever",
        "updates": 60,
        "tasks_per_batch": 12,
        "episodes_per_task": 20,
        "episode_steps": EPISODE,
        "exploration_episodes": 20,
        "hidden_sizes": (8,),
        "inner_lr": 0.5,
        "initial_std": 0.5,
        "gamma": 0.1,
        "max_kl": 0.05,
        "evaluate_every": 100,
        "evaluated_tasks": 2,
    }
    return MamlConfig(**{**values, **changes})


SMALL = MamlConfig(family="HalfCheetahVel", hidden_sizes=(5,), episode_steps=6)


def small_policy(config: MamlConfig = SMALL) -> GaussianPolicy:
    torch.manual_seed(0)
    return GaussianPolicy(config, Spaces()).double()


def random_experience(tasks: int = 3, steps: int = 12, seed: int = 1) -> Experience:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(tasks, *shape, generator=generator, dtype=torch.float64)

    return Experience(draw(steps, OBS_DIM), draw(steps, ACT_DIM), draw(steps), draw())


# The policy ---------------------------------------------------------------------------------


def test_densities_and_divergences_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    one, other = (
        Gaussian(
            torch.randn(2, 7, 3, generator=generator, dtype=torch.float64),
            torch.randn(2, 1, 3, generator=generator, dtype=torch.float64),
        )
        for _ in range(2)
    )
    normals = [torch.distributions.Normal(each.loc, each.log_std.exp()) for each in (one, other)]
    where = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(one.log_prob(where), normals[0].log_prob(where).sum(-1))
    expected = torch.distributions.kl_divergence(*normals).sum(-1)
    torch.testing.assert_close(one.divergence(other), expected)


def test_each_task_acts_by_its_own_weights():
    policy = small_policy()
    weights = {name: each.clone() for name, each in policy.weights(3).items()}
    weights["bias_1"][1] += 1.0
    obs = torch.randn(3, 4, OBS_DIM, dtype=torch.float64)
    plain = policy.actions(policy.weights(3), obs).loc
    moved = policy.actions(weights, obs).loc
    torch.testing.assert_close(moved[1], plain[1] + 1)
    assert torch.equal(moved[[0, 2]], plain[[0, 2]])
    layers = torch.nn.Sequential(
        torch.nn.Linear(OBS_DIM, 5), torch.nn.Tanh(), torch.nn.Linear(5, ACT_DIM)
    ).double()
    for number, layer in ((0, layers[0]), (1, layers[2])):
        layer.weight.data = getattr(policy, f"weight_{number}").data.T
        layer.bias.data = getattr(policy, f"bias_{number}").data
    torch.testing.assert_close(plain, layers(obs))


# Advantages ---------------------------------------------------------------------------------


def test_sums_of_what_follows_stop_where_an_episode_ends():
    values = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
    ended = torch.tensor([[[False, True, False, True]]])
    assert discounted(values, ended, 0.5).tolist() == [[[2.0, 2.0, 8.0, 8.0]]]


def test_the_baseline_is_a_regression_within_each_task():
    """Returns that are linear in the features are met; time begins anew with each episode."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(2, 8, 20, 2, generator=generator)
    ended = torch.zeros(2, 8, 20, dtype=torch.bool)
    ended[..., 9] = ended[..., 19] = True
    time = torch.arange(20).remainder(10).expand(2, 8, 20).float()
    returns = 3 * obs[..., 0] - obs[..., 1].square() + 0.1 * time + 2
    returns[1] *= -1
    torch.testing.assert_close(baseline_of(obs, ended, returns), returns, atol=2e-2, rtol=0)


def test_episodes_of_a_new_task_end_where_they_do_also_after_a_short_one(monkeypatch):
    """Of 3 steps that terminate, of 2 that are cut, of 6 and 6, and of 4."""
    lengths, obs, obs_next, terminated = (3, 2, 6, 6, 4), [], [], []
    for episode, length in enumerate(lengths):
        first = 100.0 * episode + torch.arange(length)
        obs.append(first)
        obs_next.append(first + 1)
        terminated.append(torch.arange(length) == (length - 1 if episode == 0 else -1))
    column = torch.cat(obs).view(1, -1, 1)
    transitions = Transitions(
        obs=column.expand(1, -1, OBS_DIM).clone(),
        act=torch.zeros(1, column.shape[1], ACT_DIM),
        rew=torch.zeros(1, column.shape[1]),
        obs_next=torch.cat(obs_next).view(1, -1, 1).expand(1, -1, OBS_DIM).clone(),
        terminated=torch.cat(terminated).unsqueeze(0),
    )
    told = []

    def spied(given, ended, **options):
        told.append(ended[0, 0])
        return experience_of(given, ended, **options)

    monkeypatch.setattr(maml, "experience_of", spied)
    policy = InnerStepPolicy(SMALL, small_policy())
    policy._experience(transitions)
    wanted = np.cumsum(lengths) - 1
    assert np.flatnonzero(told[0].numpy()).tolist() == wanted.tolist()
    # Those that go on as if nothing had happened have their full length.
    goes_on = torch.arange(15.0).view(1, -1, 1).expand(1, -1, OBS_DIM)
    seamless = Transitions(
        obs=goes_on,
        act=torch.zeros(1, 15, ACT_DIM),
        rew=torch.zeros(1, 15),
        obs_next=goes_on + 1,
        terminated=torch.zeros(1, 15, dtype=torch.bool),
    )
    policy._experience(seamless)
    assert np.flatnonzero(told[1].numpy()).tolist() == [5, 11, 14]


def test_advantages_are_what_was_returned_beyond_the_baseline():
    """With lambda = 1: discounted returns less the baseline's, normalised in each task."""
    generator = torch.Generator().manual_seed(0)
    transitions = Transitions(
        obs=torch.randn(2, 3, 5, OBS_DIM, generator=generator),
        act=torch.rand(2, 3, 5, ACT_DIM, generator=generator) * 2 - 1,
        rew=torch.randn(2, 3, 5, generator=generator),
        obs_next=torch.randn(2, 3, 5, OBS_DIM, generator=generator),
        terminated=torch.zeros(2, 3, 5, dtype=torch.bool),
    )
    ended = torch.zeros(2, 3, 5, dtype=torch.bool)
    ended[..., -1] = True
    experience = experience_of(transitions, ended, gamma=0.9, gae_lambda=1.0)
    returns = torch.zeros(2, 3, 5)
    for step in range(5):
        for later in range(step, 5):
            returns[..., step] += 0.9 ** (later - step) * transitions.rew[..., later]
    beyond = (returns - baseline_of(transitions.obs, ended, returns)).flatten(1)
    expected = (beyond - beyond.mean(1, keepdim=True)) / beyond.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(experience.advantage, expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(experience.unbounded.tanh(), transitions.act.flatten(1, 2))
    torch.testing.assert_close(experience.returns, transitions.rew.sum(-1).mean(-1))


# Gradients ----------------------------------------------------------------------------------


def test_the_inner_step_is_each_tasks_own():
    policy, experience = small_policy(), random_experience()
    weights = policy.weights(3)
    both = adapted(
        weights,
        lambda now: inner_loss(policy, now, experience),
        lr=0.1,
        steps=2,
        create_graph=False,
    )
    for task in range(3):
        alone = Experience(*(each[task : task + 1] for each in experience))
        one = adapted(
            policy.weights(1),
            lambda now, alone=alone: inner_loss(policy, now, alone),
            lr=0.1,
            steps=2,
            create_graph=False,
        )
        for name, each in one.items():
            torch.testing.assert_close(both[name][task], each[0])


@pytest.mark.parametrize("inner_steps", [0, 1, 2])
def test_meta_gradients_are_those_of_finite_differences(inner_steps):
    """Through the inner steps; without them the gradient is another one."""
    config = dataclasses.replace(SMALL, inner_steps=max(1, inner_steps), inner_lr=0.3)
    trainer = outer_trainer(config)
    before, after = random_experience(seed=1), random_experience(seed=2)
    objective = trainer.outer_objective(before, after)
    parameters = list(trainer.networks.parameters())
    values = objective(create_graph=inner_steps > 0)
    gradients = [
        torch.cat(
            [each.flatten() for each in torch.autograd.grad(value, parameters, retain_graph=True)]
        )
        for value in values
    ]
    start = torch.nn.utils.parameters_to_vector(parameters).detach()
    differences = torch.zeros(2, len(start), dtype=torch.float64)
    for number in range(len(start)):
        for sign in (1, -1):
            moved = start.clone()
            moved[number] += sign * 1e-6
            trainer._set(moved)
            for row, value in enumerate(objective(create_graph=False)):
                differences[row, number] += sign * float(value.detach()) / 2e-6
    trainer._set(start)
    through = torch.allclose(gradients[0], differences[0], rtol=1e-5, atol=1e-7)
    assert through == (inner_steps > 0)
    assert float(gradients[0].abs().max()) > 1e-3


def outer_trainer(config: MamlConfig) -> MamlTrainer:
    """As much of a trainer as an outer step needs."""
    trainer = object.__new__(MamlTrainer)
    trainer.config, trainer.networks = config, small_policy(config)
    trainer.policy = InnerStepPolicy(config, trainer.networks)
    return trainer


def test_conjugate_gradients_solve_a_system():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(6, dtype=torch.float64)
    target = torch.randn(6, generator=generator, dtype=torch.float64)
    solution = conjugate_gradients(lambda vector: matrix @ vector, target, 6)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target))


def test_an_outer_step_gains_within_its_bound():
    trainer = outer_trainer(dataclasses.replace(SMALL, max_kl=0.02))
    before, after = random_experience(seed=1), random_experience(seed=2)
    objective = trainer.outer_objective(before, after)
    start = float(objective(create_graph=False)[0].detach())
    kl, gain = trainer.outer_step(before, after)
    surrogate, measured = (float(each.detach()) for each in objective(create_graph=False))
    assert 0.01 < float(kl) <= 0.02
    assert measured == pytest.approx(float(kl), rel=1e-6)
    assert start - surrogate == pytest.approx(float(gain), rel=1e-6)
    assert float(gain) > 0.01


# Runs ---------------------------------------------------------------------------------------


def adapted_return(lever, config, seed: int, *, trainer=MamlTrainer) -> float:
    with FamilyEnvs(lever) as envs:
        trainer = trainer(config, envs, seed=seed)
        while not trainer.finished:
            trainer.step()
        evaluations = evaluate(
            trainer.policy,
            envs,
            lever.meta_test,
            seed=0,
            adaptation_steps=config.adaptation_steps,
            episode_steps=EPISODE,
        )
    return float(np.mean([each.returns_adapted.mean() for each in evaluations]))


@pytest.mark.parametrize("seed", SEEDS)
def test_it_learns_to_adapt_and_without_inner_steps_it_does_not(lever, seed):
    returns = adapted_return(lever, lever_config(), seed)
    still = adapted_return(lever, lever_config(inner_lr=1e-9), seed)
    assert returns > BLIND_RETURN + 0.8
    assert still < BLIND_RETURN + 0.3


def test_it_is_a_method_whose_runs_resume_bit_for_bit(lever, tmp_path):
    config = lever_config(updates=6, tasks_per_batch=4, episodes_per_task=3, evaluate_every=2)
    method = Maml(config=config)
    assert isinstance(method, Method)
    resumed_as_whole(method, tmp_path)
    policy = method.load(tmp_path / "whole")
    assert isinstance(policy, MetaPolicy)
    assert isinstance(policy.initial_actor(2), Actor)
    assert not LeverVectorEnv.seen & set(lever.meta_test)


def test_a_new_tasks_own_episodes_adapt_it(lever):
    """Better actions become likelier, in this task alone."""
    config = lever_config()
    with FamilyEnvs(lever) as envs:
        policy = MamlTrainer(config, envs, seed=0).policy
    act = torch.linspace(-0.9, 0.9, 5 * EPISODE).reshape(1, -1, 1).repeat(2, 1, 1)
    place = torch.tensor([NEW_PLACES[0], NEW_PLACES[-1]]).reshape(2, 1)
    transitions = Transitions(
        obs=torch.arange(5 * EPISODE).remainder(EPISODE).expand(2, -1).unsqueeze(-1) / EPISODE,
        act=act,
        rew=1 - (act[..., 0] - place).square(),
        obs_next=torch.ones(2, 5 * EPISODE, 1),
        terminated=torch.zeros(2, 5 * EPISODE, dtype=torch.bool),
    )
    obs = np.zeros((2, 1), dtype=np.float32)
    before = policy.initial_actor(2).act(obs, explore=False)
    after = policy.adapt(transitions).act(obs, explore=False)
    assert after[0, 0] < before[0, 0] - 0.1
    assert after[1, 0] > before[1, 0] + 0.1
    assert math.isclose(before[0, 0], before[1, 0])
