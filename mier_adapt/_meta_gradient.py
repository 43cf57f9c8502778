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
    num_tasks, blocks = len(evaluation), _num_blocks(evaluation)
    differentiated = torch.is_grad_enabled()
    with torch.no_grad():
        layers = _Layers.of([each.expand(blocks, *each.shape) for each in parameters])
        rows = _Rows.of(model, adaptation, blocks, weight=1 / adaptation.obs.shape[1])
        contexts = layers.initial_context.unsqueeze(1).expand(-1, num_tasks // blocks, -1)
        steps = []
        for lr in lrs:
            visit = _Visit(layers, slope, rows, contexts)
            gradient, through_limit = _limit(visit.context_gradient(), max_grad_norm)
            contexts = contexts - lr * gradient
            steps.append((visit, through_limit, lr))
        rows = _Rows.of(model, evaluation, blocks, weight=1 / evaluation.rew.numel())
        visit = _Visit(layers, slope, rows, contexts)
        adapted = contexts.flatten(0, 1)
        losses = num_tasks * visit.losses().flatten()
        losses += (2 * model.target_std.log()) @ model.loss_weight()  # z-scoring's
        loss = losses.mean()
        if not differentiated:
            return loss, losses, adapted

        gradients = [each.new_zeros(blocks, *each.shape) for each in parameters]
        into = _Layers.of(gradients)
        by_contexts = visit.loss_backward(into)
        while steps and not first_order:  # frees what one has kept for those before it
            visit, through_limit, lr = steps.pop()
            direction = through_limit(-lr * by_contexts)
            by_contexts = by_contexts + visit.gradient_backward(direction, into)
        into.initial_context.copy_(by_contexts.sum(1))
        gradients = [each.sum(0) for each in gradients]
    loss = _Differentiated.apply(loss, gradients, *parameters)  # type: ignore[no-untyped-call]
    return loss, losses, adapted


def _num_blocks(transitions: Transitions) -> int:
    """One for each core, or one in all where its tasks cannot be dealt out evenly.

    A product by several cores at once leaves each with parts of what the others need next, and
    where they share no cache, fetching those takes longer than the products.
    """
    threads = torch.get_num_threads() if transitions.obs.device.type == "cpu" else 1
    return threads if len(transitions) % threads == 0 else 1


class _Differentiated(torch.autograd.Function):
    """A value whose gradients by the parameters are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *_: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_value: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(by_value * gradient for gradient in ctx.saved_tensors)


class _Layers(NamedTuple):
    """A model's parameters, or gradients by them, once for each of P blocks."""

    weights: Sequence[Tensor]
    """Of the layers between first and last, each ``(P, out, in)``."""
    first_weight: Float[Tensor, "P H X"]
    """Of the inputs and the context."""
    last_weight: Float[Tensor, "P D K"]
    """Of the means, then of the log-variances."""
    biases: Sequence[Tensor]
    first_bias: Float[Tensor, "P H"]
    last_bias: Float[Tensor, "P D"]
    min_log_var: Float[Tensor, "P Y"]
    max_log_var: Float[Tensor, "P Y"]
    initial_context: Float[Tensor, "P C"]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Self:
        """From the fields, the sequences' members one by one."""
        between = (len(tensors) - (len(cls._fields) - 2)) // 2
        first_weight, last_weight, *others = tensors[between:]
        return cls(
            tensors[:between], first_weight, last_weight, others[:between], *others[between:]
        )

    @property
    def context_weight(self) -> Float[Tensor, "P H C"]:
        """The context's part of the first."""
        return self.first_weight[..., self.first_weight.shape[2] - self.initial_context.shape[1] :]


class _Rows(NamedTuple):
    """What the layers see and should give: in each of P blocks, N transitions of all its tasks."""

    inputs: Float[Tensor, "P N X"]
    """With room for the context."""
    targets: Float[Tensor, "P N Y"]
    loss_weight: Float[Tensor, " Y"]

    @classmethod
    def of(
        cls, model: ContextModel, transitions: Transitions, blocks: int, *, weight: float
    ) -> Self:
        inputs, targets = model.z_scored(transitions)
        return cls(
            F.pad(inputs.reshape(blocks, -1, inputs.shape[2]), (0, model.context_dim)),
            targets.reshape(blocks, -1, targets.shape[2]),
            weight * model.loss_weight(),
        )


class _Visit:
    """The loss of rows under their tasks' contexts, forward and back; each block has T tasks."""

    def __init__(
        self, layers: _Layers, slope: float, rows: _Rows, contexts: Float[Tensor, "P T C"]
    ) -> None:
        self.layers, self.slope, self.rows, self.contexts = layers, slope, rows, contexts
        self.inputs = rows.inputs.clone()
        by_task = self._by_task(self.inputs)
        by_task[..., by_task.shape[3] - contexts.shape[2] :] = contexts.unsqueeze(2)
        hidden = _linear(self.inputs, layers.first_weight, layers.first_bias)
        hidden = F.leaky_relu(hidden, slope, inplace=True)
        self.activations = [hidden]
        for weight, bias in zip(layers.weights, layers.biases, strict=True):
            hidden = F.leaky_relu(_linear(hidden, weight, bias), slope, inplace=True)
            self.activations.append(hidden)
        output = _linear(hidden, layers.last_weight, layers.last_bias)

        mean, log_var = output.chunk(2, dim=-1)
        lowest, highest = layers.min_log_var.unsqueeze(1), layers.max_log_var.unsqueeze(1)
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

    def losses(self) -> Float[Tensor, "P T"]:
        """Weighted sums of squared error times precision, and log-variance."""
        loss = torch.addcmul(self.squared_error, self.rows.loss_weight, self.log_var)
        return self._by_task(loss).sum((2, 3))

    def context_gradient(self) -> Float[Tensor, "P T C"]:
        """Of the losses; keeps what :meth:`gradient_backward` needs."""
        *self.deltas, first = self._deltas(self.by_output)
        self.task_delta = self._by_task(first).sum(2)
        return torch.bmm(self.task_delta, self.layers.context_weight)

    def loss_backward(self, into: _Layers) -> Float[Tensor, "P T C"]:
        """Gradient of the losses' sum by the contexts; adds those by the layers to ``into``."""
        return self._backward(self.by_log_var, self.by_upper, self.by_output, into)

    def gradient_backward(
        self, direction: Float[Tensor, "P T C"], into: _Layers
    ) -> Float[Tensor, "P T C"]:
        """As :meth:`loss_backward`, of direction times :meth:`context_gradient`."""
        hidden_dot = torch.bmm(direction, self.layers.context_weight.mT)
        hidden_dot = hidden_dot.repeat_interleave(self.inputs.shape[1] // direction.shape[1], dim=1)
        activation_dot = self._through(self.activations[0], hidden_dot)
        for weight, by_weight, delta, activation in zip(
            self.layers.weights, into.weights, reversed(self.deltas), self.activations[1:],
            strict=True,
        ):  # fmt: skip
            by_weight.baddbmm_(delta.mT, activation_dot)
            activation_dot = self._through(activation, torch.bmm(activation_dot, weight.mT))
        into.last_weight.baddbmm_(self.by_output.mT, activation_dot)
        output_dot = torch.bmm(activation_dot, self.layers.last_weight.mT)

        mean_dot, log_var_dot = output_dot.chunk(2, dim=-1)
        log_var_dot = self.above * self.below * log_var_dot
        by_mean_dot = self.twice_precision * mean_dot - self.by_mean * log_var_dot
        by_log_var_dot = self.squared_error * log_var_dot - self.by_mean * mean_dot
        # The product rule, where a limit's slope s itself changes by s (1 - s), is an
        # interpolation: lerp(x, y, s) = (1 - s) x + s y.
        bend = self.by_log_var * log_var_dot
        by_upper_dot = torch.lerp(bend, by_log_var_dot, self.above)
        by_output_dot = torch.cat((by_mean_dot, torch.lerp(-bend, by_upper_dot, self.below)), -1)
        into.context_weight.baddbmm_(self.task_delta.mT, direction)
        return self._backward(by_log_var_dot, by_upper_dot, by_output_dot, into)

    def _backward(
        self,
        by_log_var: Float[Tensor, "P N Y"],
        by_upper: Float[Tensor, "P N Y"],
        by_output: Float[Tensor, "P N D"],
        into: _Layers,
    ) -> Float[Tensor, "P T C"]:
        """From gradients by the limited log-variance, that without lower limit, and the output."""
        by_bias, by_upper_sum = by_output.sum(1), by_upper.sum(1)
        into.min_log_var.add_(by_log_var.sum(1) - by_upper_sum)
        into.max_log_var.add_(by_upper_sum - by_bias.chunk(2, dim=1)[1])
        into.last_bias.add_(by_bias)
        into.last_weight.baddbmm_(by_output.mT, self.activations[-1])
        deltas = self._deltas(by_output)
        delta = next(deltas)
        for by_weight, into_bias, activation in zip(
            *map(reversed, (into.weights, into.biases, self.activations[:-1])), strict=True
        ):
            by_weight.baddbmm_(delta.mT, activation)
            into_bias.add_(delta.sum(1))
            delta = next(deltas)
        task_delta = self._by_task(delta).sum(2)
        into.first_bias.add_(task_delta.sum(1))
        into.first_weight.baddbmm_(delta.mT, self.inputs)
        return torch.bmm(task_delta, self.layers.context_weight)

    def _deltas(self, by_output: Float[Tensor, "P N D"]) -> Iterator[Float[Tensor, "P N H"]]:
        """Gradients by what the activations act on, the last layer's first."""
        delta = torch.bmm(by_output, self.layers.last_weight)
        yield self._through(self.activations[-1], delta)
        for weight, activation in zip(
            reversed(self.layers.weights), reversed(self.activations[:-1]), strict=True
        ):
            delta = self._through(activation, torch.bmm(delta, weight))
            yield delta

    def _through(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Multiply a gradient by the activation's derivative, told by its result's sign."""
        _leaky_relu_backward(gradient, activation, self.slope, True, grad_input=gradient)
        return gradient

    def _by_task(self, rows: Float[Tensor, "P N K"]) -> Float[Tensor, "P T B K"]:
        return rows.view(*self.contexts.shape[:2], -1, rows.shape[2])


def _linear(
    rows: Float[Tensor, "P N K"], weight: Float[Tensor, "P H K"], bias: Float[Tensor, "P H"]
) -> Float[Tensor, "P N H"]:
    return torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)


def _limit(
    gradient: Float[Tensor, "P T C"], max_norm: float | None
) -> tuple[Float[Tensor, "P T C"], Callable[[Tensor], Tensor]]:
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
