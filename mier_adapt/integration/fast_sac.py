"""FastSAC: Tianshou's SAC, with the same updates in less time."""

from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.modelfree.sac import SAC, Alpha, AutoAlpha, SACPolicy, SACTrainingStats
from tianshou.algorithm.optim import OptimizerFactory
from tianshou.data import ReplayBuffer
from tianshou.utils.net.continuous import SIGMA_MAX, SIGMA_MIN, ContinuousActorProbabilistic
from torch import nn

from mier_adapt._checks import checked, shown
from mier_adapt._typing import Float, Int, Tensor

_TANH_EPS = torch.finfo(torch.float32).eps
_LOG_SQRT_TWO_PI = 0.9189385332046727


class FastSAC(SAC[Any]):
    """A drop-in SAC: same constructor, state and losses; updates cost less.

    - Actor and critics run forward and backward by hand, without a graph, in place where they can.
    - The actor's step computes no gradients for the critics' weights, and sends each transition
      back through one critic only: the smaller one.
    - One-step targets come straight from the sampled batch, without copying the buffer's
      columns.

    Given the same batch and generator state, losses and gradients are those of Tianshou's SAC up
    to rounding (tested to 1e-5).

    Args:
        policy: As for Tianshou's ``SAC``, like all that follow.
        policy_optim: See there.
        critic: See there.
        critic_optim: See there.
        critic2: See there.
        critic2_optim: See there.
        alpha: See there.
        **kwargs: See there.

    Raises:
        TypeError: If a part is of another type.
        ValueError: If actor or critics hold other layers than ``Linear``, ``LayerNorm`` and
            ``ReLU`` or compute something else than one after the other, the actor is not an
            unbounded ``ContinuousActorProbabilistic`` with ``conditioned_sigma``, or returns are to
            span more than one step.
    """

    @checked
    def __init__(
        self,
        *,
        policy: SACPolicy,
        policy_optim: OptimizerFactory,
        critic: nn.Module,
        critic_optim: OptimizerFactory,
        critic2: nn.Module | None = None,
        critic2_optim: OptimizerFactory | None = None,
        alpha: float | Alpha = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy=policy,
            policy_optim=policy_optim,
            critic=critic,
            critic_optim=critic_optim,
            critic2=critic2,
            critic2_optim=critic2_optim,
            alpha=alpha,
            **kwargs,
        )
        if self.n_step_return_horizon != 1:
            raise ValueError("FastSAC expected n_step_return_horizon=1; use Tianshou's SAC.")
        self._critic_layers = [_layers(critic) for critic in (self.critic, self.critic2)]
        self._target_layers = [_layers(critic) for critic in (self.critic_old, self.critic2_old)]
        self._trunk, self._heads = _actor_layers(self.policy.actor)
        self._actor_inputs = self._trunk[:1] or self._heads  # what observations go into
        self._require_same()
        self.obs_scale: Float[Tensor, " O"] | None = None
        """What observations are multiplied by, as far as learning goes: the networks take them as
        they come, and their first layers' steps are multiplied instead. See :meth:`scale_obs`."""
        self.reward_scale = 1.0
        """What rewards are multiplied by, as far as learning goes: the critics' values are in units
        of reward, and their last layers' steps are divided instead. See :meth:`scale_rewards`."""

    @torch.no_grad()
    def _require_same(self) -> None:
        """Check that layer after layer is all that actor and critics compute."""
        first = self._actor_inputs[0].weight
        obs_dim, act_dim = first.shape[1], len(self._heads[0].weight)
        if [layers[0].in_features for layers in self._critic_layers] != [obs_dim + act_dim] * 2:
            raise ValueError(
                f"FastSAC expected critics of {obs_dim} inputs of the actor's and {act_dim} "
                f"actions, got {shown(self.critic)}."
            )
        if first.is_meta:  # sizes alone
            return
        draws = torch.Generator().manual_seed(0)
        drawn = torch.randn(16, obs_dim + act_dim, generator=draws).to(first)
        obs, act = drawn[:, :obs_dim], drawn[:, obs_dim:]
        (loc, scale), _ = self.policy.actor(obs)
        hidden = _forward(self._trunk, obs)
        mine = [F.linear(hidden, head.weight, head.bias) for head in self._heads]
        pairs = [
            ("actor", loc, mine[0]),
            ("actor", scale.log(), mine[1].clamp(SIGMA_MIN, SIGMA_MAX)),
        ]
        for name, layers in zip(("critic", "critic2"), self._critic_layers, strict=True):
            pairs.append((name, getattr(self, name)(obs, act), _forward(layers, drawn)))
        for name, theirs, ours in pairs:
            if theirs.shape != ours.shape or not torch.allclose(theirs, ours, 1e-3, 1e-4):
                raise ValueError(
                    f"FastSAC expected the {name} to compute its layers one after the other and "
                    "nothing else (nothing by torch.nn.functional, no scaling), and got other "
                    "values. Use Tianshou's SAC."
                )

    def train(self, mode: bool = True) -> Self:
        """As Tianshou's, which calls it twice an update; free where nothing would change."""
        if all(each.training == mode for each in (self, self.policy, self.policy.actor)):
            return self
        return super().train(mode)

    @torch.no_grad()
    def scale_obs(self, scale: Float[Tensor, " O"]) -> None:
        """Begin to learn as if all but the context of what is observed were multiplied by this.

        Adam's steps do not depend on the size of gradients. So networks on scaled inputs, and
        networks on plain ones whose first weights are multiplied by the scale at first and at each
        step, are the same functions all along, up to rounding; and the latter need nothing in front
        of them when they act, are exported or learn elsewhere.

        Call it once, before the first update. :func:`.algorithm_state` has the scale.

        Args:
            scale: As many numbers as observations have without their context.
        """
        self.obs_scale = scale
        critics = (layers[0] for layers in (*self._critic_layers, *self._target_layers))
        for layer in (*critics, *self._actor_inputs):
            layer.weight[:, : len(scale)] *= scale

    @torch.no_grad()
    def scale_rewards(self, scale: float) -> None:
        """Begin to learn as if rewards and temperature were multiplied by this.

        A return of hundreds is far from where networks begin, and Adam goes there in steps of one
        size. Returns that are a tenth as large are learned sooner; and critics on these are critics
        on plain returns, up to rounding, whose last layers are divided by the scale at first and at
        each step. When to call it: see :meth:`scale_obs`.

        Args:
            scale: Above 0.
        """
        self.reward_scale = scale
        for layers in (*self._critic_layers, *self._target_layers):
            for parameter in layers[-1].parameters():
                parameter /= scale

    @torch.no_grad()
    def _preprocess_batch(self, batch: Any, buffer: ReplayBuffer, indices: Any) -> Any:
        obs_next, rew = self._tensor(batch.obs_next), self._tensor(batch.rew)
        sample = self._sample(obs_next)
        inputs = torch.cat((obs_next, sample.act), -1)
        first, second = (_forward(layers, inputs).squeeze(-1) for layers in self._target_layers)
        target = torch.min(first, second) - self.alpha.value * sample.log_prob
        if hasattr(batch, "weight"):  # of a prioritised buffer
            batch.weight = self._tensor(batch.weight)
        batch.returns = rew + self.gamma * (1 - self._tensor(batch.terminated)) * target
        return batch

    @torch.no_grad()
    def _update_with_batch(self, batch: Any) -> Any:
        obs, act = self._tensor(batch.obs), self._tensor(batch.act)
        size = len(obs)

        # critics: L = mean(weight (Q - returns)^2)
        inputs = torch.cat((obs, act), -1)
        weight = getattr(batch, "weight", 1.0)
        differences, losses = [], []
        for layers, optimizer in zip(
            self._critic_layers, (self.critic_optim, self.critic2_optim), strict=True
        ):
            saved: list[list[Tensor]] = []
            difference = _forward(layers, inputs, saved).squeeze(-1) - batch.returns
            weighted = difference * weight
            losses.append(float(weighted.dot(difference)) / size)
            grads = _backward(layers, saved, (weighted * (2 / size)).unsqueeze(-1))
            self._step(optimizer, layers, grads, last=1 / self.reward_scale)
            differences.append(difference)
        batch.weight = (differences[0] + differences[1]) / 2  # for a prioritised buffer
        actor_loss, alpha_loss = self._update_actor(obs)
        self._update_lagged_network_weights()
        return SACTrainingStats(
            actor_loss=actor_loss,
            critic1_loss=losses[0],
            critic2_loss=losses[1],
            alpha=self.alpha.value,
            alpha_loss=alpha_loss,
        )

    def _update_actor(self, obs: Float[Tensor, "B O"]) -> tuple[float, float | None]:
        """A step of actor and temperature; the losses of both."""
        size, alpha = len(obs), self.alpha.value
        # L = mean(alpha log_prob - min(Q1, Q2))
        trunk_saved: list[list[Tensor]] = []
        sample = self._sample(obs, trunk_saved)
        inputs = torch.cat((obs, sample.act), -1)
        critics_saved: list[list[list[Tensor]]] = [[], []]
        first, second = (
            _forward(layers, inputs, saved).squeeze(-1)
            for layers, saved in zip(self._critic_layers, critics_saved, strict=True)
        )
        actor_loss = float((alpha * sample.log_prob - torch.min(first, second)).mean())
        act_grad = torch.empty_like(sample.act)  # of L through the critics
        first_smaller = first <= second
        for layers, saved, smaller in zip(
            self._critic_layers, critics_saved, (first_smaller, ~first_smaller), strict=True
        ):
            rows = smaller.nonzero().squeeze(-1)
            grad = obs.new_full((len(rows), 1), -1 / size)
            input_grad = _input_gradient(layers, saved, grad, rows, since=obs.shape[1])
            act_grad.index_copy_(0, rows, input_grad)
        grad = sample.backward(act_grad, log_prob_grad=alpha / size)
        # Each product serves both heads.
        weight_grads, bias_grads = (grad.t() @ sample.hidden).chunk(2), grad.sum(0).chunk(2)
        head_grads = [each for pair in zip(weight_grads, bias_grads, strict=True) for each in pair]
        grad = grad @ torch.cat([head.weight for head in self._heads])
        grads = _backward(self._trunk, trunk_saved, grad)
        self._step(self.policy_optim, [*self._trunk, *self._heads], [*grads, *head_grads])
        return actor_loss, self._update_alpha(sample.log_prob)

    def _step(
        self,
        optimizer: Algorithm.Optimizer,
        layers: list[Any],
        grads: list[Tensor],
        last: float = 1.0,
    ) -> None:
        """A step of these layers, whose last one goes ``last`` times as far."""
        for parameter, grad in zip(_parameters(layers), grads, strict=True):
            parameter.grad = grad
        rescaled: list[tuple[Tensor, Any]] = []
        if self.obs_scale is not None:
            rescaled.append((layers[0].weight[:, : len(self.obs_scale)], self.obs_scale))
        if last != 1.0:
            rescaled += [(parameter, last) for parameter in layers[-1].parameters()]
        before = [values.clone() for values, _ in rescaled]
        optimizer._optim.step()
        for start, (values, factor) in zip(before, rescaled, strict=True):
            torch.lerp(start, values, factor, out=values)

    @torch.no_grad()
    def _update_lagged_network_weights(self) -> None:
        targets, sources = (
            [parameter for layers in pair for parameter in _parameters(layers)]
            for pair in (self._target_layers, self._critic_layers)
        )
        torch._foreach_lerp_(targets, sources, self.tau)

    def _update_alpha(self, log_prob: Float[Tensor, " B"]) -> float | None:
        """The temperature's step: L = -mean(log_alpha (target_entropy + log_prob))."""
        alpha = self.alpha
        if not isinstance(alpha, AutoAlpha):
            return alpha.update(-log_prob.unsqueeze(-1))
        grad = -(log_prob.mean() + alpha._target_entropy)
        alpha._log_alpha.grad = grad
        loss = float(alpha._log_alpha * grad)
        alpha._optim.step()
        return loss

    def _sample(
        self, obs: Float[Tensor, "B O"], saved: list[list[Tensor]] | None = None
    ) -> "_Sample":
        """Squashed Gaussian actions and their log-probabilities, as SACPolicy's forward."""
        hidden = _forward(self._trunk, obs, saved)
        loc, unbounded = (F.linear(hidden, head.weight, head.bias) for head in self._heads)
        log_scale = unbounded.clamp(SIGMA_MIN, SIGMA_MAX)
        noise = torch.randn_like(loc)
        deviation = log_scale.exp().mul_(noise)
        act = torch.tanh(loc + deviation)
        slope = 1 - act.square()
        log_prob = -0.5 * noise.square() - log_scale - (slope + _TANH_EPS).log_()
        return _Sample(
            hidden=hidden,
            bounded=unbounded == log_scale,
            deviation=deviation,
            act=act,
            slope=slope,
            log_prob=log_prob.sum(-1) - loc.shape[-1] * _LOG_SQRT_TWO_PI,
        )

    def _tensor(self, values: Any) -> Tensor:
        device = self._heads[0].weight.device
        return torch.as_tensor(values, device=device, dtype=torch.float32)


class _Sample(NamedTuple):
    """Actions a = tanh(u), u = loc + sigma noise, and what their gradient needs."""

    hidden: Float[Tensor, "B H"]
    """What the heads of the actor see."""
    bounded: Tensor
    """Where log sigma is within its bounds, and so has a gradient."""
    deviation: Float[Tensor, "B A"]
    """sigma noise."""
    act: Float[Tensor, "B A"]
    slope: Float[Tensor, "B A"]
    """da/du = 1 - a^2."""
    log_prob: Float[Tensor, " B"]
    """log N(u; loc, sigma) - sum log(1 - a^2 + eps)."""

    def backward(
        self, act_grad: Float[Tensor, "B A"], log_prob_grad: float
    ) -> Float[Tensor, "B twice_A"]:
        """Gradient by loc and log sigma, side by side.

        With noise held, dlog_prob/da = 2 a / (1 - a^2 + eps), dlog_prob/dlog sigma = -1 besides,
        du/dloc = 1 and du/dlog sigma = sigma noise.
        """
        by_log_prob = self.act * (2 * log_prob_grad) / (self.slope + _TANH_EPS)
        loc_grad = (act_grad + by_log_prob).mul_(self.slope)
        log_scale_grad = (loc_grad * self.deviation).sub_(log_prob_grad).mul_(self.bounded)
        return torch.cat((loc_grad, log_scale_grad), -1)


def _forward(
    layers: list[Any], inputs: Float[Tensor, "B I"], saved: list[list[Tensor]] | None = None
) -> Float[Tensor, "B N"]:
    """A network's outputs; what each layer's backward pass needs is appended to ``saved``."""
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
    return hidden


def _backward(
    layers: list[Any], saved: list[list[Tensor]], grad: Float[Tensor, "B N"]
) -> list[Tensor]:
    """Gradients by all parameters, in their order, from that by the outputs."""
    grads: list[Tensor] = []
    for number, layer in reversed(list(enumerate(layers))):
        if isinstance(layer, nn.Linear):
            grads[:0] = grad.t() @ saved[number][0], grad.sum(0)
            if number:
                grad = grad @ layer.weight
        else:
            grad, *both = _backward_elsewhere(layer, saved[number], grad, weights=True)
            grads[:0] = both
    return grads


def _input_gradient(
    layers: list[Any],
    saved: list[list[Tensor]],
    grad: Float[Tensor, "R N"],
    rows: Int[Tensor, " R"],
    since: int,
) -> Float[Tensor, "R some"]:
    """Gradient by the inputs from the ``since``-th on, of some rows, from that by their outputs."""
    for layer, needed in zip(reversed(layers[1:]), reversed(saved[1:]), strict=True):
        if isinstance(layer, nn.Linear):
            grad = grad @ layer.weight
        else:
            grad = _backward_elsewhere(layer, [each[rows] for each in needed], grad)[0]
    input_grad: Tensor = grad @ layers[0].weight[:, since:]
    return input_grad


def _backward_elsewhere(
    layer: Any, needed: list[Tensor], grad: Tensor, *, weights: bool = False
) -> list[Tensor]:
    """Gradient by a ReLU's or LayerNorm's inputs and, if asked for, its parameters."""
    if isinstance(layer, nn.ReLU):
        return [torch.ops.aten.threshold_backward(grad, needed[0], 0)]
    hidden, *moments = needed
    shape, mask = layer.normalized_shape, [True, weights, weights]
    return [
        each
        for each in torch.ops.aten.native_layer_norm_backward(
            grad, hidden, shape, *moments, layer.weight, layer.bias, mask
        )
        if each is not None
    ]


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
                "FastSAC expected networks of Linear, LayerNorm and ReLU layers, with biases, that "
                f"begin with Linear, got {layer}. Use Tianshou's SAC."
            )
    return layers


def _actor_layers(actor: Any) -> tuple[list[Any], list[Any]]:
    """An actor's hidden layers, and the two that give a Gaussian's mean and log-deviation."""
    gaussian = isinstance(actor, ContinuousActorProbabilistic)
    known = gaussian and actor._unbounded and actor._c_sigma
    heads = [_layers(actor.mu), _layers(actor.sigma)] if known else []
    if [len(layers) for layers in heads] != [1, 1]:
        raise ValueError(
            "FastSAC expected the actor to be a ContinuousActorProbabilistic with unbounded and "
            "conditioned_sigma set, and with all hidden_sizes in its preprocess_net, got "
            f"{shown(actor)}. Use Tianshou's SAC."
        )
    return _layers(actor.preprocess), [layer for (layer,) in heads]


def _parameters(layers: list[Any]) -> list[Tensor]:
    return [parameter for layer in layers for parameter in layer._parameters.values()]
