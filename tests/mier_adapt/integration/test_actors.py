import numpy as np
import pytest
import torch
from gymnasium import spaces
from tianshou.data import Batch

from mier_adapt._storage.randomness import global_generator_state, seed_global_generators
from mier_adapt.integration import PolicyActor, build_sac, relabeling_policy
from mier_adapt.integration.actors import act, require_fitting_policy
from mier_adapt.protocols import Actor

from ..doubles import ACT_DIM, ALGORITHMS, CONTEXT_DIM, OBS_DIM, assert_same_tree, small_sac

OBS = np.random.default_rng(0).normal(size=(6, OBS_DIM)).astype(np.float32)
CONTEXT = torch.tensor([0.3, -0.8])

each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def policy_of(name: str = "SAC", **dims: int):
    seed_global_generators(0)
    return ALGORITHMS[name](**dims).policy


class Listening:
    """A policy whose network is told apart: what is it asked?"""

    def __init__(self, **dims: int) -> None:
        self.policy = policy_of(**dims)
        self.asked: list[np.ndarray] = []
        self.policy.forward = self._forward

    def _forward(self, batch, **_):
        self.asked.append(np.array(batch.obs))
        return Batch(act=torch.full((len(batch.obs), ACT_DIM), 0.5))


# Actors -------------------------------------------------------------------------------------


@each_algorithm
def test_acts_in_the_policys_range_and_leaves_it_as_it_was(name):
    actor = PolicyActor(policy_of(name), CONTEXT)
    assert isinstance(actor, Actor)
    explored = [actor.act(OBS, explore=True) for _ in range(2)]
    certain = [actor.act(OBS, explore=False) for _ in range(2)]
    for action in explored + certain:
        assert action.shape == (6, ACT_DIM)
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1
    assert not np.array_equal(*explored)
    assert np.array_equal(*certain)
    assert not np.array_equal(explored[0], certain[0])
    assert not actor.policy.is_within_training_step


def test_exploration_noise_is_clipped_too():
    policy = policy_of("TD3")
    policy.exploration_noise._sigma = 50.0
    action = PolicyActor(policy, CONTEXT).act(OBS, explore=True)
    assert set(np.abs(action[np.abs(action) > 0.99])) == {1.0}


def test_one_context_stands_behind_every_observation():
    heard = Listening()
    action = PolicyActor(heard.policy, CONTEXT).act(OBS, explore=False)
    assert (action == 0.5).all()
    (asked,) = heard.asked
    assert asked.dtype == np.float32
    np.testing.assert_array_equal(asked[:, :OBS_DIM], OBS)
    np.testing.assert_array_equal(asked[:, OBS_DIM:], CONTEXT.expand(6, -1))


@pytest.mark.parametrize("tasks", [1, 2, 3, 6])
def test_slots_are_in_order_of_the_tasks_as_many_of_each(tasks):
    contexts = torch.arange(2.0 * tasks, dtype=torch.float64).reshape(tasks, CONTEXT_DIM)
    heard = Listening()
    PolicyActor(heard.policy, contexts).act(OBS.astype(np.float64), explore=False)
    (asked,) = heard.asked
    assert asked.dtype == np.float32
    np.testing.assert_array_equal(asked[:, :OBS_DIM], OBS)
    for slot, row in enumerate(asked):
        np.testing.assert_array_equal(row[OBS_DIM:], contexts[slot // (6 // tasks)])


@each_algorithm
def test_several_tasks_act_as_each_by_itself(name):
    policy = policy_of(name)
    contexts = torch.randn(3, CONTEXT_DIM, generator=torch.Generator().manual_seed(1))
    together = PolicyActor(policy, contexts).act(OBS, explore=False)
    alone = [
        PolicyActor(policy, contexts[task]).act(OBS[2 * task : 2 * task + 2], explore=False)
        for task in range(3)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-6)
    other = PolicyActor(policy, contexts.flip(0)).act(OBS, explore=False)
    assert not np.allclose(other[:2], together[:2])


@pytest.mark.parametrize("contexts", [torch.zeros(0), torch.zeros(3, 0)])
def test_a_policy_without_a_context_sees_observations_alone(contexts):
    heard = Listening(context_dim=0)
    PolicyActor(heard.policy, contexts).act(OBS, explore=False)
    np.testing.assert_array_equal(heard.asked, [OBS])


def test_an_actor_keeps_no_gradient_of_its_contexts():
    contexts = CONTEXT.clone().requires_grad_()
    actor = PolicyActor(policy_of(), contexts)
    assert not actor.contexts.requires_grad
    assert torch.equal(actor.contexts, CONTEXT)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("contexts", "error", "message"),
    [
        (torch.tensor(1.0), ValueError, r"contexts of shape \(C,\) or \(T, C\).* of shape \(\)"),
        (torch.zeros(1, 1, CONTEXT_DIM), ValueError, r"contexts .* of shape \(1, 1, 2\)"),
        (torch.tensor([0.0, torch.nan]), ValueError, r"contexts .* finite values"),
        (torch.tensor([[torch.inf, 0.0]]), ValueError, r"contexts .* finite values"),
        ([0.0, 0.0], TypeError, "contexts to be of type Tensor"),
    ],
)
def test_refuses_contexts_that_do_not_fit(contexts, error, message):
    with pytest.raises(error, match=f"PolicyActor expected {message}"):
        PolicyActor(policy_of(), contexts)


@pytest.mark.usefixtures("unchecked")
def test_refuses_observations_that_do_not_fit():
    actor = PolicyActor(policy_of(), CONTEXT.expand(4, -1))
    with pytest.raises(ValueError, match="N a multiple of 4 tasks"):
        actor.act(OBS, explore=False)
    with pytest.raises(ValueError, match=r"obs .* of shape \(N, O\)"):
        actor.act(OBS[:4, 0], explore=False)
    with pytest.raises(ValueError, match="obs to be finite"):
        actor.act(np.full((4, OBS_DIM), np.nan, np.float32), explore=False)
    with pytest.raises(ValueError, match="expected obs that the policy takes, contexts included"):
        actor.act(OBS[:4, 1:], explore=False)
    with pytest.raises(TypeError, match="policy to be of type Policy"):
        PolicyActor(ALGORITHMS["SAC"](), CONTEXT)


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("name", ["build_sac", "SAC", "REDQ"])
def test_a_policy_that_diverged_is_named_by_its_parameter(name, explore):
    policy = policy_of(name)
    with torch.no_grad():
        policy.actor.mu.model[0].bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"The policy's parameter actor\.mu.* not finite"):
        PolicyActor(policy, CONTEXT).act(OBS, explore=explore)


def test_acting_deterministically_draws_nothing():
    policy = policy_of()
    before = global_generator_state()
    PolicyActor(policy, CONTEXT).act(OBS, explore=False)
    relabeling_policy(policy, torch.zeros(CONTEXT_DIM), explore=False)(torch.from_numpy(OBS))
    assert_same_tree(global_generator_state(), before)


# Relabeling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["build_sac", "SAC", "REDQ"])
@pytest.mark.parametrize("explore", [False, True])
def test_a_relabeling_policy_acts_as_the_policy_under_its_context(name, explore):
    policy = policy_of(name)
    obs = torch.from_numpy(OBS)
    seed_global_generators(5)
    action = relabeling_policy(policy, CONTEXT, explore=explore)(obs)
    seed_global_generators(5)
    expected = act(policy, np.concatenate((obs, CONTEXT.expand(6, -1)), axis=1), explore=explore)
    np.testing.assert_allclose(action, expected, rtol=1e-6)
    assert not action.requires_grad
    other = relabeling_policy(policy, -CONTEXT, explore=False)(obs)
    assert not torch.equal(other, action)


# Bounds -------------------------------------------------------------------------------------


def box(low: float, high: float, dim: int = ACT_DIM) -> spaces.Box:
    return spaces.Box(low, high, (dim,), np.float32)


def built_for(space: spaces.Box):
    return build_sac(box(-1, 1, OBS_DIM), space, 0, hidden_sizes=(8,)).policy


def test_a_policys_actions_mean_what_they_meant_where_it_was_made():
    for space in (box(-1, 1), box(-3, 5), box(-3e-9, 0)):  # units are the environment's own
        policy = built_for(space)
        require_fitting_policy("adapt", policy, space)
        for other in (box(-3, 4), box(-1, 1, 3), box(-1e-9, 1e-9)):
            with pytest.raises(ValueError, match=r"adapt expected a policy .*RescaleAction"):
                require_fitting_policy("adapt", policy, other)
    policy = built_for(box(-3, 5))
    policy.action_scaling = False
    with pytest.raises(ValueError, match="action_scaling"):
        require_fitting_policy("adapt", policy, box(-3, 5))
    policy = built_for(box(-1, 1))
    policy.action_scaling = False  # there is nothing to scale
    require_fitting_policy("adapt", policy, box(-1, 1))
    policy.action_bound_method = "tanh"  # of which updates and relabeling would know nothing
    with pytest.raises(ValueError, match=r"without tanh, .* bounded by tanh"):
        require_fitting_policy("adapt", policy, box(-1, 1))


@pytest.mark.parametrize("layer", [torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(8)])
def test_acts_as_outside_of_training_whatever_mode_it_finds(layer):
    """Dropout would draw, and batch statistics of a single row are none."""
    algorithm = small_sac()
    hidden = algorithm.policy.actor.preprocess.model.model
    hidden.append(layer)
    algorithm.policy.train()
    actor = PolicyActor(algorithm.policy, torch.zeros(CONTEXT_DIM))
    obs = np.ones((1, OBS_DIM), np.float32)
    first, again = (actor.act(obs, explore=False) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert algorithm.policy.training
    assert layer.training
    algorithm.policy.eval()
    np.testing.assert_array_equal(actor.act(obs, explore=False), first)
    assert not layer.training
