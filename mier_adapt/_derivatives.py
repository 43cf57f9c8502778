"""A piecewise linear model's loss and its gradient by the context, differentiated by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from mier_adapt._typing import Float, Tensor

__all__ = ["ContextGradient", "ContextLoss", "PiecewiseLinear", "autograd_gradient", "evaluate"]

# Named with its overload, which torch would take twice the call's time to find.
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


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


class PiecewiseLinear(NamedTuple):
    """A :class:`ContextModel` behind the product of its first layer and the inputs."""

    slope: float
    """Of the activations below zero: 0 for ReLU."""
    loss_weight: Float[Tensor, " Y"]
    """Of each dimension of each row, in the loss; a constant."""
    min_log_var: Float[Tensor, " Y"]
    """Soft lower limits of the log-variances."""
    max_log_var: Float[Tensor, " Y"]
    """Soft upper limits of the log-variances."""
    context_weight: Float[Tensor, "H C"]
    """Of the first layer."""
    weights: list[Tensor]
    """Of the layers that follow, ``(out, in)``."""
    biases: list[Tensor]
    """Of the layers that follow."""


def evaluate(
    function: type["ContextLoss"] | type["ContextGradient"],
    context: Float[Tensor, "G C"],
    product: Float[Tensor, "N H"],
    target: Float[Tensor, "N Y"],
    model: PiecewiseLinear,
) -> Float[Tensor, "G ..."]:
    """Loss or gradient of G contexts, of N / G transitions each.

    Args:
        function: Which.
        context: One for each group of N / G successive rows.
        product: What the inputs contribute to the first layer, $x$.
        target: Z-scored targets.
        model: The rest.

    Returns:
        What the function gives; it can be differentiated once, by every tensor but the loss's
        weights.
    """
    *constants, min_log_var, max_log_var, context_weight, weights, biases = model
    return function.apply(  # type: ignore[no-any-return, no-untyped-call]
        *constants, context, product, target,
        min_log_var, max_log_var, context_weight, *weights, *biases,
    )  # fmt: skip


class ContextLoss(torch.autograd.Function):
    r"""Weighted sum of $(\mu - y)^2 e^{-\ell} + \ell$ over the transitions of each context."""

    @staticmethod
    def forward(ctx: Any, slope: float, loss_weight: Tensor, *tensors: Tensor) -> Tensor:
        context, context_weight, weights, activations, head = _forward(slope, loss_weight, *tensors)
        ctx.slope, ctx.count = slope, len(weights)
        ctx.save_for_backward(context, context_weight, *head, *weights, *activations)
        loss = head.squared_error + loss_weight * head.log_var
        return loss.view(len(context), -1).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        context, context_weight, head, weights, activations = _saved(ctx)
        by_loss = _per_row(by_loss.unsqueeze(-1), head.by_mean)
        by_mean, by_log_var = by_loss * head.by_mean, by_loss * head.by_log_var
        by_upper = by_log_var * head.above
        by_output = by_upper * head.below
        gradient = torch.cat((by_mean, by_output), -1)
        weight_grads, bias_grads = [], []
        for weight, activation in zip(reversed(weights), reversed(activations), strict=True):
            weight_grads.append(gradient.t() @ activation)
            bias_grads.append(gradient.sum(0))
            gradient = _through_activation(gradient @ weight, activation, ctx.slope)
        group_gradient = _group_sum(gradient, context)
        return (
            None, None, group_gradient @ context_weight, gradient, -by_mean,
            (by_log_var - by_upper).sum(0), (by_upper - by_output).sum(0),
            group_gradient.t() @ context, *reversed(weight_grads), *reversed(bias_grads),
        )  # fmt: skip


class ContextGradient(torch.autograd.Function):
    r"""Gradient of :class:`ContextLoss` by each context.

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

    Source:
        Pearlmutter (1994), Fast exact multiplication by the Hessian, Neural Computation 6(1).
    """

    @staticmethod
    def forward(ctx: Any, slope: float, loss_weight: Tensor, *tensors: Tensor) -> Tensor:
        context, context_weight, weights, activations, head = _forward(slope, loss_weight, *tensors)
        gradient = torch.cat((head.by_mean, head.by_log_var * head.limits), -1)
        gradients = []
        for weight, activation in zip(reversed(weights), reversed(activations), strict=True):
            gradients.append(gradient)
            gradient = _through_activation(gradient @ weight, activation, slope)
        group_gradient = _group_sum(gradient, context)
        ctx.slope, ctx.count = slope, len(weights)
        ctx.save_for_backward(
            context, context_weight, *head, *weights, *activations, *reversed(gradients),
            group_gradient,
        )  # fmt: skip
        return group_gradient @ context_weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        context, context_weight, head, weights, activations, *gradients, group_gradient = _saved(
            ctx
        )
        hidden_dot = _per_row(direction @ context_weight.t(), head.by_mean)
        weight_grads = []
        for weight, activation, gradient in zip(weights, activations, gradients, strict=True):
            activation_dot = _through_activation(hidden_dot, activation, ctx.slope)
            weight_grads.append(gradient.t() @ activation_dot)
            hidden_dot = activation_dot @ weight.t()

        mean_dot, log_var_dot = hidden_dot.chunk(2, dim=-1)
        log_var_dot = head.limits * log_var_dot
        by_mean_dot = head.twice_precision * mean_dot - head.by_mean * log_var_dot
        by_log_var_dot = head.squared_error * log_var_dot - head.by_mean * mean_dot
        # The product rule, where a limit's slope s itself changes by s (1 - s), is an
        # interpolation: lerp(x, y, s) = (1 - s) x + s y.
        bend = head.by_log_var * log_var_dot
        by_upper_dot = torch.lerp(bend, by_log_var_dot, head.above)
        by_output_dot = torch.lerp(-bend, by_upper_dot, head.below)

        gradient_dot = torch.cat((by_mean_dot, by_output_dot), -1)
        bias_grads = []
        for weight, activation, weight_grad in zip(
            *map(reversed, (weights, activations, weight_grads)), strict=True
        ):
            torch.addmm(weight_grad, gradient_dot.t(), activation, out=weight_grad)
            bias_grads.append(gradient_dot.sum(0))
            gradient_dot = _through_activation(gradient_dot @ weight, activation, ctx.slope)
        group_dot = _group_sum(gradient_dot, context)
        return (
            None, None, group_dot @ context_weight, gradient_dot, -by_mean_dot,
            (by_log_var_dot - by_upper_dot).sum(0), (by_upper_dot - by_output_dot).sum(0),
            group_dot.t() @ context + group_gradient.t() @ direction,
            *weight_grads, *reversed(bias_grads),
        )  # fmt: skip


class _Head(NamedTuple):
    """The loss of each row and dimension, and its derivatives by the last layer's output."""

    log_var: Tensor
    above: Tensor
    """Derivative of the log-variance's lower limit."""
    below: Tensor
    """Derivative of its upper limit."""
    limits: Tensor
    """Their product."""
    twice_precision: Tensor
    """Weighted, as all that follow."""
    squared_error: Tensor
    """Times precision."""
    by_mean: Tensor
    by_log_var: Tensor
    """By the limited log-variance."""


def _forward(
    slope: float, loss_weight: Tensor, *tensors: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], list[Tensor], _Head]:
    """Context, its weight, the other weights, what each of those acts on, and the loss."""
    context, product, target, min_log_var, max_log_var, context_weight, *layers = tensors
    weights, biases = layers[: len(layers) // 2], layers[len(layers) // 2 :]
    hidden = product.view(len(context), -1, product.shape[-1])
    hidden = (hidden + (context @ context_weight.t()).unsqueeze(1)).view(product.shape)
    activations = []
    for weight, bias in zip(weights, biases, strict=True):
        activations.append(F.leaky_relu(hidden, slope, inplace=True))
        hidden = torch.addmm(bias, hidden, weight.t())

    mean, log_var = hidden.chunk(2, dim=-1)
    room = max_log_var - log_var
    below = torch.sigmoid(room)
    room = max_log_var - F.softplus(room) - min_log_var
    above = torch.sigmoid(room)
    log_var = min_log_var + F.softplus(room)
    error = mean - target
    twice_precision = 2 * loss_weight * torch.exp(-log_var)
    by_mean = twice_precision * error
    squared_error = 0.5 * by_mean * error
    head = _Head(
        log_var, above, below, above * below, twice_precision, squared_error, by_mean,
        loss_weight - squared_error,
    )  # fmt: skip
    return context, context_weight, tuple(weights), activations, head


def _saved(ctx: Any) -> Any:
    """Context, its weight, head, weights, activations, and what else was saved, one by one."""
    context, context_weight, *saved = ctx.saved_tensors
    head, saved = _Head(*saved[: len(_Head._fields)]), saved[len(_Head._fields) :]
    weights, activations = saved[: ctx.count], saved[ctx.count : 2 * ctx.count]
    return context, context_weight, head, weights, activations, *saved[2 * ctx.count :]


def _through_activation(gradient: Tensor, activation: Tensor, slope: float) -> Tensor:
    """A leaky ReLU's derivative times a gradient, in place; the sign of its result tells it."""
    _leaky_relu_backward(gradient, activation, slope, True, grad_input=gradient)
    return gradient


def _group_sum(rows: Tensor, groups: Tensor) -> Tensor:
    return rows.view(len(groups), -1, rows.shape[-1]).sum(1)


def _per_row(groups: Tensor, rows: Tensor) -> Tensor:
    return groups.unsqueeze(1).expand(-1, len(rows) // len(groups), -1).flatten(0, 1).contiguous()
