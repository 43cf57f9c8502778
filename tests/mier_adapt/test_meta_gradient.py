"""The gradient by hand against automatic differentiation, twice."""

import dataclasses

import pytest
import torch

from mier_adapt._derivatives import autograd_gradient

from .doubles import ACT_DIM, OBS_DIM, random_model, random_transitions

TASKS, BATCH = 3, 4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("context_axes", [(), (TASKS,), (TASKS, BATCH)])
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("varies", ["reward", "reward_and_dynamics"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_values_and_derivatives_are_those_of_autograd(
    dtype, tolerance, context_axes, context_dim, varies, activation
):
    model = random_model(context_dim=context_dim, varies=varies, activation=activation).to(dtype)
    data = random_transitions(TASKS, BATCH, dtype=dtype)
    model.fit_normalization(data)
    with torch.no_grad():  # both limits bend the log-variances
        model.min_log_var.fill_(-1)
    data = dataclasses.replace(
        data,
        **{name: getattr(data, name).requires_grad_() for name in ("obs", "act", "rew")},
    )
    generator = torch.Generator().manual_seed(1)
    context, direction = torch.randn(2, *context_axes, context_dim, generator=generator).to(dtype)
    context.requires_grad_()
    loss_weight = torch.randn(TASKS, generator=generator).to(dtype)
    by = {"context": context, "obs": data.obs, "act": data.act, "rew": data.rew}
    by |= {name: value for name, value in model.named_parameters() if value.requires_grad}

    def assert_same(by_hand, expected, direction):
        values = []
        for value in (by_hand, expected):
            derivatives = torch.autograd.grad((value * direction).sum(), by.values())
            values.append([value.detach(), *derivatives])
        for name, one, other in zip(["value", *by], *values, strict=True):
            torch.testing.assert_close(
                one,
                other,
                rtol=tolerance,
                atol=tolerance,
                msg=lambda text, name=name: f"{name}: {text}",
            )
        return any(bool(each.any()) for each in values[1])

    gradient = autograd_gradient(model.loss_function(data), context, second_order=True)
    any_gradient = assert_same(model.loss_gradient(data)(context), gradient, direction)
    assert any_gradient == bool(context_dim)
    assert assert_same(model.training_loss(data, context), model.loss(data, context), loss_weight)


@pytest.mark.parametrize("axes", [(4,), (1, 4)])
def test_one_task_has_the_loss_and_derivatives_of_autograd(axes):
    model = random_model(activation="leaky_relu")
    data = random_transitions(*axes, dtype=torch.float64)
    context = torch.ones(*axes[:-1], model.context_dim, dtype=torch.float64, requires_grad=True)
    by_hand, expected = model.training_loss(data, context), model.loss(data, context)
    torch.testing.assert_close(by_hand, expected)
    for one, other in zip(
        *(
            torch.autograd.grad(each.sum(), [context, *model.layers.parameters()])
            for each in (by_hand, expected)
        ),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_other_activations_are_differentiated_automatically():
    model = random_model(activation="tanh")
    data = random_transitions(2, 3, dtype=torch.float64)
    context = torch.ones(2, model.context_dim, dtype=torch.float64)
    expected = autograd_gradient(model.loss_function(data), context, second_order=False)
    assert torch.equal(model.loss_gradient(data)(context), expected)
    assert torch.equal(model.training_loss(data, context), model.loss(data, context))


def test_a_context_that_does_not_fit_is_named():
    model = random_model(activation="relu")
    gradient = model.loss_gradient(random_transitions(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=rf"obs \(2, 3, {OBS_DIM}\), got \(2, {ACT_DIM + 3}\)"):
        gradient(torch.ones(2, ACT_DIM + 3, dtype=torch.float64))
