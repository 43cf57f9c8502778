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
        first.weight, last.weight, first.bias, last.bias,
        model.min_log_var, model.max_log_var, model.initial_context,
        *(layer.weight for layer in hidden), *(layer.bias for layer in hidden),
    ]  # fmt: skip
    num_tasks, blocks = len(evaluation), _num_blocks(evaluation)
    differentiated = torch.is_grad_enabled()
    with torch.no_grad():
        num_inputs = model.obs_dim + model.act_dim
        split = first.weight[:, :num_inputs], first.weight[:, num_inputs:]
        tensors = [*split, *parameters[1:]]
        layers = _Layers.of([each.expand(blocks, *each.shape) for each in tensors])
        loss_weight = model.loss_weight()
        rows = _Rows.of(model, layers, adaptation, loss_weight / adaptation.obs.shape[1])
        contexts = layers.initial_context.unsqueeze(1).expand(-1, num_tasks // blocks, -1)
        steps = []
        for lr in lrs:
            visit = _Visit(layers, slope, rows, contexts)
            gradient, through_limit = _limit(visit.context_gradient(), max_grad_norm)
            contexts = contexts - lr * gradient
            steps.append((visit, through_limit, lr))
        rows = _Rows.of(model, layers, evaluation, loss_weight / evaluation.rew.numel())
        visit = _Visit(layers, slope, rows, contexts)
        adapted = contexts.flatten(0, 1)
        losses = num_tasks * visit.losses().flatten()
        losses += (2 * model.target_std.log()) @ loss_weight  # z-scoring's
        loss = losses.mean()
        if not differentiated:
            return loss, losses, adapted

        gradients = [each.new_zeros(blocks, *each.shape) for each in tensors]
        into = _Layers.of(gradients)
        by_contexts = visit.loss_backward(into)
        while steps and not first_order:  # frees what one has kept for those before it
            visit, through_limit, lr = steps.pop()
            direction = through_limit(-lr * by_contexts)
            by_contexts = by_contexts + visit.gradient_backward(direction, into)
        into.initial_context.copy_(by_contexts.sum(1))
        by_input, by_context, *gradients = (each.sum(0) for each in gradients)
        gradients.insert(0, torch.cat((by_input, by_context), dim=1))
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

    input_weight: Float[Tensor, "P H I"]
    context_weight: Float[Tensor, "P H C"]
    last_weight: Float[Tensor, "P D K"]
    """Of the means, then of the log-variances."""
    first_bias: Float[Tensor, "P H"]
    last_bias: Float[Tensor, "P D"]
    min_log_var: Float[Tensor, "P Y"]
    max_log_var: Float[Tensor, "P Y"]
    initial_context: Float[Tensor, "P C"]
    weights: Sequence[Tensor]
    """Of the layers between first and last, each ``(P, out, in)``."""
    biases: Sequence[Tensor]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Self:
        """From the fields, the sequences' members one by one."""
        single = len(cls._fields) - 2
        middle = (single + len(tensors)) // 2
        return cls._make([*tensors[:single], tensors[single:middle], tensors[middle:]])


class _Rows(NamedTuple):
    """What the layers see and should give: in each of P blocks, N transitions of all its tasks."""

    inputs: Float[Tensor, "P N I"]
    product: Float[Tensor, "P N H"]
    """Of the inputs, in the first layer, with its bias."""
    targets: Float[Tensor, "P N Y"]
    loss_weight: Float[Tensor, " Y"]

    @classmethod
    def of(
        cls,
        model: ContextModel,
        layers: _Layers,
        transitions: Transitions,
        loss_weight: Float[Tensor, " Y"],
    ) -> Self:
        blocks = len(layers.input_weight)
        inputs, targets = (
            each.reshape(blocks, -1, each.shape[2]) for each in model.z_scored(transitions)
        )
        product = _linear(inputs, layers.input_weight, layers.first_bias)
        return cls(inputs, product, targets, loss_weight)


class _Visit:
    """The loss of rows under their tasks' contexts, forward and back; each block has T tasks."""

    def __init__(
        self, layers: _Layers, slope: float, rows: _Rows, contexts: Float[Tensor, "P T C"]
    ) -> None:
        self.layers, self.slope, self.rows, self.contexts = layers, slope, rows, contexts
        of_contexts = torch.bmm(contexts, layers.context_weight.mT)
        hidden = (self._by_task(rows.product) + of_contexts.unsqueeze(2)).flatten(1, 2)
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
        self.room = (highest - lowest) - F.softplus(room)
        self.at_lowest = torch.sigmoid(-self.room)  # 1 less the derivative of the lower limit
        self.through_limits = torch.addcmul(self.below, self.below, self.at_lowest, value=-1)
        # As the log-variance is lowest + softplus(room), and exp(-softplus(x)) = sigmoid(-x):
        self.twice_precision = 2 * rows.loss_weight * torch.exp(-lowest) * self.at_lowest
        error = mean - rows.targets
        self.by_mean = self.twice_precision * error
        self.by_log_var = torch.addcmul(rows.loss_weight, self.by_mean, error, value=-0.5)
        self.by_output = torch.cat((self.by_mean, self.by_log_var * self.through_limits), -1)

    def losses(self) -> Float[Tensor, "P T"]:
        """Weighted sums of squared error times precision, and log-variance."""
        log_var = self.layers.min_log_var.unsqueeze(1) + F.softplus(self.room)
        loss = self.rows.loss_weight * (1 + log_var) - self.by_log_var
        return self._by_task(loss).sum((2, 3))

    def context_gradient(self) -> Float[Tensor, "P T C"]:
        """Of the losses; keeps what :meth:`gradient_backward` needs."""
        *self.deltas, first = self._deltas(self.by_output)
        self.task_delta = self._by_task(first).sum(2)
        return torch.bmm(self.task_delta, self.layers.context_weight)

    def loss_backward(self, into: _Layers) -> Float[Tensor, "P T C"]:
        """Gradient of the losses' sum by the contexts; adds those by the layers to ``into``."""
        by_lowest = self.by_log_var * self.at_lowest
        return self._backward(self.by_log_var, by_lowest, self.by_output, into)

    def gradient_backward(
        self, direction: Float[Tensor, "P T C"], into: _Layers
    ) -> Float[Tensor, "P T C"]:
        """As :meth:`loss_backward`, of direction times :meth:`context_gradient`."""
        hidden_dot = torch.bmm(direction, self.layers.context_weight.mT)
        hidden_dot = hidden_dot.repeat_interleave(
            self.rows.inputs.shape[1] // direction.shape[1], dim=1
        )
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
        log_var_dot = self.through_limits * log_var_dot
        by_mean_dot = torch.addcmul(
            self.twice_precision * mean_dot, self.by_mean, log_var_dot, value=-1
        )
        squared_error = self.rows.loss_weight - self.by_log_var
        by_log_var_dot = torch.addcmul(
            squared_error * log_var_dot, self.by_mean, mean_dot, value=-1
        )
        # The product rule, where a limit's slope s itself changes by s (1 - s), is an
        # interpolation: lerp(x, y, s) = (1 - s) x + s y.
        bend = self.by_log_var * log_var_dot
        by_upper_dot = torch.lerp(by_log_var_dot, bend, self.at_lowest)
        by_output_dot = torch.cat((by_mean_dot, torch.lerp(-bend, by_upper_dot, self.below)), -1)
        into.context_weight.baddbmm_(self.task_delta.mT, direction)
        by_lowest_dot = by_log_var_dot - by_upper_dot
        return self._backward(by_log_var_dot, by_lowest_dot, by_output_dot, into)

    def _backward(
        self,
        by_log_var: Float[Tensor, "P N Y"],
        by_lowest: Float[Tensor, "P N Y"],
        by_output: Float[Tensor, "P N D"],
        into: _Layers,
    ) -> Float[Tensor, "P T C"]:
        """From gradients by the limited log-variance, its lower limit, and the output."""
        by_bias, by_lowest_sum = by_output.sum(1), by_lowest.sum(1)
        into.min_log_var.add_(by_lowest_sum)
        into.max_log_var.add_(by_log_var.sum(1) - by_lowest_sum - by_bias.chunk(2, dim=1)[1])
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
        into.input_weight.baddbmm_(delta.mT, self.rows.inputs)
        into.context_weight.baddbmm_(task_delta.mT, self.contexts)
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
