"""The meta-loss of a piecewise linear model, differentiated by hand."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from mier_adapt._typing import Float, Tensor
from mier_adapt.context_model import ContextModel
from mier_adapt.transitions import Transitions

__all__ = ["meta_loss"]

# Named with its overload, which torch would take twice the call's time to find.
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.grad_input


def meta_loss(
    model: ContextModel,
    adaptation: Transitions,
    evaluation: Transitions,
    *,
    slope: float,
    lrs: Sequence[float],
    max_grad_norm: float | None,
    first_order: bool,
) -> tuple[Float[Tensor, ""], Float[Tensor, " T"], Float[Tensor, "T C"]]:
    r"""Loss of the tasks' evaluation sets under adapted contexts, with its gradients.

    With $\sigma$ a leaky ReLU, $a_0 = \sigma(W_x x + W_\phi \phi + b_0)$,
    $a_i = \sigma(W_i a_{i-1} + b_i)$, and $\delta_i$ the gradient by what the $\sigma$ of layer
    $i$ acts on, a step of the inner loop descends

    $$\delta_{i-1} = \sigma' \odot W_i^\top \delta_i, \qquad
      \nabla_\phi L = W_\phi^\top \textstyle\sum \delta_0.$$

    The derivative of $v^\top \nabla_\phi L$ by any parameter is the derivative, along $v$, of
    the gradient by that parameter. So the way back through a step carries derivatives along $v$,
    marked by dots, through its forward and its backward pass; $\sigma'' = 0$:

    $$\dot a_i = \sigma' \odot W_i \dot a_{i-1}, \qquad
      \dot\delta_{i-1} = \sigma' \odot W_i^\top \dot\delta_i, \qquad
      \nabla_{W_i} = \dot\delta_i a_{i-1}^\top + \delta_i \dot a_{i-1}^\top.$$

    The products are those of automatic differentiation, without its graph and copies.

    Args:
        model: With a hidden layer at least.
        adaptation: Transitions ``(T, B, ...)``.
        evaluation: Transitions ``(T, B', ...)`` of the same tasks.
        slope: Of the model's activations below zero.
        lrs: As in :func:`adapt_context`.
        max_grad_norm: As in :func:`adapt_context`.
        first_order: Treat the steps as constants.

    Returns:
        Mean of the tasks' losses, which can be differentiated once, by the model's parameters
        (the work of that is done here, unless gradients are disabled); those losses; and the
        adapted contexts.

    Source:
        Pearlmutter (1994), Fast exact multiplication by the Hessian, Neural Computation 6(1).
    """
    first, *hidden, last = (cast(nn.Linear, layer) for layer in model.layers)
    parameters = [
        *(layer.weight for layer in (*hidden, first, last)),
        *(layer.bias for layer in (*hidden, first, last)),
        model.min_log_var, model.max_log_var, model.initial_context,
    ]  # fmt: skip
    differentiated = torch.is_grad_enabled()
    with torch.no_grad():
        layers = _Layers.of(parameters)
        rows = _Rows.of(model, adaptation, weight=1 / adaptation.obs.shape[1])
        contexts = layers.initial_context.expand(len(adaptation), -1)
        steps = []
        for lr in lrs:
            visit = _Visit(layers, slope, rows, contexts)
            gradient, through_limit = _limit(visit.context_gradient(), max_grad_norm)
            contexts = contexts - lr * gradient
            steps.append((visit, through_limit, lr))
        rows = _Rows.of(model, evaluation, weight=1 / evaluation.rew.numel())
        visit = _Visit(layers, slope, rows, contexts)
        losses = len(evaluation) * visit.losses()
        losses += (2 * model.target_std.log()) @ model.loss_weight()  # z-scoring's
        loss = losses.mean()
        if not differentiated:
            return loss, losses, contexts

        shapes = [each.shape for each in parameters]
        gradient = contexts.new_zeros(sum(each.numel() for each in parameters))
        into = _Layers.of(_views(gradient, shapes))
        by_contexts = visit.loss_backward(into)
        while steps and not first_order:  # frees what one has kept for those before it
            visit, through_limit, lr = steps.pop()
            by_contexts = by_contexts + visit.gradient_backward(
                through_limit(-lr * by_contexts), into
            )
        into.initial_context.copy_(by_contexts.sum(0))
    loss = _Differentiated.apply(loss, gradient, *parameters)  # type: ignore[no-untyped-call]
    return loss, losses, contexts


class _Differentiated(torch.autograd.Function):
    """A value whose gradient by the parameters, as one vector, is known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.shapes = [each.shape for each in parameters]
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_value: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return None, None, *_views(by_value * gradient, ctx.shapes)


def _views(vector: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Successive parts of a vector, in these shapes."""
    parts = torch.split(vector, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class _Layers(NamedTuple):
    """A model's parameters, or gradients by them."""

    weights: Sequence[Tensor]
    """Of the layers between first and last, each ``(out, in)``."""
    first_weight: Float[Tensor, "H X"]
    """Of the inputs and the context."""
    last_weight: Float[Tensor, "D K"]
    """Of the means, then of the log-variances."""
    biases: Sequence[Tensor]
    first_bias: Float[Tensor, " H"]
    last_bias: Float[Tensor, " D"]
    min_log_var: Float[Tensor, " Y"]
    max_log_var: Float[Tensor, " Y"]
    initial_context: Float[Tensor, " C"]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Self:
        """From the fields, the sequences' members one by one."""
        between = (len(tensors) - (len(cls._fields) - 2)) // 2
        first_weight, last_weight, *others = tensors[between:]
        return cls(
            tensors[:between], first_weight, last_weight, others[:between], *others[between:]
        )

    @property
    def context_weight(self) -> Float[Tensor, "H C"]:
        """The context's part of the first."""
        return self.first_weight[:, self.first_weight.shape[1] - len(self.initial_context) :]


class _Rows(NamedTuple):
    """What the layers see and should give, all tasks' transitions in one axis."""

    inputs: Float[Tensor, "N X"]
    """With room for the context."""
    targets: Float[Tensor, "N Y"]
    loss_weight: Float[Tensor, " Y"]

    @classmethod
    def of(cls, model: ContextModel, transitions: Transitions, *, weight: float) -> Self:
        inputs, targets = model.z_scored(transitions)
        return cls(
            F.pad(inputs.flatten(0, 1), (0, model.context_dim)),
            targets.flatten(0, 1),
            weight * model.loss_weight(),
        )


class _Visit:
    """The loss of rows under their tasks' contexts, forward and back."""

    def __init__(
        self, layers: _Layers, slope: float, rows: _Rows, contexts: Float[Tensor, "T C"]
    ) -> None:
        self.layers, self.slope, self.rows, self.contexts = layers, slope, rows, contexts
        self.inputs = rows.inputs.clone()
        by_task = self.inputs.view(len(contexts), -1, self.inputs.shape[1])
        by_task[..., by_task.shape[2] - contexts.shape[1] :] = contexts.unsqueeze(1)
        hidden = torch.addmm(layers.first_bias, self.inputs, layers.first_weight.t())
        hidden = F.leaky_relu(hidden, slope, inplace=True)
        self.activations = [hidden]
        for weight, bias in zip(layers.weights, layers.biases, strict=True):
            hidden = F.leaky_relu(torch.addmm(bias, hidden, weight.t()), slope, inplace=True)
            self.activations.append(hidden)
        output = torch.addmm(layers.last_bias, hidden, layers.last_weight.t())

        mean, log_var = output.chunk(2, dim=-1)
        lowest, highest = layers.min_log_var, layers.max_log_var
        room = highest - log_var
        self.below = torch.sigmoid(room)  # derivative of the upper limit
        room = (highest - lowest) - F.softplus(room)
        self.above = torch.sigmoid(room)  # derivative of the lower limit
        self.log_var = lowest + F.softplus(room)
        error = mean - rows.targets
        self.twice_precision = 2 * rows.loss_weight * torch.exp(-self.log_var)
        self.by_mean = self.twice_precision * error
        self.squared_error = 0.5 * self.by_mean * error
        self.by_log_var = rows.loss_weight - self.squared_error
        self.by_upper = self.by_log_var * self.above
        self.by_output = torch.cat((self.by_mean, self.by_upper * self.below), -1)

    def losses(self) -> Float[Tensor, " T"]:
        """Weighted sums of squared error times precision, and log-variance."""
        loss = torch.addcmul(self.squared_error, self.rows.loss_weight, self.log_var)
        return loss.view(len(self.contexts), -1).sum(1)

    def context_gradient(self) -> Float[Tensor, "T C"]:
        """Of the losses; keeps what :meth:`gradient_backward` needs."""
        *self.deltas, first = self._deltas(self.by_output)
        self.group_delta = self._group_sum(first)
        return self.group_delta @ self.layers.context_weight

    def loss_backward(self, into: _Layers) -> Float[Tensor, "T C"]:
        """Gradient of the losses' sum by the contexts; adds those by the layers to ``into``."""
        return self._backward(self.by_log_var, self.by_upper, self.by_output, into)

    def gradient_backward(
        self, direction: Float[Tensor, "T C"], into: _Layers
    ) -> Float[Tensor, "T C"]:
        """As :meth:`loss_backward`, of direction times :meth:`context_gradient`."""
        hidden_dot = direction @ self.layers.context_weight.t()
        hidden_dot = hidden_dot.repeat_interleave(len(self.inputs) // len(direction), dim=0)
        activation_dot = self._through(self.activations[0], hidden_dot)
        for weight, by_weight, delta, activation in zip(
            self.layers.weights, into.weights, reversed(self.deltas), self.activations[1:],
            strict=True,
        ):  # fmt: skip
            by_weight.addmm_(delta.t(), activation_dot)
            activation_dot = self._through(activation, activation_dot @ weight.t())
        into.last_weight.addmm_(self.by_output.t(), activation_dot)
        mean_dot, log_var_dot = (activation_dot @ self.layers.last_weight.t()).chunk(2, dim=-1)

        log_var_dot = self.above * self.below * log_var_dot
        by_mean_dot = self.twice_precision * mean_dot - self.by_mean * log_var_dot
        by_log_var_dot = self.squared_error * log_var_dot - self.by_mean * mean_dot
        # The product rule, where a limit's slope s itself changes by s (1 - s), is an
        # interpolation: lerp(x, y, s) = (1 - s) x + s y.
        bend = self.by_log_var * log_var_dot
        by_upper_dot = torch.lerp(bend, by_log_var_dot, self.above)
        by_output_dot = torch.cat((by_mean_dot, torch.lerp(-bend, by_upper_dot, self.below)), -1)
        into.context_weight.addmm_(self.group_delta.t(), direction)
        return self._backward(by_log_var_dot, by_upper_dot, by_output_dot, into)

    def _backward(
        self,
        by_log_var: Float[Tensor, "N Y"],
        by_upper: Float[Tensor, "N Y"],
        by_output: Float[Tensor, "N D"],
        into: _Layers,
    ) -> Float[Tensor, "T C"]:
        """From gradients by the limited log-variance, that without lower limit, and the output."""
        by_bias, by_upper_sum = by_output.sum(0), by_upper.sum(0)
        into.min_log_var.add_(by_log_var.sum(0) - by_upper_sum)
        into.max_log_var.add_(by_upper_sum - by_bias[len(by_upper_sum) :])
        into.last_bias.add_(by_bias)
        into.last_weight.addmm_(by_output.t(), self.activations[-1])
        deltas = self._deltas(by_output)
        delta = next(deltas)
        for by_weight, into_bias, activation in zip(
            *map(reversed, (into.weights, into.biases, self.activations[:-1])), strict=True
        ):
            by_weight.addmm_(delta.t(), activation)
            into_bias.add_(delta.sum(0))
            delta = next(deltas)
        group_delta = self._group_sum(delta)
        into.first_bias.add_(group_delta.sum(0))
        into.first_weight.addmm_(delta.t(), self.inputs)
        return group_delta @ self.layers.context_weight

    def _deltas(self, by_output: Float[Tensor, "N D"]) -> Iterator[Float[Tensor, "N H"]]:
        """Gradients by what the activations act on, the last layer's first."""
        delta = self._through(self.activations[-1], by_output @ self.layers.last_weight)
        yield delta
        for weight, activation in zip(
            reversed(self.layers.weights), reversed(self.activations[:-1]), strict=True
        ):
            delta = self._through(activation, delta @ weight)
            yield delta

    def _through(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Multiply a gradient by the activation's derivative, told by its result's sign."""
        _leaky_relu_backward(gradient, activation, self.slope, True, grad_input=gradient)
        return gradient

    def _group_sum(self, rows: Float[Tensor, "N H"]) -> Float[Tensor, "T H"]:
        return rows.view(len(self.contexts), -1, rows.shape[1]).sum(1)


def _limit(
    gradient: Float[Tensor, "T C"], max_norm: float | None
) -> tuple[Float[Tensor, "T C"], Callable[[Tensor], Tensor]]:
    """Gradients rescaled to a norm at most, and the way back through that."""
    if max_norm is None:
        return gradient, lambda by_limited: by_limited
    norm: Tensor = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    scale = (max_norm / norm).clamp(max=1)

    def backward(by_limited: Tensor) -> Tensor:
        unit = gradient / norm
        along = unit * (unit * by_limited).sum(-1, keepdim=True)
        return scale * torch.where(scale < 1, by_limited - along, by_limited)

    return scale * gradient, backward
