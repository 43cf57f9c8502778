"""FastSAC: Tianshou's SAC, with the same updates in less time."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from tianshou.algorithm.modelfree.sac import SAC, Alpha, SACPolicy, SACTrainingStats
from tianshou.algorithm.optim import OptimizerFactory
from tianshou.data import ReplayBuffer
from torch import nn

from mier_adapt._checks import require_type
from mier_adapt._typing import Float, Tensor

__all__ = ["FastSAC"]

_TANH_EPS = torch.finfo(torch.float32).eps
_LOG_SQRT_TWO_PI = 0.9189385332046727


class FastSAC(SAC[Any]):
    """A drop-in SAC: same constructor, state and losses; updates cost less.

    - The actor's step computes no gradients for the critics' weights, and sends each transition
      back through one critic only: the smaller one.
    - Critics run forward and backward by hand, in place where they can.
    - One-step targets come straight from the sampled batch, without copying the buffer's
      columns.

    Given the same batch and generator state, losses and gradients are those of Tianshou's SAC up
    to rounding (tested to 1e-5).

    Args:
        **kwargs: As for Tianshou's ``SAC``.

    Raises:
        ValueError: If a critic holds other layers than ``Linear``, ``LayerNorm`` and ``ReLU``, or
            returns are to span more than one step.
    """

    def __init__(self, **kwargs: Any) -> None:
        for name, kind in (
            ("policy", SACPolicy),
            ("policy_optim", OptimizerFactory),
            ("critic", nn.Module),
            ("critic_optim", OptimizerFactory),
        ):
            require_type("FastSAC", name, kwargs.get(name), kind)
        for name, kind in (("critic2", nn.Module), ("critic2_optim", OptimizerFactory)):
            require_type("FastSAC", name, kwargs.get(name), (kind, type(None)))
        require_type("FastSAC", "alpha", kwargs.get("alpha", 0.2), (Alpha, int, float))
        super().__init__(**kwargs)
        if self.n_step_return_horizon != 1:
            raise ValueError(
                "FastSAC expected n_step_return_horizon=1, got "
                f"{self.n_step_return_horizon}. Use Tianshou's SAC for longer returns."
            )
        self._critic_layers = [_layers(critic) for critic in (self.critic, self.critic2)]
        self._target_layers = [_layers(critic) for critic in (self.critic_old, self.critic2_old)]

    def train(self, mode: bool = True) -> Self:
        """As Tianshou's, which calls it twice an update; free where nothing would change."""
        if all(each.training == mode for each in (self, self.policy, self.policy.actor)):
            return self
        return super().train(mode)

    def _preprocess_batch(self, batch: Any, buffer: ReplayBuffer, indices: Any) -> Any:
        device = self._critic_layers[0][0].weight.device
        for name in ("obs", "act", "obs_next", "rew"):
            batch[name] = torch.as_tensor(batch[name], device=device, dtype=torch.float32)
        with torch.no_grad():
            act, log_prob = self._sample(batch.obs_next)
            inputs = torch.cat((batch.obs_next, act), -1)
            first, second = (_values(layers, inputs) for layers in self._target_layers)
            target = torch.min(first, second) - self.alpha.value * log_prob
            going_on = ~torch.as_tensor(batch.terminated, device=device)
            batch.returns = batch.rew + self.gamma * going_on * target
        return batch

    def _update_with_batch(self, batch: Any) -> Any:
        # critics
        inputs = torch.cat((batch.obs, batch.act), -1)
        weight = getattr(batch, "weight", 1.0)
        differences, losses = [], []
        for layers, optimizer in zip(
            self._critic_layers, (self.critic_optim, self.critic2_optim), strict=True
        ):
            difference = _values_of(layers, inputs, *_parameters(layers)) - batch.returns
            losses.append((difference.square() * weight).mean())
            optimizer.step(losses[-1])
            differences.append(difference.detach())
        batch.weight = (differences[0] + differences[1]) / 2  # for a prioritised buffer

        # actor
        act, log_prob = self._sample(batch.obs)
        inputs = torch.cat((batch.obs, act), -1)
        q = torch.min(*(_values_of(layers, inputs) for layers in self._critic_layers))
        actor_loss = (self.alpha.value * log_prob - q).mean()
        self.policy_optim.step(actor_loss)

        entropy = -log_prob.detach().unsqueeze(-1)
        alpha_loss = self.alpha.update(entropy)
        self._update_lagged_network_weights()
        return SACTrainingStats(
            actor_loss=float(actor_loss.detach()),
            critic1_loss=float(losses[0].detach()),
            critic2_loss=float(losses[1].detach()),
            alpha=self.alpha.value,
            alpha_loss=alpha_loss,
        )

    @torch.no_grad()
    def _update_lagged_network_weights(self) -> None:
        for targets, sources in zip(self._target_layers, self._critic_layers, strict=True):
            torch._foreach_lerp_(_parameters(targets), _parameters(sources), self.tau)

    def _sample(
        self, obs: Float[Tensor, "B O"]
    ) -> tuple[Float[Tensor, "B A"], Float[Tensor, " B"]]:
        """Squashed Gaussian actions and their log-probabilities, as SACPolicy's forward."""
        (loc, scale), _ = self.policy.actor(obs)
        noise = torch.randn_like(loc)
        act = torch.tanh(loc + scale * noise)
        log_prob = -0.5 * noise.square() - scale.log() - _LOG_SQRT_TWO_PI
        correction = torch.log(1 - act.square() + _TANH_EPS)
        return act, (log_prob - correction).sum(-1)


class _Values(torch.autograd.Function):
    """A critic's values, with a backward pass that does no more than is asked for.

    Gradients go to the parameters where these are given, to the inputs where they require them,
    and only through rows that have one: under a minimum of two critics, each row has one in the
    smaller alone.
    """

    @staticmethod
    def forward(
        ctx: Any, layers: list[Any], inputs: Float[Tensor, "B I"], *parameters: Tensor
    ) -> Float[Tensor, " B"]:
        ctx.layers, ctx.saved = layers, []
        return _values(layers, inputs, ctx.saved)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, " B"]) -> tuple[Tensor | None, ...]:
        _, to_inputs, *to_parameters = ctx.needs_input_grad
        size, rows = len(grad), grad.nonzero().squeeze(-1)
        grad = grad[rows].unsqueeze(-1)
        parameter_grads: list[Tensor] = []
        for number, layer in reversed(list(enumerate(ctx.layers))):
            saved = ctx.saved.pop()  # no longer needed after this
            linear = isinstance(layer, nn.Linear)
            if len(rows) < size and (to_parameters or not linear):
                saved = [tensor[rows] for tensor in saved]
            if linear:
                if to_parameters:
                    parameter_grads[:0] = grad.t() @ saved[0], grad.sum(0)
                if number or to_inputs:
                    grad = grad @ layer.weight
            elif isinstance(layer, nn.ReLU):
                grad = torch.ops.aten.threshold_backward(grad, saved[0], 0)
            else:
                hidden, *moments = saved
                grad, *both = torch.ops.aten.native_layer_norm_backward(
                    grad,
                    hidden,
                    layer.normalized_shape,
                    *moments,
                    layer.weight,
                    layer.bias,
                    [True, bool(to_parameters), bool(to_parameters)],
                )
                parameter_grads[:0] = both if to_parameters else ()
        if not to_inputs:
            return None, None, *parameter_grads
        everywhere = grad.new_zeros(size, grad.shape[1])
        return None, everywhere.index_copy_(0, rows, grad), *parameter_grads


def _values_of(layers: list[Any], inputs: Tensor, *parameters: Tensor) -> Tensor:
    """A critic's values, differentiable by what is given and requires gradients."""
    values: Tensor = _Values.apply(layers, inputs, *parameters)  # type: ignore[no-untyped-call]
    return values


def _values(
    layers: list[Any], inputs: Float[Tensor, "B I"], saved: list[list[Tensor]] | None = None
) -> Float[Tensor, " B"]:
    """A critic's values; what each layer's backward pass needs is appended to ``saved``."""
    hidden = inputs
    for layer in layers:
        needed = [hidden]
        if isinstance(layer, nn.Linear):
            hidden = F.linear(hidden, layer.weight, layer.bias)
        elif isinstance(layer, nn.ReLU):
            hidden.relu_()  # the sign of a result tells as much as that of the input
        else:
            hidden, *moments = torch.native_layer_norm(
                hidden, layer.normalized_shape, layer.weight, layer.bias, layer.eps
            )
            needed += moments
        if saved is not None:
            saved.append(needed)
    return hidden.squeeze(-1)


def _layers(network: nn.Module) -> list[Any]:
    """The network's layers in the order in which they act."""
    layers = [
        module
        for module in network.modules()
        if not list(module.children()) and not isinstance(module, nn.Sequential)
    ]
    for number, layer in enumerate(layers):
        known = isinstance(layer, (nn.Linear, nn.LayerNorm, nn.ReLU) if number else nn.Linear)
        if not known or None in layer._parameters.values():
            raise ValueError(
                "FastSAC expected critics of Linear, LayerNorm and ReLU layers, with biases, that "
                f"begin with Linear, got {layer}. Use Tianshou's SAC."
            )
    return layers


def _parameters(layers: list[Any]) -> list[Tensor]:
    return [parameter for layer in layers for parameter in layer._parameters.values()]
