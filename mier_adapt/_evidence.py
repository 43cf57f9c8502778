"""A task's transitions as evidence for and against changes: search, gradients, held-out losses."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mier_adapt._familiarity import Familiarity
from mier_adapt._typing import Bool, Float, Int, Tensor
from mier_adapt.changes import Actuators, Change, ChangedModel, Together
from mier_adapt.protocols import TaskModel
from mier_adapt.transitions import Transitions

NOTHING = Together()
"""The change that is none."""

SOFT = 5.0
"""Loss above the known tasks' at which a transition begins to count less."""
_HELD_OUT = 0.2
"""Share of the transitions that judges."""
_SEARCHED, _FITTED = 128, 192
"""Transitions on which alternatives are compared, and on which gradients are taken."""
_BEAM = 3
"""Alternatives that are kept while others are tried."""
_WORTH, _WORTH_KEEPING = 0.15, 0.1
"""Loss that a parameter has to save to be moved, and to stay so once it is fitted."""
_STEPS, _LR, _SHRINKAGE = 80, 0.05, 0.02
"""Adam's on a change's parameters, and the weight of their squared distance from the start."""
_HALVED = (20, 40)
"""Steps at which the worse half of what they started from is given up."""
_MANY = 200
"""Parameters from which on a third of the step size is taken: a residual's."""
_STILL_FAMILIAR = 0.5
"""Mean familiarity that a change of sensors has to leave to observations that look familiar."""
_CHUNK = 20_000
"""Transitions that a model predicts at once."""


@dataclass(eq=False)
class Evidence:
    """The transitions of one task, split into those that fit changes and those that judge them."""

    model: TaskModel
    """Of the known tasks."""
    contexts: Float[Tensor, "K C"]
    """Theirs."""
    transitions: Transitions
    """Shape ``(B, ...)``, in order."""
    started: Bool[Tensor, " B"]
    """Where an episode starts."""
    floor: float
    """Loss from which on losses grow with their logarithm."""
    familiar: Familiarity | None
    """With the known tasks; where it is not known, all transitions count alike."""
    generator: torch.Generator | None
    """Draws the split."""
    weights: Float[Tensor, " B"] = field(init=False)
    """How much each transition counts, up to 1; see :class:`Familiarity`."""
    gradients: bool = field(init=False)
    """Whether the model's loss can be differentiated by the transitions."""
    train: Int[Tensor, " N"] = field(init=False)
    held_out: Int[Tensor, " M"] = field(init=False)
    _searches: dict[int, tuple[Tensor, Tensor]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        order = torch.randperm(len(self.transitions), generator=self.generator)
        count = max(1, round(_HELD_OUT * len(order)))
        order = order.to(self.contexts.device)
        self.held_out, self.train = order[:count], order[count:]
        self.weights = torch.ones_like(self.transitions.rew)
        if self.familiar is not None:
            self.weights = self.familiar(self.transitions.obs)
        # The most familiar first: the first few are what is fitted to.
        self.train = self.train[self.weights[self.train].argsort(descending=True, stable=True)]
        self.gradients = self._gradients()

    def estranges(self, change: Change, parameters: Float[Tensor, " P"]) -> bool:
        """Whether what looks familiar would, by a change of sensors, not have been.

        An offset makes a pose in which the robot lies look like one in which it stood, and is right
        nowhere else.
        """
        seen = self.transitions.obs[self.weights == 1]
        was = change.restored(parameters, seen)
        if self.familiar is None or not len(seen) or torch.equal(was, seen):
            return False
        return bool(self.familiar(was).mean() < _STILL_FAMILIAR)

    def _gradients(self) -> bool:
        some = self.transitions[:2]
        act = some.act.clone().requires_grad_()
        try:
            loss = self.model.loss(dataclasses.replace(some, act=act), self.contexts[0])
        except RuntimeError:  # as torch says of a tensor that is to become an array
            return False
        return loss.requires_grad

    def of(self, change: Change, rows: Tensor) -> Transitions:
        """Some of the transitions, their actions as late as a change supposes."""
        if not change.lag:
            return self.transitions[rows]
        act = self.transitions.act
        for _ in range(change.lag):
            act = torch.where(self.started.unsqueeze(-1), 0.0, act.roll(1, 0))
        return dataclasses.replace(self.transitions, act=act)[rows]

    # Losses -----------------------------------------------------------------------------------

    def losses(
        self,
        change: Change,
        parameters: Float[Tensor, "N P"],
        contexts: Tensor,
        some: Transitions,
    ) -> Float[Tensor, "N B"]:
        """Of these transitions, one by one, for N sets of parameters under a context for each."""
        many = some._map(lambda each: each.expand(len(parameters), *each.shape))
        changed = ChangedModel(self.model, change, parameters)
        return softened(changed.losses(many, contexts), self.floor)

    @torch.no_grad()
    def losses_in(
        self, rows: Tensor, change: Change, parameters: Float[Tensor, " P"], task: int
    ) -> Float[Tensor, " M"]:
        """Of the transitions in these rows."""
        one = parameters.unsqueeze(0), self.contexts[[task]]
        return self.losses(change, *one, self.of(change, rows))[0]

    @torch.no_grad()
    def scores(
        self,
        change: Change,
        parameters: Float[Tensor, "N P"],
        tasks: Int[Tensor, " N"],
        rows: Tensor,
    ) -> Float[Tensor, " N"]:
        """Mean loss, and what moved parameters cost."""
        size, judged = max(1, _CHUNK // len(rows)), self.of(change, rows)
        found = [
            self._mean(self.losses(change, some, self.contexts[of], judged), rows)
            for some, of in zip(
                torch.split(parameters, size), torch.split(tasks, size), strict=True
            )
        ]
        return torch.cat(found) + _WORTH * change.moved(parameters)

    def _mean(self, losses: Float[Tensor, "N B"], rows: Tensor) -> Float[Tensor, " N"]:
        """Of the transitions in these rows."""
        return losses @ (self.weights[rows] / self.weights[rows].sum())

    # Fitting ----------------------------------------------------------------------------------

    def fit(self, change: Change) -> tuple[Float[Tensor, " P"], int]:
        """A change's best parameters, and which known task it makes of the new one."""
        rows = self.train[:_FITTED]
        parameters, tasks = self.search(change)
        trained = bool(change.free(change.identity()).any())
        if trained:
            # Signs and orders may have been misled by what only gradients find.
            none, task = change.identity().to(parameters), self.search(NOTHING)[1][:1]
            if not ((parameters == none).all(-1) & (tasks == task)).any():
                parameters = torch.cat((none.unsqueeze(0), parameters))
                tasks = torch.cat((task, tasks))
        found, known_task = self.descend(change, parameters, tasks, rows)
        if trained and len(others := self._better(change, found, known_task)):
            tasks = tasks.new_tensor([known_task])
            again, _ = self.descend(change, others, tasks.expand(len(others)), rows)
            return self._best(change, torch.stack((found, again)), tasks.expand(2))
        return found, known_task

    @torch.no_grad()
    def _better(
        self, change: Change, parameters: Float[Tensor, " P"], task: int
    ) -> Float[Tensor, "N P"]:
        """The best few of a change's alternatives that do better than these parameters."""
        rows = self.train[:_SEARCHED]
        each = torch.cat((parameters.unsqueeze(0), change.alternatives(parameters)))
        scores = self.scores(change, each, rows.new_tensor([task]).expand(len(each)), rows)
        best = scores.argsort(stable=True)[:_BEAM]
        return each[best[scores[best] < scores[0]]]

    def search(self, change: Change) -> tuple[Float[Tensor, "N P"], Int[Tensor, " N"]]:
        """The most promising parameters and known tasks: a beam through a change's alternatives."""
        if id(change) in self._searches:
            return self._searches[id(change)]
        if isinstance(change, Together) and len(change.changes) > 1:
            # From what the first part's search has found already.
            parameters, tasks = self.search(change.changes[0])
            others = change.identity().to(parameters)[parameters.shape[-1] :]
            parameters = torch.cat((parameters, others.expand(len(parameters), -1)), -1)
        else:
            tasks = torch.arange(len(self.contexts), device=self.contexts.device)
            parameters = change.identity().to(self.contexts).expand(len(tasks), -1)
        rows = self.train[:_SEARCHED]
        scores = self.scores(change, parameters, tasks, rows)
        tried = {
            (task, *own.tolist()) for own, task in zip(parameters, tasks.tolist(), strict=True)
        }
        best = scores.argsort()[:_BEAM]
        parameters, tasks, scores = parameters[best], tasks[best], scores[best]
        while True:
            candidates = {
                (task, *other.tolist()): other
                for own, task in zip(parameters, tasks.tolist(), strict=True)
                for other in change.alternatives(own)
            }
            candidates = {key: other for key, other in candidates.items() if key not in tried}
            if not candidates:
                break
            tried |= candidates.keys()
            others = torch.stack(list(candidates.values()))
            of = tasks.new_tensor([key[0] for key in candidates])
            found = self.scores(change, others, of, rows)
            better = bool(found.min() < scores[0])
            best = torch.cat((scores, found)).argsort()[:_BEAM]
            parameters, tasks = torch.cat((parameters, others))[best], torch.cat((tasks, of))[best]
            scores = torch.cat((scores, found))[best]
            if not better:
                break
        self._searches[id(change)] = parameters, tasks
        return parameters, tasks

    def descend(
        self, change: Change, start: Float[Tensor, "N P"], tasks: Int[Tensor, " N"], rows: Tensor
    ) -> tuple[Float[Tensor, " P"], int]:
        """The best of what gradients lead to from these parameters, and its known task.

        The worse half is given up twice on the way.

        Raises:
            TypeError: If the model's loss has no gradient.
        """
        free = change.free(start)
        if not bool(free.any()):
            return self._best(change, start, tasks)
        if not self.gradients:
            raise TypeError(
                f"diagnose expected a model whose loss torch can differentiate by transitions, to "
                f"fit {change.name!r}, got one with no graph. Have it compute in torch, or give "
                "only changes that are not trained."
            )
        some = self.of(change, rows)
        each = [one.clone().requires_grad_() for one in start]  # Adam's state is each one's own
        left = torch.arange(len(each), device=start.device)
        lr = _LR if start.shape[-1] < _MANY else _LR / 3
        optimizer = torch.optim.Adam(each)
        for step in range(_STEPS):
            theta = torch.stack([each[number] for number in left])
            if step in _HALVED and len(left) > 1:
                better = self.scores(change, theta, tasks[left], self.train).argsort()
                better = better[: (len(left) + 1) // 2]
                left, theta = left[better], theta[better]
            optimizer.zero_grad()  # of those given up, which stay
            optimizer.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - step / _STEPS))
            loss = self._mean(self.losses(change, theta, self.contexts[tasks[left]], some), rows)
            loss = loss + _SHRINKAGE * (theta - start[left]).square().sum(-1)
            (grad,) = torch.autograd.grad(loss.sum(), theta)
            for number, own in zip(left, grad * free[left], strict=True):
                each[number].grad = own
            optimizer.step()
        theta = torch.stack([each[number] for number in left]).detach()
        return self._best(change, theta, tasks[left])

    def _best(
        self, change: Change, parameters: Float[Tensor, "N P"], tasks: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, " P"], int]:
        best = 0
        if len(parameters) > 1:
            best = int(self.scores(change, parameters, tasks, self.train).argmin())
        return parameters[best], int(tasks[best])

    def polished(
        self, change: Change, parameters: Float[Tensor, " P"], task: int
    ) -> Float[Tensor, " P"]:
        """Fitted to all of the transitions, at simple values where these do as well.

        What does not save what it costs is as it was.
        """
        rows = torch.cat((self.train, self.held_out))
        task_of = rows.new_tensor([task])
        exact, _ = self.descend(change, parameters.unsqueeze(0), task_of, rows)
        both = torch.stack((exact, change.rounded(exact)))
        scores = self.scores(change, both, task_of.expand(2), rows)
        best = int(scores[1] <= scores[0])
        found, score = both[best], scores[best]
        if len(found) >= _MANY:
            return found
        none, free = change.identity().to(found), change.free(found)
        while bool((moved := free & (found != none)).any()):
            alone = torch.diag(moved)[moved]  # each of them, in a row of its own
            without = torch.where(alone, none, found)
            scores = self.scores(change, without, task_of.expand(len(without)), rows)
            if not scores.min() + _WORTH < score + _WORTH_KEEPING:
                break
            found, score = without[scores.argmin()], scores.min()
        return found

    def flattery(self, changes: Sequence[Change]) -> tuple[list[float], float]:
        """What each change wins over none where nothing changed, and the loss of none."""
        none = self.losses_in(self.held_out, NOTHING, NOTHING.identity(), 0)
        rows = self.train[:_FITTED]
        won = []
        for change in changes:
            start = change.identity().to(self.contexts).unsqueeze(0)
            parameters, _ = self.descend(change, start, rows.new_zeros(1), rows)
            fitted = self.losses_in(self.held_out, change, parameters, 0)
            won.append(max(0.0, float((none - fitted).mean())))
        return won, float(none.mean())

    def gain_errors(
        self, change: Change, parameters: Float[Tensor, " P"], context: Float[Tensor, " C"]
    ) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
        """Gains of all motors on top of a change, and their standard errors: one Newton step.

        By the sandwich of the losses' curvature and the spread of their gradients, since the model
        need not be true (White 1982, Maximum likelihood estimation of misspecified models).
        Infinite where the model's loss has no gradient.
        """
        dim = self.model.act_dim
        gains = Actuators(dim, "gains")
        probe = Together(change, gains)
        rows = torch.cat((self.train, self.held_out))
        some, weights = self.of(probe, rows), self.weights[rows] / self.weights[rows].mean()
        one = torch.ones(dim, device=context.device, dtype=context.dtype)
        if not self.gradients:
            return one, torch.full_like(one, torch.inf)

        def probed(each: Tensor) -> Tensor:  # (N, A) -> (N, P + A)
            return torch.cat((parameters.expand(len(each), -1), each), -1)

        each = one.repeat(len(some), 1).requires_grad_()  # for each transition, gains of its own
        changed = ChangedModel(self.model, probe, probed(each))
        alone = some._map(lambda value: value.unsqueeze(1))
        every = softened(changed.losses(alone, context.expand(len(some), -1)), self.floor)
        (scores,) = torch.autograd.grad(every.squeeze(-1) @ weights, each)
        hessian = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
            lambda each: self._mean(
                self.losses(probe, probed(each.unsqueeze(0)), context.unsqueeze(0), some), rows
            ).sum(),
            one,
        )
        values, vectors = torch.linalg.eigh(hessian)
        flat = values <= 1e-4 * values.abs().max().clamp_min(1e-12)
        inverse = vectors / torch.where(flat, torch.ones_like(values), values) @ vectors.mT
        unknown = (vectors.square() * flat).sum(-1) > 0.01
        step = -inverse @ scores.mean(0)
        spread = scores.mT @ scores / len(some)
        errors = (inverse @ spread @ inverse / len(some)).diagonal().clamp_min(0).sqrt()
        return 1 + step, torch.where(unknown, torch.inf, errors)

    @torch.no_grad()
    def signs_told(
        self, change: Change, parameters: Float[Tensor, " P"], task: int
    ) -> Bool[Tensor, " A"]:
        """Of which motors it would be noticed, if they did the opposite of what a change says."""
        dim = self.model.act_dim
        signs = Actuators(dim, "signs")
        probe = Together(change, signs)
        one = signs.identity().to(parameters)
        each = torch.cat((one.unsqueeze(0), one - 2 * torch.diag(one)))
        each = torch.cat((parameters.expand(len(each), -1), each), -1)
        rows = torch.cat((self.train, self.held_out))
        of = self.contexts[[task]].expand(len(each), -1)
        found = self._mean(self.losses(probe, each, of, self.of(probe, rows)), rows)
        return found[1:] >= found[0] + _WORTH


def softened(losses: Tensor, floor: float) -> Tensor:
    """Losses that grow with their logarithm where they are far above a floor.

    A model that is too sure of itself gives single transitions, such as falls, losses of hundreds,
    in which all others would drown.
    """
    above = (losses - floor).clamp_min(0)
    return torch.where(losses > floor, floor + SOFT * torch.log1p(above / SOFT), losses)
