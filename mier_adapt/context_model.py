"""ContextModel: p(rew, obs_next | obs, act, context), a diagonal Gaussian network."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from mier_adapt._checks import Count, Size, checked, shown
from mier_adapt._typing import Float, Tensor
from mier_adapt.protocols import Varies
from mier_adapt.transitions import Transitions

Activation = Literal["leaky_relu", "relu", "elu", "silu", "tanh"]

# Of activations that are linear on either side of zero. The released code's 0.2; torch's own
# default is 0.01.
_SLOPES: dict[Activation, float] = {"leaky_relu": 0.2, "relu": 0.0}

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "leaky_relu": lambda x: F.leaky_relu(x, _SLOPES["leaky_relu"]),
    "relu": F.relu,
    "elu": F.elu,
    "silu": F.silu,
    "tanh": torch.tanh,
}

_LOG_VAR_MIN_START = -10.0
_LOG_VAR_MAX_START = 0.5
_BOUND_PENALTY = 0.01

_VARIES = 1e-6
"""Standard deviation, as a share of a dimension's size, from which on it varies."""
_CHANGES = 2e-7
"""The same for an observation's change, as a share of the observation's size: differences of
numbers in single precision are uncertain by a quarter of that."""


class Prediction(NamedTuple):
    """Means and log-variances of one step, in the environment's units.

    The state part is that of the *change* ``obs_next - obs``; it is ``None`` in a
    model of rewards alone.
    """

    rew_mean: Float[Tensor, "*axes"]
    """Mean of the reward."""
    rew_log_var: Float[Tensor, "*axes"]
    """Log-variance of the reward."""
    delta_mean: Float[Tensor, "*axes O"] | None
    """Mean of the observation's change."""
    delta_log_var: Float[Tensor, "*axes O"] | None
    """Log-variance of the observation's change, each dimension's by itself."""


class ContextModel(nn.Module):
    r"""A probabilistic model of reward and dynamics, conditioned on a context.

    A network on ``[obs, act, context]`` gives, for the reward and for each dimension
    of the observation's change, the mean $\mu$ and the log-variance $\ell$ of a
    Gaussian. Log-variances are softly kept between learned limits:

    $$\ell \leftarrow \ell_{max} - \mathrm{softplus}(\ell_{max} - \ell), \qquad
      \ell \leftarrow \ell_{min} + \mathrm{softplus}(\ell - \ell_{min}).$$

    Inputs and targets may be z-scored (:meth:`fit_normalization`). The statistics are
    buffers, so they are saved in the state dict; predictions and losses are always in
    the environment's units. A new model normalises nothing.

    **Shapes.** Observations and actions have any leading axes. A context is ``(C,)``,
    the same for all; or it has one axis less than the observations, ``(T, C)`` for
    ``(T, B, O)``, one for each task; or as many, one for each transition.
    ``context_dim`` 0 is legal and makes this an ordinary dynamics model.

    **State dict.** ``layers.<i>.weight`` and ``.bias`` (torch's ``(out, in)`` layout),
    inputs in the order obs, act, context, outputs in the order reward mean, change
    means, reward log-variance, change log-variances; ``min_log_var`` and
    ``max_log_var`` (reward first); ``initial_context``; the normalisation statistics.

    Example:
        >>> import torch
        >>> model = ContextModel(3, 2, 5, hidden_sizes=(32, 32))
        >>> obs, act = torch.zeros(8, 3), torch.zeros(8, 2)
        >>> rew, obs_next = model.mean(obs, act, model.initial_context)
        >>> rew.shape, obs_next.shape
        (torch.Size([8]), torch.Size([8, 3]))

    Args:
        obs_dim: Dimensions of an observation.
        act_dim: Dimensions of an action.
        context_dim: Dimensions of the context; 0 for none.
        hidden_sizes: Widths of the hidden layers.
        activation: ``"leaky_relu"`` (slope 0.2), ``"relu"``, ``"elu"``, ``"silu"`` or
            ``"tanh"``.
        varies: ``"reward_and_dynamics"``; or ``"reward"``, to predict rewards alone.
        learn_initial_context: Make the initial context, which starts at zero, a
            parameter (paper) rather than a constant (released code).
        generator: Draws the initial weights; torch's global one when ``None``.

    Raises:
        ValueError: For a dimension or width out of range or an unknown choice.

    Source:
        Mendonca et al. (2020), arXiv:2006.07178, sections 3 and 4. Sizes, initial
        values and the bounds on the variance follow the authors' released code;
        normalisation is ours.
    """

    initial_context: Tensor
    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    @checked
    def __init__(
        self,
        obs_dim: Size,
        act_dim: Size,
        context_dim: Count,
        *,
        hidden_sizes: Sequence[Size] = (200, 200, 200, 200),
        activation: Activation = "leaky_relu",
        varies: Varies = "reward_and_dynamics",
        learn_initial_context: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.obs_dim = obs_dim
        self.act_dim = act_dim
        self.context_dim = context_dim
        self.hidden_sizes = tuple(hidden_sizes)
        self.activation = activation
        self.varies = varies

        target_dim = 1 if varies == "reward" else 1 + obs_dim
        input_dim = obs_dim + act_dim
        sizes = (input_dim + context_dim, *hidden_sizes, 2 * target_dim)
        layers = [
            # Without torch's own initial values, which would come from the global generator.
            torch.nn.utils.skip_init(nn.Linear, size_in, size_out)  # type: ignore[no-untyped-call]
            for size_in, size_out in itertools.pairwise(sizes)
        ]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)
        self.min_log_var = nn.Parameter(torch.full((target_dim,), _LOG_VAR_MIN_START))
        self.max_log_var = nn.Parameter(torch.full((target_dim,), _LOG_VAR_MAX_START))
        if learn_initial_context:
            self.initial_context = nn.Parameter(torch.zeros(context_dim))
        else:
            self.register_buffer("initial_context", torch.zeros(context_dim))
        self.register_buffer("input_mean", torch.zeros(input_dim))
        self.register_buffer("input_std", torch.ones(input_dim))
        self.register_buffer("target_mean", torch.zeros(target_dim))
        self.register_buffer("target_std", torch.ones(target_dim))

    @property
    def slope(self) -> float | None:
        """Of the activations below zero, if they are linear on either side of it."""
        return _SLOPES.get(self.activation)

    @checked
    @torch.no_grad()
    def fit_normalization(self, transitions: Transitions) -> None:
        """Z-score inputs and targets by the statistics of these transitions.

        Call it once, before training: it changes what existing weights mean. A
        dimension that does not vary is scaled by its size, so that units never matter, and by 1
        if it is zero.

        Raises:
            ValueError: If the transitions' dimensions are not the model's, or there is
                only one of them.
        """
        self._check(None, obs=transitions.obs, act=transitions.act)
        if transitions.rew.numel() < 2:
            raise ValueError("fit_normalization expected at least 2 transitions, got 1.")
        inputs = torch.cat((transitions.obs, transitions.act), -1).flatten(0, -2)
        targets = self._targets(transitions).flatten(0, -2)
        for name, values in (("input", inputs), ("target", targets)):
            std, mean = torch.std_mean(values.double(), dim=0)
            size = mean.abs()
            least = _VARIES * size
            if name == "target" and self.varies != "reward":
                size[1:] = transitions.obs.double().abs().flatten(0, -2).mean(0)
                least[1:] = torch.maximum(least[1:], _CHANGES * size[1:])
            none = torch.finfo(torch.float32).tiny
            scale = torch.where(size > none, size, torch.ones_like(size))
            std = torch.where(std > least.clamp_min(none), std, scale)
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_std").copy_(std)

    def forward(
        self,
        obs: Float[Tensor, "*axes O"],
        act: Float[Tensor, "*axes A"],
        context: Float[Tensor, "*some C"],
    ) -> Prediction:
        """Predict means and log-variances, in the environment's units.

        Raises:
            ValueError: If a shape does not fit; the message names the argument.
        """
        mean, log_var = self._normalized(self._product(self._inputs(obs, act)), context)
        mean = mean * self.target_std + self.target_mean
        log_var = log_var + 2 * self.target_std.log()
        if self.varies == "reward":
            return Prediction(mean[..., 0], log_var[..., 0], None, None)
        return Prediction(mean[..., 0], log_var[..., 0], mean[..., 1:], log_var[..., 1:])

    def _inputs(
        self, obs: Float[Tensor, "*axes O"], act: Float[Tensor, "*axes A"]
    ) -> Float[Tensor, "*axes I"]:
        self._check(None, obs=obs)
        self._check(obs.shape[:-1], act=act)
        return (torch.cat((obs, act), -1) - self.input_mean) / self.input_std

    def _product(self, inputs: Float[Tensor, "*axes I"]) -> Float[Tensor, "*axes H"]:
        """What z-scored observations and actions contribute to the first layer."""
        first = cast(nn.Linear, self.layers[0])
        return F.linear(inputs, first.weight[:, : inputs.shape[-1]], first.bias)

    def _normalized(
        self, product: Float[Tensor, "*axes H"], context: Float[Tensor, "*some C"]
    ) -> tuple[Float[Tensor, "*axes Y"], Float[Tensor, "*axes Y"]]:
        """Means and log-variances of the z-scored targets."""
        axes = product.shape[:-1]
        given = getattr(context, "ndim", 0)  # one for all, for each task, or for each transition
        fits = given in (1, product.ndim - 1, product.ndim)
        self._check(axes[: given - 1] if fits else axes, context=context)
        if 1 < context.ndim < product.ndim:
            context = context.unsqueeze(-2)
        activate = _ACTIVATIONS[self.activation]
        first, *others = (cast(nn.Linear, layer) for layer in self.layers)
        # Multiplying the context apart from the inputs gives the same sum without
        # repeating it for every transition of its task.
        context_weight = first.weight[:, self.obs_dim + self.act_dim :]
        hidden = product + F.linear(context, context_weight)
        hidden = hidden.reshape(-1, hidden.shape[-1])  # layers reshape each time otherwise
        for layer in others:
            hidden = layer(activate(hidden))
        mean, log_var = hidden.reshape(*axes, -1).chunk(2, dim=-1)
        log_var = self.max_log_var - F.softplus(self.max_log_var - log_var)
        log_var = self.min_log_var + F.softplus(log_var - self.min_log_var)
        return mean, log_var

    @checked
    def loss_terms(
        self, transitions: Transitions, context: Float[Tensor, "*some C"]
    ) -> tuple[Float[Tensor, "*tasks"], Float[Tensor, "*tasks"]]:
        r"""The reward's and the state's part of the loss, for each task.

        Each is the mean over transitions (and dimensions) of

        $$(\mu - y)^2 e^{-\ell} + \ell,$$

        twice a per-dimension negative log-likelihood without its constant. The state's
        part is zero in a model of rewards alone.

        Args:
            transitions: ``(B, ...)`` or ``(T, B, ...)``.
            context: As in :meth:`forward`.

        Returns:
            Two tensors, scalars or of shape ``(T,)``.
        """
        prediction = self(transitions.obs, transitions.act, context)
        rew = _loss(prediction.rew_mean, prediction.rew_log_var, transitions.rew).mean(-1)
        if prediction.delta_mean is None or prediction.delta_log_var is None:
            return rew, torch.zeros_like(rew)
        change = transitions.obs_next - transitions.obs
        state = _loss(prediction.delta_mean, prediction.delta_log_var, change)
        return rew, state.mean((-2, -1))

    @checked
    def loss(
        self, transitions: Transitions, context: Float[Tensor, "*some C"]
    ) -> Float[Tensor, "*tasks"]:
        """Sum of :meth:`loss_terms`: a scalar, or one loss for each of T tasks."""
        return self.loss_function(transitions)(context)

    def loss_function(self, transitions: Transitions) -> Callable[[Tensor], Tensor]:
        """:meth:`loss` as a function of the context.

        What does not depend on the context is computed once, for all steps of an adaptation; but
        in a subclass, whose prediction may be another, the loss is that of its prediction.
        """
        if type(self) is not ContextModel:
            return lambda context: torch.stack(self.loss_terms(transitions, context)).sum(0)
        terms = self._mean_terms(transitions)
        return lambda context: terms(context) @ self.loss_weight()

    def z_scored(
        self, transitions: Transitions
    ) -> tuple[Float[Tensor, "*axes I"], Float[Tensor, "*axes Y"]]:
        """What the layers see (observation, action) and should give (reward, observation's change).

        Args:
            transitions: ``(*axes, ...)``, in the environment's units.

        Returns:
            Inputs and targets, each dimension by its own mean and standard deviation.
        """
        inputs = self._inputs(transitions.obs, transitions.act)
        return inputs, (self._targets(transitions) - self.target_mean) / self.target_std

    def loss_weight(self) -> Float[Tensor, " Y"]:
        """Weight of each target in the loss: 1 for the reward, a mean's for the state."""
        weight = torch.full_like(self.target_mean, 1 / self.obs_dim)
        weight[0] = 1  # the reward's
        return weight

    def _mean_terms(self, transitions: Transitions) -> Callable[[Tensor], Tensor]:
        """Each dimension's loss, ``(*tasks, Y)``, as a function of the context.

        The square is the same for z-scored targets; their log-variance is less by a constant.
        """
        inputs, target = self.z_scored(transitions)
        product = self._product(inputs)
        constant = 2 * self.target_std.log()

        def mean_terms(context: Tensor) -> Tensor:
            mean, log_var = self._normalized(product, context)
            error = mean - target
            return (error * error * torch.exp(-log_var) + log_var).mean(-2) + constant

        return mean_terms

    def bound_penalty(self) -> Float[Tensor, ""]:
        """The regulariser that keeps the variance's limits tight (released code)."""
        return _BOUND_PENALTY * (self.max_log_var.sum() - self.min_log_var.sum())

    def mean(
        self,
        obs: Float[Tensor, "*axes O"],
        act: Float[Tensor, "*axes A"],
        context: Float[Tensor, "*some C"],
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes O"] | None]:
        """Most likely reward and next observation (``None`` in a model of rewards alone)."""
        prediction = self(obs, act, context)
        if prediction.delta_mean is None:
            return prediction.rew_mean, None
        return prediction.rew_mean, obs + prediction.delta_mean

    def sample(
        self,
        obs: Float[Tensor, "*axes O"],
        act: Float[Tensor, "*axes A"],
        context: Float[Tensor, "*some C"],
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes O"] | None]:
        """Draw a reward and a next observation (``None`` in a model of rewards alone).

        Args:
            obs: Observations, any leading axes.
            act: Actions in [-1, 1], with the same leading axes.
            context: As in :meth:`forward`.
            generator: Draws them; torch's global one when ``None``.
        """
        prediction = self(obs, act, context)
        rew = _draw(prediction.rew_mean, prediction.rew_log_var, generator)
        if prediction.delta_mean is None or prediction.delta_log_var is None:
            return rew, None
        return rew, obs + _draw(prediction.delta_mean, prediction.delta_log_var, generator)

    def _targets(self, transitions: Transitions) -> Float[Tensor, "*axes Y"]:
        rew = transitions.rew.unsqueeze(-1)
        if self.varies == "reward":
            return rew
        return torch.cat((rew, transitions.obs_next - transitions.obs), -1)

    def _check(self, axes: tuple[int, ...] | None, **values: Any) -> None:
        """Check inputs by name: the model's dtype, device and dimensions, and shared axes."""
        like = self.input_mean
        for name, value in values.items():
            dim = getattr(self, f"{name}_dim")
            if getattr(value, "dtype", None) != like.dtype or value.device != like.device:
                raise TypeError(
                    f"ContextModel expected {name} in {like.dtype} on {like.device}, as the model, "
                    f"got {shown(value)}. Convert one of the two with .to()."
                )
            if value.shape[-1:] != (dim,) or axes not in (None, value.shape[:-1]):
                wanted = f"(..., {dim})" if axes is None else (*axes, dim)
                raise ValueError(
                    f"ContextModel expected {name} of shape {wanted}, got {tuple(value.shape)}."
                )


def _loss(mean: Tensor, log_var: Tensor, value: Tensor) -> Tensor:
    error = mean - value
    return error * error * torch.exp(-log_var) + log_var


def _draw(mean: Tensor, log_var: Tensor, generator: torch.Generator | None) -> Tensor:
    noise = torch.empty_like(mean).normal_(generator=generator)
    return mean + noise * torch.exp(0.5 * log_var)
