"""An actor that is trained alone takes the steps that its own algorithm would take."""

import copy
import math

import pytest
import torch
from gymnasium import spaces
from tianshou.algorithm.modelfree.ddpg import DDPG
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch
from tianshou.utils.torch_utils import policy_within_training_step

from mier_adapt._storage.randomness import seed_global_generators
from mier_adapt.integration import FastSAC, build_sac
from mier_adapt.integration.actor_training import refresh_actor, require_refreshable

from ..doubles import ACT_DIM, ALGORITHMS, CONTEXT_DIM, OBS_DIM, small_td3


def small_ddpg():
    td3 = small_td3()
    return DDPG(
        policy=td3.policy,
        policy_optim=AdamOptimizerFactory(lr=1e-2),
        critic=td3.critic,
        critic_optim=AdamOptimizerFactory(lr=1e-2),
    )


def fast_sac():
    observations, actions = (spaces.Box(-1.0, 1.0, (dim,)) for dim in (OBS_DIM, ACT_DIM))
    return build_sac(
        observations,
        actions,
        CONTEXT_DIM,
        hidden_sizes=(8,),
        lr=1e-2,
        algorithm_class=FastSAC,
    )


BUILDERS = {**ALGORITHMS, "DDPG": small_ddpg, "FastSAC": fast_sac}

each_algorithm = pytest.mark.parametrize("name", BUILDERS)


def built(name: str):
    """An algorithm whose critics and targets differ, as after some training."""
    seed_global_generators(0)
    algorithm = BUILDERS[name]()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in algorithm.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return algorithm


def observations(batches: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(32, OBS_DIM + CONTEXT_DIM, generator=generator) for _ in range(batches)]


def tensors(algorithm) -> dict[str, torch.Tensor]:
    return {
        name: value.clone()
        for name, value in algorithm.state_dict().items()
        if isinstance(value, torch.Tensor)
    }


def actor_gradients(algorithm, train) -> list[torch.Tensor]:
    """Of the one step of the actor's optimizer that ``train`` takes."""
    seen = []
    policy = algorithm.policy
    algorithm.policy_optim._optim.register_step_pre_hook(
        lambda *_: seen.append([each.grad.clone() for each in policy.parameters()])
    )
    seed_global_generators(3)
    train(algorithm)
    (gradients,) = seen
    return gradients


def own_step(algorithm) -> None:
    """One of the algorithm's own updates, before which its critics do not move."""
    for name in ("critic_optim", "critic2_optim"):
        if hasattr(algorithm, name):
            for group in getattr(algorithm, name)._optim.param_groups:
                group["lr"] = 0.0
    algorithm.actor_delay = 1  # REDQ's actor moves with every update then
    (obs,) = observations()
    batch = Batch(obs=obs, act=torch.zeros(32, ACT_DIM), returns=torch.zeros(32), info=Batch())
    with policy_within_training_step(algorithm.policy):
        algorithm._update_with_batch(batch)


@each_algorithm
def test_the_gradient_is_that_of_the_algorithms_own_loss_of_the_actor(name):
    algorithm = built(name)
    expected = actor_gradients(copy.deepcopy(algorithm), own_step)
    gradients = actor_gradients(algorithm, lambda each: refresh_actor(each, observations()))
    assert any(bool(each.any()) for each in expected)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@each_algorithm
def test_the_actor_moves_and_all_else_stays(name):
    algorithm = built(name)
    before = tensors(algorithm)
    loss = refresh_actor(algorithm, iter(observations(5)))
    assert math.isfinite(loss)
    after = tensors(algorithm)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if key.startswith("policy.")} != set()
    assert not algorithm.policy.is_within_training_step
    critics = [algorithm.critic, getattr(algorithm, "critic2", algorithm.critic)]
    for parameter in (each for critic in critics for each in critic.parameters()):
        assert parameter.grad is None
        assert parameter.requires_grad


@each_algorithm
def test_the_actor_gets_better_by_its_critics(name):
    algorithm = built(name)
    (obs,) = observations()
    seed_global_generators(4)
    first = refresh_actor(algorithm, [obs])
    last = refresh_actor(algorithm, [obs] * 60)
    seed_global_generators(4)
    again = refresh_actor(algorithm, [obs])
    assert again < first
    assert last < first


@each_algorithm
def test_a_loss_that_is_not_finite_names_the_update_and_leaves_the_critics_trainable(name):
    algorithm = built(name)

    def spoiling():
        yield observations()[0]
        with torch.no_grad():
            for parameter in algorithm.critic.parameters():
                parameter.fill_(torch.nan)
        yield observations()[0]

    with pytest.raises(FloatingPointError, match="the loss of update 1 is nan"):
        refresh_actor(algorithm, spoiling())
    assert all(each.requires_grad for each in algorithm.critic.parameters())


def test_an_algorithm_whose_loss_is_not_known_is_refused():
    for name in BUILDERS:
        require_refreshable("adapt", built(name))
    with pytest.raises(TypeError, match=r"adapt expected .*got int\. Set refresh_updates=0"):
        require_refreshable("adapt", 3)
