"""The meta-gradient by hand, against automatic differentiation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mier_adapt import GradientContextAdapter, _meta_gradient
from mier_adapt.context_adapter import adapt_context

from .doubles import OBS_DIM, plain_meta_loss, random_model, random_transitions


def case(**options):
    """An adapter whose both limits bend the log-variances, and its two sets."""
    sizes = options.pop("sizes", (5, 4))
    tasks = options.pop("tasks", 3)
    steps, max_grad_norm = options.pop("steps", 2), options.pop("max_grad_norm", 0.05)
    seed, dtype = options.pop("seed", 0), options.pop("dtype", torch.float64)
    options = {"activation": "leaky_relu", "learn_initial_context": True, **options}
    model = random_model(seed=seed, **options).to(dtype)
    adaptation, evaluation = (
        random_transitions(tasks, size, dtype=dtype, seed=seed + size) for size in sizes
    )
    if tasks * sizes[0] > 1:
        model.fit_normalization(adaptation)
    with torch.no_grad():
        model.min_log_var.fill_(-1)
    adapter = GradientContextAdapter(model, steps=steps, lr=0.3, max_grad_norm=max_grad_norm)
    return adapter, adaptation, evaluation


def gradients(adapter, loss):
    parameters = dict(adapter.model.named_parameters())
    found = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if one is None else one
        for (name, parameter), one in zip(parameters.items(), found, strict=True)
    }


def assert_same(adapter, one, other, tolerance=1e-9):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    one, other = gradients(adapter, one), gradients(adapter, other)
    for name, expected in other.items():
        torch.testing.assert_close(
            one[name],
            expected,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert any(bool(each.any()) for each in other.values())


@settings(max_examples=80)
@given(
    tasks=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    steps=st.integers(0, 3),
    max_grad_norm=st.sampled_from([None, 0.05, 1e300]),
    activation=st.sampled_from(["relu", "leaky_relu"]),
    varies=st.sampled_from(["reward", "reward_and_dynamics"]),
    context_dim=st.integers(0, 2),
    hidden_sizes=st.sampled_from([(), (4,), (5, 4), (3, 5, 4)]),
    learn_initial_context=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_loss_and_gradients_are_those_of_a_plain_loop(**options):
    adapter, *sets = case(**options)
    assert_same(adapter, adapter.meta_loss(*sets).loss, plain_meta_loss(adapter, *sets))


def test_single_precision_is_that_of_a_plain_loop():
    adapter, *sets = case(dtype=torch.float32, tasks=10, sizes=(64, 64))
    assert_same(adapter, adapter.meta_loss(*sets).loss, plain_meta_loss(adapter, *sets), 1e-5)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("tasks", "blocks"), [(4, 2), (3, 1)])
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("hidden_sizes", [(4,), (3, 5, 4)])
def test_tasks_are_dealt_out_to_the_cores_evenly_or_not_at_all(
    tasks, blocks, context_dim, hidden_sizes
):
    adapter, *sets = case(tasks=tasks, context_dim=context_dim, hidden_sizes=hidden_sizes)
    assert _meta_gradient._num_blocks(sets[0]) == blocks
    meta = adapter.meta_loss(*sets)
    assert_same(adapter, meta.loss, plain_meta_loss(adapter, *sets))
    torch.testing.assert_close(meta.contexts, adapter.adapt(sets[0]))
    expected = adapter.model.loss(sets[1], meta.contexts)
    torch.testing.assert_close(meta.evaluation_loss, expected.detach())


@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_first_order_holds_the_steps_constant(max_grad_norm):
    adapter, adaptation, evaluation = case(max_grad_norm=max_grad_norm)
    model = adapter.model
    first = adapter.meta_loss(adaptation, evaluation, first_order=True)
    contexts = adapt_context(
        model.loss_function(adaptation),
        model.initial_context.expand(3, -1),
        lrs=(0.3, 0.3),
        max_grad_norm=max_grad_norm,
        create_graph=True,
        detach_grads=True,
    )
    torch.testing.assert_close(first.contexts, contexts)
    expected = model.loss(evaluation, contexts).mean() + model.bound_penalty()
    assert_same(adapter, first.loss, expected)
    first, second = (
        gradients(adapter, adapter.meta_loss(adaptation, evaluation, first_order=order).loss)
        for order in (True, False)
    )
    assert not torch.allclose(first["layers.0.weight"], second["layers.0.weight"], rtol=1e-3)


def test_the_loss_of_each_task_and_its_context_are_those_of_adapt_and_loss():
    adapter, adaptation, evaluation = case()
    meta = adapter.meta_loss(adaptation, evaluation)
    contexts = adapter.adapt(adaptation)
    torch.testing.assert_close(meta.contexts, contexts)
    expected = adapter.model.loss(evaluation, contexts)
    torch.testing.assert_close(meta.evaluation_loss, expected.detach())


def test_without_gradients_the_loss_is_the_same():
    adapter, *sets = case()
    with torch.no_grad():
        meta = adapter.meta_loss(*sets)
    assert not meta.loss.requires_grad
    torch.testing.assert_close(meta.loss, adapter.meta_loss(*sets).loss.detach())


def test_gradients_scale_accumulate_and_leave_frozen_parameters_alone():
    adapter, *sets = case()
    loss = adapter.meta_loss(*sets).loss
    once = gradients(adapter, adapter.meta_loss(*sets).loss)
    adapter.model.min_log_var.requires_grad_(False)
    loss = adapter.meta_loss(*sets).loss
    (3 * loss).backward(retain_graph=True)
    loss.backward()
    assert adapter.model.min_log_var.grad is None
    for name, parameter in adapter.model.named_parameters():
        if name != "min_log_var":
            torch.testing.assert_close(parameter.grad, 4 * once[name])


def test_a_second_derivative_is_refused():
    adapter, *sets = case()
    weight = adapter.model.layers[1].weight
    (gradient,) = torch.autograd.grad(adapter.meta_loss(*sets).loss, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


def test_other_activations_are_differentiated_automatically():
    adapter, *sets = case(activation="tanh")
    assert_same(adapter, adapter.meta_loss(*sets).loss, plain_meta_loss(adapter, *sets))


def test_z_scored_inputs_and_targets_are_what_the_layers_see_and_should_give():
    adapter, adaptation, _ = case()
    inputs, targets = adapter.model.z_scored(adaptation)
    for values, dim in ((inputs, OBS_DIM + 2), (targets, 1 + OBS_DIM)):
        assert values.shape == (3, 5, dim)
        rows = values.flatten(0, 1)
        torch.testing.assert_close(rows.mean(0), torch.zeros(dim, dtype=torch.float64))
        torch.testing.assert_close(rows.std(0), torch.ones(dim, dtype=torch.float64))
