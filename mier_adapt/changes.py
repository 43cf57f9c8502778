"""Changes: what may stand between a known task and a new one, as maps that start from none.

A robot that changed is often a known robot behind a changed interface. Each :class:`Change` maps
what the new robot is told and shows to what the known one would have been told and would have
shown, by few parameters; :class:`ChangedModel` puts one in front of a model, which stays as it is.
"""

import itertools
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import nn

from mier_adapt._checks import Size, checked, shown
from mier_adapt._typing import Bool, Float, Int, Tensor
from mier_adapt.protocols import TaskModel
from mier_adapt.transitions import Transitions

__all__ = [
    "Actuators",
    "Change",
    "ChangedModel",
    "Delay",
    "LinearResidual",
    "Sensors",
    "Together",
]

Structure = Literal["signs", "order", "gain", "gains", "offset", "mixture", "affine"]
"""What an affine map may do: reverse; reorder and reverse; scale all, or each; shift; mix two, or
two and two; anything."""

_LEVELS: dict[Structure, int] = {
    **{"signs": 1, "order": 1, "gain": 2, "gains": 3, "offset": 3, "mixture": 3, "affine": 5}
}

_MOST_SIGNS = 8
"""Dimensions up to which all signs are tried, 256 of them; beyond, one or two at once."""
_MOST_ORDERS = 4
"""The same for orders with signs, 384 of them; beyond, two at once."""


class Change(ABC):
    """One way in which a task may differ from a known one. All that is not overridden stays.

    Parameters have any leading axes, ``(*axes, P)``; observations and actions one axis more,
    ``(*axes, B, dim)``. Everything has to be differentiable by the parameters.

    Example:
        >>> class Friction(Change):
        ...     '''Every motor loses the same amount of its torque.'''
        ...     name = "friction"
        ...     def identity(self):
        ...         return torch.zeros(1)
        ...     def executed(self, parameters, act):
        ...         return act - parameters.unsqueeze(-2) * torch.tanh(10 * act)
        >>> Friction().executed(torch.tensor([0.2]), torch.tensor([[1.0, -1.0]]))
        tensor([[ 0.8000, -0.8000]])
    """

    name: str
    """What reports call it."""
    level: int = 3
    """How simple it is, for :func:`.diagnose`: 0 for no change, 1 where nothing but signs and
    orders are told, 2 for a number or few, 3 for one for each motor, 4 for two, 5 for many."""
    lag: int = 0
    """Steps by which actions arrive late."""
    trained: bool = True
    """Whether gradients fit it; otherwise only :meth:`Change.alternatives` are tried."""

    @abstractmethod
    def identity(self) -> Float[Tensor, " P"]:
        """The parameters that change nothing."""

    def alternatives(self, parameters: Float[Tensor, " P"]) -> Float[Tensor, "S P"]:
        """What else to try beside these parameters, where gradients do not lead: signs, orders."""
        return parameters.new_empty((0, len(parameters)))

    def free(self, parameters: Float[Tensor, "*axes P"]) -> Bool[Tensor, "*axes P"]:
        """Which parameters gradients fit, from these on."""
        return torch.full_like(parameters, self.trained, dtype=torch.bool)

    def moved(self, parameters: Float[Tensor, "*axes P"]) -> Int[Tensor, "*axes"]:
        """How much they change, which a search has to pay for: here, how many numbers."""
        return (parameters != self.identity().to(parameters)).sum(-1)

    def rounded(
        self, parameters: Float[Tensor, " P"], tolerance: float = 0.1
    ) -> Float[Tensor, " P"]:
        """The parameters, where near a simple value at it: here, at what changes nothing."""
        identity = self.identity().to(parameters)
        return torch.where((parameters - identity).abs() <= tolerance, identity, parameters)

    def executed(
        self, parameters: Float[Tensor, "*axes P"], act: Float[Tensor, "*axes B A"]
    ) -> Float[Tensor, "*axes B A"]:
        """What the known robot's motors would have been told, where the new one's are told this."""
        return act

    def restored(
        self, parameters: Float[Tensor, "*axes P"], obs: Float[Tensor, "*axes B O"]
    ) -> Float[Tensor, "*axes B O"]:
        """What the known robot's sensors would have shown, where the new one's show this."""
        return obs

    def measured(
        self, parameters: Float[Tensor, "*axes P"], obs: Float[Tensor, "*axes B O"]
    ) -> Float[Tensor, "*axes B O"]:
        """The inverse of :meth:`restored`."""
        return obs

    def log_volume(self, parameters: Float[Tensor, "*axes P"]) -> Float[Tensor, "*axes"]:
        """Logarithm of the determinant of :meth:`restored`: what densities have to pay for it."""
        return parameters.new_zeros(parameters.shape[:-1])

    def residual(
        self,
        parameters: Float[Tensor, "*axes P"],
        obs: Float[Tensor, "*axes B O"],
        act: Float[Tensor, "*axes B A"],
    ) -> tuple[Float[Tensor, "*axes B"], Float[Tensor, "*axes B O"]] | None:
        """What is added to the known task's reward and next observation, in its own terms."""
        return None


class AffineChange(Change):
    """Of actuators or sensors: ``x -> W x + b``, of some structure."""

    @checked
    def __init__(
        self,
        dim: Size,
        structure: Structure,
        *,
        sparse: bool = False,
        scale: Float[Tensor, " D"] | None = None,
    ) -> None:
        self.dim = dim
        self.structure = structure
        self.sparse = sparse
        self.scale = torch.ones(dim) if scale is None else scale
        self.trained = structure not in ("signs", "order")
        self.level = 2 if sparse and self.trained else _LEVELS[structure]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The part and what may have happened to it."""
        return f"{self.part} {self.structure}"

    part: str

    def identity(self) -> Float[Tensor, " P"]:
        """As :meth:`Change.identity`."""
        if self.structure in _MATRICES:
            matrix = torch.eye(self.dim)
            offset = torch.zeros(self.dim if self.structure == "affine" else 0)
            return torch.cat((matrix.flatten(), offset))
        size = 1 if self.structure == "gain" else self.dim
        return torch.zeros(size) if self.structure == "offset" else torch.ones(size)

    def free(self, parameters: Float[Tensor, "*axes P"]) -> Bool[Tensor, "*axes P"]:
        """As :meth:`Change.free`: of few, those alone that the search chose."""
        if (self.sparse and self.trained) or self.structure == "mixture":
            return parameters != self.identity().to(parameters)
        return super().free(parameters)

    def moved(self, parameters: Float[Tensor, "*axes P"]) -> Int[Tensor, "*axes"]:
        """As :meth:`Change.moved`: an exchange of two moves two, as two reversals do."""
        if self.structure != "order":
            return super().moved(parameters)
        matrix, _ = self.map(parameters)
        return (matrix != torch.eye(self.dim).to(matrix)).any(-1).sum(-1)

    def map(
        self, parameters: Float[Tensor, "*axes P"]
    ) -> tuple[Float[Tensor, "*axes D D"], Float[Tensor, "*axes D"]]:
        """``W`` and ``b``."""
        axes, dim = parameters.shape[:-1], self.dim
        eye = torch.eye(dim, dtype=parameters.dtype, device=parameters.device)
        offset = parameters.new_zeros((*axes, dim))
        if self.structure in _MATRICES:
            matrix = parameters[..., : dim * dim].reshape(*axes, dim, dim)
            return matrix, parameters[..., dim * dim :] if self.structure == "affine" else offset
        if self.structure == "offset":
            return eye.expand(*axes, dim, dim), parameters * self.scale.to(parameters)
        return parameters.unsqueeze(-1) * eye, offset  # one gain for all, or one for each

    def mapped(
        self, parameters: Float[Tensor, "*axes P"], values: Float[Tensor, "*axes B D"]
    ) -> Float[Tensor, "*axes B D"]:
        """``W x + b`` of each row."""
        matrix, offset = self.map(parameters)
        return values @ matrix.mT + offset.unsqueeze(-2)

    def alternatives(self, parameters: Float[Tensor, " P"]) -> Float[Tensor, "S P"]:
        """As :meth:`Change.alternatives`: other signs and orders."""
        return self._alternatives(parameters.cpu()).to(parameters)

    def _alternatives(self, parameters: Float[Tensor, " P"]) -> Float[Tensor, "S P"]:
        if self.structure == "order" and self.sparse:
            pairs = torch.combinations(torch.arange(self.dim))
            rows = torch.arange(self.dim).repeat(len(pairs), 1)
            rows.scatter_(1, pairs, pairs.flip(1))
            return parameters.reshape(self.dim, self.dim)[rows].flatten(1)
        if self.structure == "order":
            matrix = parameters.reshape(self.dim, self.dim)
            found = [each @ matrix for each in _signed_orders(self.dim)]
            return torch.stack(found).flatten(1)
        if self.structure == "mixture":
            matrix = parameters.reshape(self.dim, self.dim)
            alone = (matrix == torch.eye(self.dim)).all(-1)
            found = [each @ matrix for each in _rotations(alone)]
            return torch.stack(found).flatten(1) if found else super().alternatives(parameters)
        if self.sparse and self.structure in ("signs", "gains"):
            factors = torch.tensor(_FACTORS[: 1 if self.structure == "signs" else None])
            return parameters * ((factors.view(-1, 1, 1) - 1) * torch.eye(self.dim) + 1).flatten(
                0, 1
            )
        if self.structure == "gains":
            dead = parameters * (1 - torch.eye(self.dim))
            return torch.cat((parameters * _signs(self.dim), dead))
        if self.structure == "signs":
            return parameters * _signs(self.dim)
        if self.structure == "gain":
            return parameters * torch.tensor(_FACTORS).unsqueeze(-1)
        if self.structure == "offset":
            steps = torch.tensor(_OFFSETS).unsqueeze(-1) * torch.eye(self.dim).unsqueeze(1)
            return parameters + steps.flatten(0, 1)
        return super().alternatives(parameters)

    def rounded(
        self, parameters: Float[Tensor, " P"], tolerance: float = 0.1
    ) -> Float[Tensor, " P"]:
        """As :meth:`Change.rounded`: gains to -1, 0 or 1, shifts to 0."""
        nearest = parameters.round() if self.structure != "offset" else torch.zeros_like(parameters)
        simple = (parameters - nearest).abs() <= tolerance
        if self.structure != "offset":
            simple &= nearest.abs() <= 1
        return torch.where(simple, nearest, parameters)


_MATRICES = ("order", "mixture", "affine")
"""Structures whose parameters are the whole matrix."""
_FACTORS = (-1.0, 0.5, 2.0)
"""Gains that are tried, one dimension at a time."""
_OFFSETS = (-1.0, -0.5, -0.2, 0.2, 0.5, 1.0)
"""Shifts that are tried, in units of a dimension's scale."""


class Actuators(AffineChange):
    """Motors reversed, wired to others, weak, dead, or shifted.

    What they execute is ``W act + b``, kept within [-1, 1].

    Args:
        dim: Dimensions of an action.
        structure: What may have happened.
        sparse: Only to few of them: a search says to which.
        scale: What shifts are measured in, ``(D,)``; 1 by default.
    """

    part = "actuators"

    def executed(
        self, parameters: Float[Tensor, "*axes P"], act: Float[Tensor, "*axes B A"]
    ) -> Float[Tensor, "*axes B A"]:
        """As :meth:`Change.executed`."""
        return self.mapped(parameters, act)


class Sensors(AffineChange):
    """Sensors reversed, exchanged, of another scale, or shifted.

    What the known robot would have shown is ``W obs + b``.

    Args:
        dim: Dimensions of an observation.
        structure: What may have happened.
        sparse: Only to few of them: a search says to which.
        scale: What shifts are measured in, ``(D,)``; 1 by default.
    """

    part = "sensors"

    def restored(
        self, parameters: Float[Tensor, "*axes P"], obs: Float[Tensor, "*axes B O"]
    ) -> Float[Tensor, "*axes B O"]:
        """As :meth:`Change.restored`."""
        return self.mapped(parameters, obs)

    def measured(
        self, parameters: Float[Tensor, "*axes P"], obs: Float[Tensor, "*axes B O"]
    ) -> Float[Tensor, "*axes B O"]:
        """As :meth:`Change.measured`."""
        matrix, offset = self.map(parameters)
        found: Tensor = torch.linalg.solve(matrix, (obs - offset.unsqueeze(-2)).mT).mT
        return found

    def log_volume(self, parameters: Float[Tensor, "*axes P"]) -> Float[Tensor, "*axes"]:
        """As :meth:`Change.log_volume`."""
        volume: Tensor = torch.linalg.slogdet(self.map(parameters)[0])[1]
        return volume


class Delay(Change):
    """Actions arrive a step late; the first one of an episode is zero."""

    name = "delay"
    level = 1
    lag = 1
    trained = False

    def identity(self) -> Float[Tensor, " P"]:
        """As :meth:`Change.identity`; there is nothing to fit."""
        return torch.zeros(0)


class LinearResidual(Change):
    """What no interface explains, such as other masses or damping: a linear correction.

    ``R [obs, act, 1]`` is added to the known task's prediction, all z-scored, from ``R = 0``.

    Args:
        input_mean: Of observations and actions, ``(O + A,)``.
        input_std: Their standard deviations.
        target_std: Of reward and the observation's change, ``(1 + O,)``.
    """

    name = "residual"
    level = 5

    @checked
    def __init__(
        self,
        input_mean: Float[Tensor, " I"],
        input_std: Float[Tensor, " I"],
        target_std: Float[Tensor, " Y"],
    ) -> None:
        self.input_mean, self.input_std, self.target_std = input_mean, input_std, target_std

    def identity(self) -> Float[Tensor, " P"]:
        """As :meth:`Change.identity`."""
        return self.target_std.new_zeros(len(self.target_std) * (len(self.input_mean) + 1))

    def residual(
        self,
        parameters: Float[Tensor, "*axes P"],
        obs: Float[Tensor, "*axes B O"],
        act: Float[Tensor, "*axes B A"],
    ) -> tuple[Float[Tensor, "*axes B"], Float[Tensor, "*axes B O"]]:
        """As :meth:`Change.residual`."""
        inputs = (torch.cat((obs, act), -1) - self.input_mean) / self.input_std
        matrix = parameters.reshape(*parameters.shape[:-1], len(self.target_std), -1)
        added = inputs @ matrix[..., :-1].mT + matrix[..., -1].unsqueeze(-2)
        added = added * self.target_std
        return added[..., 0], added[..., 1:]


class Together(Change):
    """Several changes at once; the first one is nearest to the new robot.

    Raises:
        TypeError: If one is none.
    """

    def __init__(self, *changes: Change) -> None:
        for each in changes:
            if not isinstance(each, Change):
                raise TypeError(f"Together expected changes to be Change, got {shown(each)}.")
        self.changes = changes
        self.name = " and ".join(each.name for each in changes)
        # Two of one level are less simple than either.
        levels = sorted(each.level for each in changes if each.level > 1)
        self.level = levels[-1] + (levels[-2:-1] == levels[-1:]) if levels else int(bool(changes))
        self.lag = sum(each.lag for each in changes)
        self.trained = any(each.trained for each in changes)
        self._sizes = [len(each.identity()) for each in changes]

    def parts(self, parameters: Float[Tensor, "*axes P"]) -> list[tuple[Change, Tensor]]:
        """Each change with its own parameters."""
        return list(zip(self.changes, torch.split(parameters, self._sizes, -1), strict=True))

    def free(self, parameters: Float[Tensor, "*axes P"]) -> Bool[Tensor, "*axes P"]:
        """As :meth:`Change.free`."""
        found = [each.free(own) for each, own in self.parts(parameters)]
        return torch.cat([parameters[..., :0].bool(), *found], -1)

    def moved(self, parameters: Float[Tensor, "*axes P"]) -> Int[Tensor, "*axes"]:
        """As :meth:`Change.moved`."""
        none = torch.zeros(parameters.shape[:-1], dtype=torch.int64, device=parameters.device)
        return sum((each.moved(own) for each, own in self.parts(parameters)), none)

    def rounded(
        self, parameters: Float[Tensor, " P"], tolerance: float = 0.1
    ) -> Float[Tensor, " P"]:
        """As :meth:`Change.rounded`."""
        return torch.cat(
            [
                parameters[:0],
                *(each.rounded(own, tolerance) for each, own in self.parts(parameters)),
            ]
        )

    def identity(self) -> Float[Tensor, " P"]:
        """As :meth:`Change.identity`."""
        return torch.cat([torch.zeros(0), *(each.identity().cpu() for each in self.changes)])

    def alternatives(self, parameters: Float[Tensor, " P"]) -> Float[Tensor, "S P"]:
        """As :meth:`Change.alternatives`: those of each, the others staying."""
        found, start = [], 0
        for change, own in self.parts(parameters):
            others = change.alternatives(own)
            rows = parameters.repeat(len(others), 1)
            rows[:, start : start + len(own)] = others
            found.append(rows)
            start += len(own)
        return torch.cat([parameters.new_empty((0, len(parameters))), *found])

    def executed(
        self, parameters: Float[Tensor, "*axes P"], act: Float[Tensor, "*axes B A"]
    ) -> Float[Tensor, "*axes B A"]:
        """As :meth:`Change.executed`."""
        for change, own in self.parts(parameters):
            act = change.executed(own, act)
        return act

    def restored(
        self, parameters: Float[Tensor, "*axes P"], obs: Float[Tensor, "*axes B O"]
    ) -> Float[Tensor, "*axes B O"]:
        """As :meth:`Change.restored`."""
        for change, own in self.parts(parameters):
            obs = change.restored(own, obs)
        return obs

    def measured(
        self, parameters: Float[Tensor, "*axes P"], obs: Float[Tensor, "*axes B O"]
    ) -> Float[Tensor, "*axes B O"]:
        """As :meth:`Change.measured`."""
        for change, own in reversed(self.parts(parameters)):
            obs = change.measured(own, obs)
        return obs

    def log_volume(self, parameters: Float[Tensor, "*axes P"]) -> Float[Tensor, "*axes"]:
        """As :meth:`Change.log_volume`."""
        none = super().log_volume(parameters)
        return sum((each.log_volume(own) for each, own in self.parts(parameters)), none)

    def residual(
        self,
        parameters: Float[Tensor, "*axes P"],
        obs: Float[Tensor, "*axes B O"],
        act: Float[Tensor, "*axes B A"],
    ) -> tuple[Float[Tensor, "*axes B"], Float[Tensor, "*axes B O"]] | None:
        """As :meth:`Change.residual`: their sum."""
        found = [each.residual(own, obs, act) for each, own in self.parts(parameters)]
        added = [each for each in found if each is not None]
        if not added:
            return None
        rew, obs_next = (torch.stack(each).sum(0) for each in zip(*added, strict=True))
        return rew, obs_next


class ChangedModel(nn.Module):
    """A model of a known task behind a change; a :class:`.TaskModel`.

    Args:
        model: Of the known task.
        change: What stands between.
        parameters: The change's, ``(P,)``; or ``(N, P)`` for N at once, in which case transitions
            and contexts have that leading axis, too.
    """

    change_parameters: Tensor
    initial_context: Tensor

    @checked
    def __init__(
        self, model: TaskModel, change: Change, parameters: Float[Tensor, "*axes P"]
    ) -> None:
        super().__init__()
        self.model, self.change = model, change
        self.register_buffer("change_parameters", parameters, persistent=True)
        self.obs_dim, self.act_dim = model.obs_dim, model.act_dim
        self.context_dim, self.varies = model.context_dim, model.varies
        self.register_buffer("initial_context", model.initial_context.detach(), persistent=False)

    def known(self, transitions: Transitions) -> Transitions:
        """What the known task would have shown: the transitions that its model has to explain."""
        parameters = self.change_parameters
        obs, act = self._inputs(transitions.obs, transitions.act)
        obs_next = self.change.restored(parameters, transitions.obs_next)
        rew = transitions.rew
        if (added := self.change.residual(parameters, obs, act)) is not None:
            rew, obs_next = rew - added[0], obs_next - added[1]
        return Transitions._trusted(obs, act, rew, obs_next, transitions.terminated)

    def loss(
        self, transitions: Transitions, context: Float[Tensor, "*some C"]
    ) -> Float[Tensor, "*tasks"]:
        """As :meth:`.TaskModel.loss`."""
        return self.model.loss(self.known(transitions), context) - self._volume()

    def losses(
        self, transitions: Transitions, context: Float[Tensor, "*axes C"]
    ) -> Float[Tensor, "*axes B"]:
        """Each transition's own loss: :meth:`loss` is their mean.

        Args:
            transitions: ``(*axes, B, ...)``, with the axes of the change's parameters.
            context: One for each of these, ``(*axes, C)``.
        """
        known = self.known(transitions)
        alone = known._map(lambda value: value.flatten(0, known.rew.ndim - 1).unsqueeze(1))
        contexts = context.unsqueeze(-2).expand(*known.rew.shape, -1).flatten(0, -2)
        return self.model.loss(alone, contexts).view(known.rew.shape) - self._volume().unsqueeze(-1)

    def _volume(self) -> Float[Tensor, "*axes"]:
        """What a loss, twice a negative log-likelihood's mean over dimensions, pays for volume."""
        volume = self.change.log_volume(self.change_parameters)
        return volume * (0 if self.varies == "reward" else 2 / self.obs_dim)

    def mean(
        self,
        obs: Float[Tensor, "*axes O"],
        act: Float[Tensor, "*axes A"],
        context: Float[Tensor, "*some C"],
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes O"] | None]:
        """As :meth:`.TaskModel.mean`."""
        return self._predicted(self.model.mean, obs, act, context)

    def sample(
        self,
        obs: Float[Tensor, "*axes O"],
        act: Float[Tensor, "*axes A"],
        context: Float[Tensor, "*some C"],
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes O"] | None]:
        """As :meth:`.TaskModel.sample`.

        Args:
            obs: Any leading axes.
            act: In [-1, 1], with the same leading axes.
            context: ``(C,)``, or one for each task or transition.
            generator: Draws the prediction; torch's global one when ``None``.
        """
        return self._predicted(self.model.sample, obs, act, context, generator=generator)

    def _inputs(self, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """What the known task would have shown and been told."""
        parameters = self.change_parameters
        executed = self.change.executed(parameters, act).clamp(-1, 1)
        return self.change.restored(parameters, obs), executed

    def _predicted(
        self, predict: Any, obs: Tensor, act: Tensor, context: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        parameters = self.change_parameters
        obs, act = self._inputs(obs, act)
        rew, obs_next = predict(obs, act, context, **options)
        if (added := self.change.residual(parameters, obs, act)) is not None:
            rew = rew + added[0]
            obs_next = None if obs_next is None else obs_next + added[1]
        return rew, None if obs_next is None else self.change.measured(parameters, obs_next)


def _signs(dim: int) -> Float[Tensor, "S D"]:
    """Of all dimensions where they are few; otherwise of one or two at a time."""
    if dim <= _MOST_SIGNS:
        return torch.tensor(list(itertools.product((1.0, -1.0), repeat=dim)))[1:]
    eye = torch.eye(dim)
    pairs = torch.combinations(torch.arange(dim))
    return torch.cat((1 - 2 * eye, 1 - 2 * eye[pairs[:, 0]] - 2 * eye[pairs[:, 1]]))


def _rotations(alone: Bool[Tensor, " D"]) -> list[Float[Tensor, "D D"]]:
    """By odd multiples of 45°, of two of those that are mixed with none yet."""
    found = []
    for pair in itertools.combinations(alone.nonzero().flatten().tolist(), 2):
        for cos, sin in itertools.product((0.5**0.5, -(0.5**0.5)), repeat=2):
            rotation = torch.eye(len(alone))
            rotation[[[pair[0]], [pair[1]]], pair] = torch.tensor([[cos, -sin], [sin, cos]])
            found.append(rotation)
    return found


def _signed_orders(dim: int) -> list[Float[Tensor, "D D"]]:
    """All where there are few; otherwise single reversals and exchanges of two."""
    eye = torch.eye(dim)
    if dim <= _MOST_ORDERS:
        orders = itertools.permutations(range(dim))
        every = itertools.product(orders, itertools.product((1.0, -1.0), repeat=dim))
        return [torch.tensor(signs).unsqueeze(-1) * eye[list(order)] for order, signs in every][1:]
    found = [torch.diag(1 - 2 * eye[each]) for each in range(dim)]
    for one, other in itertools.combinations(range(dim), 2):
        for signs in itertools.product((1.0, -1.0), repeat=2):
            exchanged = eye.clone()
            exchanged[one], exchanged[other] = signs[0] * eye[other], signs[1] * eye[one]
            found.append(exchanged)
    return found
