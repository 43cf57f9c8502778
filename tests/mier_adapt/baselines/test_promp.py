import dataclasses

import pytest
import torch

from mier_adapt.baselines import Promp, PrompConfig
from mier_adapt.baselines.maml import InnerStepPolicy
from mier_adapt.baselines.policy_gradients import clipped_objective
from mier_adapt.baselines.promp import PrompTrainer
from mier_adapt.protocols import MetaPolicy, Method

from . import test_maml
from .lever import BLIND_RETURN, SEEDS, resumed_as_whole
from .test_maml import adapted_return, random_experience, small_policy

SMALL = PrompConfig(family="HalfCheetahVel", hidden_sizes=(5,), inner_lr=0.3)


def lever_config(**changes) -> PrompConfig:
    shared = dataclasses.asdict(test_maml.lever_config())
    for name in ("max_kl", "cg_steps", "cg_damping"):
        del shared[name]
    return PrompConfig(**{**shared, "lr": 1e-2, **changes})


def outer_trainer(config: PrompConfig = SMALL) -> PrompTrainer:
    """As much of a trainer as an outer step needs."""
    trainer = object.__new__(PrompTrainer)
    trainer.config, trainer.networks = config, small_policy(config)
    trainer.policy = InnerStepPolicy(config, trainer.networks)
    trainer.optimizers = {"policy": torch.optim.Adam(trainer.networks.parameters(), lr=config.lr)}
    trainer.inner_kl_weight = config.inner_kl_weight
    return trainer


def test_the_surrogate_by_hand():
    """min(r A, clip(r, 0.7, 1.3) A): 1.3, 0.5, -1.5 and -0.7."""
    ratio = torch.tensor([[1.5, 0.5], [1.5, 0.5]], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    loss = -clipped_objective(ratio.log(), advantage, 0.3)
    assert float(loss.detach()) == pytest.approx(-(1.3 + 0.5 - 1.5 - 0.7) / 4)
    loss.backward()
    assert ratio.grad.tolist() == [[0.0, -0.25], [0.25, 0.0]]


def test_meta_gradients_are_those_of_finite_differences():
    trainer = outer_trainer()
    objective = trainer.outer_objective(random_experience(seed=1), random_experience(seed=2))
    parameters = list(trainer.networks.parameters())
    with torch.no_grad():  # where likelihood ratios differ from 1
        for parameter in parameters:
            parameter.add_(0.02 * torch.ones_like(parameter))
    gradients = [
        torch.cat([each.flatten() for each in torch.autograd.grad(value, parameters)])
        for value in (objective(create_graph=True)[row] for row in range(3))
        if value.requires_grad
    ]
    start = torch.nn.utils.parameters_to_vector(parameters).detach()
    for number in range(len(start)):
        differences = torch.zeros(3, dtype=torch.float64)
        for sign in (1, -1):
            moved = start.clone()
            moved[number] += sign * 1e-6
            with torch.no_grad():
                torch.nn.utils.vector_to_parameters(moved, parameters)
            for row, value in enumerate(objective(create_graph=False)):
                differences[row] += sign * float(value.detach()) / 2e-6
        for row, gradient in enumerate(gradients):
            assert float(gradient[number]) == pytest.approx(
                float(differences[row]), rel=1e-4, abs=1e-7
            )


def test_at_the_weights_that_acted_the_inner_step_is_mamls():
    trainer = outer_trainer()
    before, after = random_experience(seed=1), random_experience(seed=2)
    surrogate, inner_kl, kl = trainer.outer_objective(before, after)(create_graph=False)
    assert float(inner_kl.detach()) == pytest.approx(0, abs=1e-12)
    assert float(kl.detach()) == pytest.approx(0, abs=1e-12)
    assert float(surrogate.detach()) == pytest.approx(-float(after.advantage.mean()))


@pytest.mark.parametrize(("target", "factor"), [(1e-9, 2), (1e9, 0.5)])
def test_the_weight_of_the_divergence_steers_it(target, factor):
    trainer = outer_trainer(dataclasses.replace(SMALL, target_inner_kl=target))
    kl, gain = trainer.outer_step(random_experience(seed=1), random_experience(seed=2))
    assert trainer.inner_kl_weight == factor * SMALL.inner_kl_weight
    assert float(kl) > 0
    assert float(gain) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_it_learns_to_adapt_and_without_inner_steps_it_does_not(lever, seed):
    returns = adapted_return(lever, lever_config(), seed, trainer=PrompTrainer)
    still = adapted_return(lever, lever_config(inner_lr=1e-9), seed, trainer=PrompTrainer)
    assert returns > BLIND_RETURN + 0.8
    assert still < BLIND_RETURN + 0.3


def test_it_is_a_method_whose_runs_resume_bit_for_bit(lever, tmp_path):
    method = Promp(config=lever_config(updates=6, tasks_per_batch=4, episodes_per_task=3))
    assert isinstance(method, Method)
    tree = resumed_as_whole(method, tmp_path)
    assert tree["inner_kl_weight"] != method.config.inner_kl_weight
    assert isinstance(method.load(tmp_path / "whole"), MetaPolicy)
