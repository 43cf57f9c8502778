"""The gradient of a piecewise linear model's loss by the context, differentiable by hand."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from mier_adapt._typing import Float, Tensor

__all__ = ["autograd_gradient", "context_gradient"]


def autograd_gradient(
    loss_fn: Callable[[Tensor], Tensor], context: Float[Tensor, "*tasks C"], *, second_order: bool
) -> Float[Tensor, "*tasks C"]:
    """Gradient of a loss by the context, by automatic differentiation.

    It is a constant unless ``second_order``.
    """
    if not context.requires_grad:
        context = context.detach().requires_grad_()
    with torch.set_grad_enabled(True):  # also where the caller evaluates without gradients
        (grad,) = torch.autograd.grad(
            loss_fn(context).sum(), context, create_graph=second_order, retain_graph=second_order
        )
    return grad


def context_gradient(
    context: Float[Tensor, "G C"],
    product: Float[Tensor, "N H"],
    target: Float[Tensor, "N Y"],
    *,
    loss_weight: Float[Tensor, " Y"],
    min_log_var: Float[Tensor, " Y"],
    max_log_var: Float[Tensor, " Y"],
    context_weight: Float[Tensor, "H C"],
    layers: list[tuple[Tensor, Tensor]],
    slope: float,
) -> Float[Tensor, "G C"]:
    r"""Gradient of a :class:`ContextModel`'s loss by G contexts of N / G transitions each.

    With $\sigma$ a leaky ReLU, $a_0 = \sigma(x + W_\phi \phi)$, $a_i = \sigma(W_i a_{i-1} + b_i)$,
    and gradients $\delta_i$ by what the $\sigma$ of layer $i$ acts on,

    $$\delta_{i-1} = \sigma' \odot W_i^\top \delta_i, \qquad
      \nabla_\phi L = W_\phi^\top \textstyle\sum \delta_0.$$

    The derivative of $v^\top \nabla_\phi L$ by any parameter is the derivative, along $v$, of
    the gradient by that parameter. So the second backward pass carries derivatives along $v$,
    marked by dots, through forward and first backward pass; $\sigma'' = 0$:

    $$\dot a_i = \sigma' \odot W_i \dot a_{i-1}, \qquad
      \dot\delta_{i-1} = \sigma' \odot W_i^\top \dot\delta_i, \qquad
      \nabla_{W_i} = \dot\delta_i a_{i-1}^\top + \delta_i \dot a_{i-1}^\top.$$

    The products are those of automatic differentiation, without its graph and copies.

    Args:
        context: One for each group of N / G successive rows.
        product: What the inputs contribute to the first layer, $x$.
        target: Z-scored targets.
        loss_weight: Of each dimension of each row, in the loss.
        min_log_var: Soft lower limits of the log-variances.
        max_log_var: Soft upper limits of the log-variances.
        context_weight: $W_\phi$.
        layers: Weights ``(out, in)`` and biases of the layers that follow.
        slope: Of the activation below zero: 0 for ReLU.

    Returns:
        The gradients; they can be differentiated once, by all tensors but ``loss_weight``.

    Source:
        Pearlmutter (1994), Fast exact multiplication by the Hessian, Neural Computation 6(1).
    """
    flat = [each for layer in layers for each in layer]
    return _ContextGradient.apply(  # type: ignore[no-any-return, no-untyped-call]
        slope,
        loss_weight,
        context,
        product,
        target,
        min_log_var,
        max_log_var,
        context_weight,
        *flat,
    )


class _ContextGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: float, loss_weight: Tensor, *tensors: Tensor) -> Tensor:
        context, product, target, min_log_var, max_log_var, context_weight, *layers = tensors
        weights, biases = layers[::2], layers[1::2]
        groups, rows = len(context), len(product) // len(context)

        hidden = product.view(groups, rows, -1) + (context @ context_weight.t()).unsqueeze(1)
        hidden = hidden.view(product.shape)
        activations = []
        for weight, bias in zip(weights, biases, strict=True):
            activations.append(F.leaky_relu(hidden, slope, inplace=True))
            hidden = torch.addmm(bias, hidden, weight.t())

        mean, log_var = hidden.chunk(2, dim=-1)
        below = torch.sigmoid(max_log_var - log_var)  # derivative of the upper limit
        log_var = max_log_var - F.softplus(max_log_var - log_var)
        above = torch.sigmoid(log_var - min_log_var)  # and of the lower
        log_var = min_log_var + F.softplus(log_var - min_log_var)
        error = mean - target
        precision = loss_weight * torch.exp(-log_var)  # weighted
        by_log_var = loss_weight - precision * error * error
        by_mean = 2 * precision * error
        gradient = torch.cat((by_mean, by_log_var * above * below), -1)
        gradients = [gradient]
        for weight, activation in zip(reversed(weights), reversed(activations), strict=True):
            gradient = _through_activation(gradient @ weight, activation, slope)
            gradients.append(gradient)
        group_gradient = gradient.view(groups, rows, -1).sum(1)
        ctx.slope, ctx.count = slope, len(weights)
        ctx.save_for_backward(
            context, context_weight, group_gradient, above, below, error, precision, by_log_var,
            *weights, *activations, *gradients[:-1][::-1],
        )  # fmt: skip
        return group_gradient @ context_weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        context, context_weight, group_gradient, *saved = ctx.saved_tensors
        above, below, error, precision, by_log_var, *saved = saved
        count, slope = ctx.count, ctx.slope
        weights, activations, gradients = (saved[i * count : (i + 1) * count] for i in range(3))
        groups = len(context)

        hidden_dot = (direction @ context_weight.t()).repeat_interleave(len(error) // groups, dim=0)
        activation_dots = []
        for weight, activation in zip(weights, activations, strict=True):
            activation_dots.append(_through_activation(hidden_dot, activation, slope))
            hidden_dot = hidden_dot @ weight.t()

        mean_dot, log_var_dot = hidden_dot.chunk(2, dim=-1)
        below_dot = below * (below - 1) * log_var_dot
        log_var_dot = below * log_var_dot
        above_dot = above * (1 - above) * log_var_dot
        log_var_dot = above * log_var_dot
        by_mean_dot = 2 * precision * (mean_dot - error * log_var_dot)
        by_log_var_dot = precision * error * (error * log_var_dot - 2 * mean_dot)
        by_upper_dot = by_log_var_dot * above + by_log_var * above_dot
        by_output_dot = by_upper_dot * below + by_log_var * above * below_dot
        min_grad = (by_log_var_dot - by_upper_dot).sum(0)
        max_grad = (by_upper_dot - by_output_dot).sum(0)

        gradient_dot = torch.cat((by_mean_dot, by_output_dot), -1)
        layer_grads: list[Tensor] = []
        for weight, activation, gradient, activation_dot in zip(
            *(reversed(each) for each in (weights, activations, gradients, activation_dots)),
            strict=True,
        ):
            weight_grad = gradient_dot.t() @ activation
            torch.addmm(weight_grad, gradient.t(), activation_dot, out=weight_grad)
            layer_grads[:0] = weight_grad, gradient_dot.sum(0)
            gradient_dot = _through_activation(gradient_dot @ weight, activation, slope)
        group_dot = gradient_dot.view(groups, len(error) // groups, -1).sum(1)
        context_weight_grad = group_dot.t() @ context + group_gradient.t() @ direction
        return (
            None, None, group_dot @ context_weight, gradient_dot, -by_mean_dot,
            min_grad, max_grad, context_weight_grad, *layer_grads,
        )  # fmt: skip


def _through_activation(gradient: Tensor, activation: Tensor, slope: float) -> Tensor:
    """A leaky ReLU's derivative times a gradient, in place; the sign of its result tells it."""
    torch.ops.aten.leaky_relu_backward(gradient, activation, slope, True, grad_input=gradient)
    return gradient
