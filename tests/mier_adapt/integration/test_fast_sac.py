"""FastSAC takes the steps of Tianshou's SAC."""

import copy
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tianshou.algorithm.modelfree.sac import SAC, AutoAlpha, SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, PrioritizedReplayBuffer
from tianshou.utils.net import continuous
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from torch import nn

from mier_adapt._storage.randomness import seed_global_generators
from mier_adapt.integration import (
    ContextReplayBuffer,
    FastSAC,
    algorithm_state,
    build_sac,
    fast_sac,
    load_algorithm_state,
    update,
)

from ..doubles import random_transitions

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (3,))
ACTIONS = spaces.Box(-1, 1, (2,))


def filled_buffer() -> ContextReplayBuffer:
    buffer = ContextReplayBuffer(
        2, 100, obs_dim=3, act_dim=2, context_dim=2, generator=np.random.default_rng(0)
    )
    for task in range(2):
        buffer.extend(task, random_transitions(100, seed=task))
    buffer.set_contexts(np.arange(2), torch.tensor([[0.5, -1.0], [2.0, 0.0]]))
    return buffer


def built(algorithm_class, *, layer_norm=False):
    torch.manual_seed(0)
    algorithm = build_sac(
        OBSERVATIONS, ACTIONS, 2, hidden_sizes=(16, 16), lr=1e-3, algorithm_class=algorithm_class
    )
    if layer_norm:  # of parts of one's own
        algorithm = algorithm_class(
            policy=algorithm.policy,
            policy_optim=_optimizer(),
            critic=_critic(nn.ReLU, 16, norm_layer=nn.LayerNorm),
            critic_optim=_optimizer(),
            critic2=_critic(nn.ReLU, 16, norm_layer=nn.LayerNorm),
            alpha=AutoAlpha(-1.0, 0.0, _optimizer()),
        )
        norms = [each for each in algorithm.critic.modules() if isinstance(each, nn.LayerNorm)]
        assert len(norms) == 2
    # As after some training: critics and their targets differ, and so do LayerNorm's weights.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in algorithm.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return algorithm


@pytest.mark.parametrize(("layer_norm", "bound"), [(False, 20), (True, 20), (False, 0.1)])
def test_losses_gradients_and_steps_are_those_of_tianshous_sac(layer_norm, bound, monkeypatch):
    for module in (continuous, fast_sac):  # log sigma's own bounds are too far to be reached
        monkeypatch.setattr(module, "SIGMA_MIN", -bound)
        monkeypatch.setattr(module, "SIGMA_MAX", min(bound, 2))
    results = []
    for algorithm_class in (SAC, FastSAC):
        algorithm = built(algorithm_class, layer_norm=layer_norm)
        buffer = filled_buffer()
        torch.manual_seed(2)
        losses = [update(algorithm, buffer, 32) for _ in range(3)]
        gradients = [parameter.grad for parameter in algorithm.policy.parameters()]
        results.append((losses, gradients, list(algorithm.state_dict().items())))
    (stock_losses, stock_gradients, stock_state), (losses, gradients, state) = results
    for expected, got in zip(stock_losses, losses, strict=True):
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for expected, got in zip(stock_gradients, gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for (name, expected), (same_name, got) in zip(stock_state, state, strict=True):
        assert name == same_name
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_critic_gradients_are_those_of_tianshous_sac(layer_norm):
    gradients = []
    for algorithm_class in (SAC, FastSAC):
        algorithm = built(algorithm_class, layer_norm=layer_norm)
        critics = [algorithm.critic, algorithm.critic2]
        seen = []
        for optimizer, critic in zip(
            (algorithm.critic_optim, algorithm.critic2_optim), critics, strict=True
        ):
            optimizer._optim.register_step_pre_hook(
                lambda *_, critic=critic, seen=seen: seen.append(
                    [parameter.grad.clone() for parameter in critic.parameters()]
                )
            )
        torch.manual_seed(2)
        update(algorithm, filled_buffer(), 32)
        gradients.append(seen)
    for expected, got in zip(*gradients, strict=True):
        for one, other in zip(expected, got, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_the_actors_step_leaves_no_gradient_on_the_critics():
    algorithm = built(FastSAC)
    before = []
    algorithm.policy_optim._optim.register_step_pre_hook(
        lambda *_: before.extend(p.grad.clone() for p in algorithm.critic.parameters())
    )
    at_critic_step = []
    algorithm.critic_optim._optim.register_step_pre_hook(
        lambda *_: at_critic_step.extend(p.grad.clone() for p in algorithm.critic.parameters())
    )
    update(algorithm, filled_buffer(), 32)
    assert before
    for one, other in zip(before, at_critic_step, strict=True):
        assert torch.equal(one, other)


def test_scaled_observations_are_learned_from_as_if_the_buffer_held_them():
    scale = torch.tensor([10.0, 0.2, 1.0])
    on_scaled, scaled = built(FastSAC), built(FastSAC)
    scaled.scale_obs(scale)
    buffers = filled_buffer(), filled_buffer()
    for column in ("obs", "obs_next"):
        buffers[0]._meta[column][:] *= scale.numpy()
    losses = []
    for algorithm, buffer in zip((on_scaled, scaled), buffers, strict=True):
        torch.manual_seed(2)
        losses.append([update(algorithm, buffer, 32) for _ in range(30)])
    for expected, got in zip(*losses, strict=True):
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-3)
    for (name, expected), (_, got) in zip(
        on_scaled.named_parameters(), scaled.named_parameters(), strict=True
    ):
        if got.dim() == 2 and got.shape[1] < 16:  # a first layer
            got = torch.cat((got[:, :3] / scale, got[:, 3:]), 1)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4, msg=name)


def test_scaled_rewards_are_learned_from_as_if_the_buffer_held_them():
    scale = 0.1
    on_scaled, scaled = built(FastSAC), built(FastSAC)
    scaled.scale_rewards(scale)
    on_scaled.alpha._log_alpha.data += math.log(scale)
    buffers = filled_buffer(), filled_buffer()
    buffers[0]._meta["rew"][:] *= scale
    losses = []
    for algorithm, buffer in zip((on_scaled, scaled), buffers, strict=True):
        torch.manual_seed(2)
        losses.append([update(algorithm, buffer, 32) for _ in range(30)])
    for expected, got in zip(*losses, strict=True):
        assert got["critic1_loss"] * scale**2 == pytest.approx(expected["critic1_loss"], rel=1e-3)
        for name in ("actor_loss", "alpha"):
            assert got[name] * scale == pytest.approx(expected[name], rel=1e-3, abs=1e-3)
    for (name, expected), (_, got) in zip(
        on_scaled.named_parameters(), scaled.named_parameters(), strict=True
    ):
        if name.startswith("critic") and len(got) == 1:  # a last layer
            got = got * scale
        if name.startswith("alpha"):
            got = got + math.log(scale)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4, msg=name)


def test_an_actor_without_hidden_layers_is_scaled_kept_and_taken_up():
    scale = torch.tensor([10.0, 0.2, 1.0])

    def linear():
        torch.manual_seed(0)
        return build_sac(
            OBSERVATIONS, ACTIONS, 2, hidden_sizes=(), lr=1e-3, algorithm_class=FastSAC
        )

    one, other = linear(), linear()
    before = [head.weight.clone() for head in one._heads]
    one.scale_obs(scale)
    for head, weight in zip(one._heads, before, strict=True):
        assert torch.equal(head.weight[:, :3], weight[:, :3] * scale)
    update(one, filled_buffer(), 32)
    load_algorithm_state(other, algorithm_state(one))
    losses = []
    for each in (one, other):
        torch.manual_seed(3)
        losses.append(update(each, filled_buffer(), 32))
    assert losses[0] == losses[1]


def test_a_copy_learns_apart():
    algorithm = built(FastSAC)
    twin = copy.deepcopy(algorithm)
    untouched = [parameter.clone() for parameter in algorithm.parameters()]
    update(twin, filled_buffer(), 32)
    assert all(torch.equal(*pair) for pair in zip(untouched, algorithm.parameters(), strict=True))
    assert not torch.equal(next(twin.critic.parameters()), next(algorithm.critic.parameters()))


def test_prioritised_samples_weigh_as_in_tianshous_sac():
    rows = random_transitions(60, obs_dim=5, act_dim=2)
    stats, priorities = [], []
    for kind in (SAC, FastSAC):
        buffer = PrioritizedReplayBuffer(60, alpha=0.6, beta=0.4)
        for at in range(60):
            row = {name: getattr(rows, name)[at].numpy() for name in ("obs", "act", "obs_next")}
            rew, terminated = float(rows.rew[at]), bool(rows.terminated[at])
            buffer.add(Batch(**row, rew=rew, terminated=terminated, truncated=False))
        buffer.update_weight(np.arange(60), np.linspace(0.1, 3, 60))
        algorithm = built(kind)
        seed_global_generators(0)
        stats.append(update(algorithm, buffer, 16))
        priorities.append(np.array(buffer.weight[np.arange(60)]))
    assert stats[0] == pytest.approx(stats[1], rel=1e-4)
    np.testing.assert_allclose(priorities[0], priorities[1], rtol=1e-4)
    assert len(np.unique(priorities[0])) > 3


def test_refuses_what_it_cannot_compute():
    stock = built(SAC)
    common = {
        "policy": stock.policy,
        "policy_optim": _optimizer(),
        "critic_optim": _optimizer(),
        "critic": stock.critic,
    }
    with pytest.raises(ValueError, match="n_step_return_horizon=1; use"):
        FastSAC(**common, n_step_return_horizon=3)
    with pytest.raises(ValueError, match=r"Linear, LayerNorm and ReLU layers.* got Tanh"):
        FastSAC(**common | {"critic": _critic(nn.Tanh, 16)})
    for options in (
        {},
        {"unbounded": True},
        {"unbounded": True, "conditioned_sigma": True, "hidden_sizes": (8,)},
    ):
        actor = ContinuousActorProbabilistic(
            preprocess_net=Net(state_shape=(5,), hidden_sizes=(16,)), action_shape=(2,), **options
        )
        policy = SACPolicy(actor=actor, action_space=ACTIONS)
        with pytest.raises(
            ValueError,
            match="with unbounded and conditioned_sigma set, and with all hidden_sizes in its",
        ):
            FastSAC(**common | {"policy": policy})
    with pytest.raises(ValueError, match="critics of 5 inputs of the actor's and 2 actions"):
        FastSAC(**common | {"critic": _critic(nn.ReLU, 16, observed=4)})


class Functional(nn.Module):
    """A critic whose activations are no layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(7, 16), nn.Linear(16, 1)

    def forward(self, obs, act=None, info=None):
        return self.last(nn.functional.relu(self.first(torch.cat((obs, act), -1))))


class Scaled(Net):
    """An actor's network that scales what it sees."""

    def forward(self, obs, state=None, info=None):
        return super().forward(obs * 0.5, state, info)


def test_refuses_networks_that_do_more_than_their_layers():
    stock = built(SAC)
    common = {"policy_optim": _optimizer(), "critic_optim": _optimizer()}
    with pytest.raises(ValueError, match="the critic to compute its layers one after the other"):
        FastSAC(policy=stock.policy, critic=Functional(), **common)
    with pytest.raises(ValueError, match=r"the critic2 to compute .* Use Tianshou's SAC"):
        FastSAC(policy=stock.policy, critic=stock.critic, critic2=Functional(), **common)
    actor = ContinuousActorProbabilistic(
        preprocess_net=Scaled(state_shape=(5,), hidden_sizes=(16,)),
        action_shape=(2,),
        unbounded=True,
        conditioned_sigma=True,
    )
    policy = SACPolicy(actor=actor, action_space=ACTIONS)
    with pytest.raises(ValueError, match="the actor to compute its layers one after the other"):
        FastSAC(policy=policy, critic=stock.critic, **common)


def _optimizer():
    return AdamOptimizerFactory(lr=1e-3)


def _critic(activation, width, *, observed=5, **options):
    return ContinuousCritic(
        preprocess_net=Net(
            state_shape=(observed,),
            action_shape=(2,),
            hidden_sizes=(width, width),
            activation=activation,
            concat=True,
            **options,
        )
    )
