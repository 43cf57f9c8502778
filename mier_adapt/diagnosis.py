"""diagnose: which is the simplest hypothesis that explains what a new task shows?

Nothing changed, or a known task; a known task behind changed actuators or sensors, or a delay; a
new context; a linear residual; new weights. Each is fitted to the same transitions and judged on
others, and the simplest one wins that is not worse than the best.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mier_adapt._checks import NonNegative, Share, checked, require_tensor
from mier_adapt._evidence import NOTHING, Evidence, softened
from mier_adapt._familiarity import Familiarity
from mier_adapt._products import quick_products
from mier_adapt._score_test import score_test
from mier_adapt._typing import Float, Tensor
from mier_adapt._words import SHIFTED, Estimate, is_dead, motors_in_words, sensors_in_words
from mier_adapt.changes import (
    Actuators,
    Change,
    ChangedModel,
    Delay,
    LinearResidual,
    Sensors,
    Together,
)
from mier_adapt.compensation import Compensation
from mier_adapt.protocols import TaskModel
from mier_adapt.transitions import OneTask, Transitions

__all__ = ["Diagnosis", "diagnose"]

FEWEST = 10
"""Transitions with which anything can be told."""
_ERRORS = 2.0
"""Standard errors by which an explanation has to be worse to be given up."""
_AS_WELL, _MOST_LEFT = 3.0, 0.25
"""Loss beyond that of known tasks up to which a new one is explained, or the share of what is to be
explained that may be left: in states that known tasks rarely met, the model errs."""
_RARE = 1e-4
"""Probability of a mean error on the known task below which that is not it."""

_TOLD, _MANY_NUMBERS, _LAST = 3, 5, 6
"""Levels of the last changes that the mean error tells from others, of those with a number for each
pair of motors or more, and of what is no change."""
_BY_SIGNS = 0.5
"""Share of what is to be explained from which on signs or orders win over many numbers, and of the
mean error from which on they are told."""
_STILL = 1e-3
"""Standard deviation of a motor's commands below which nothing can be told of it."""

_DYNAMICS = (
    "something in the dynamics changed that is no matter of actuators or sensors (masses, "
    "friction or the like)"
)

Fitter = Callable[[Transitions], tuple[TaskModel, Tensor]]
"""Fits another hypothesis to some transitions ``(B, ...)``: a model and the context that it has."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """One hypothesis, as well as it can be made to explain the transitions."""

    name: str
    """What it supposes."""
    model: TaskModel
    """Predicts the new task by it."""
    context: Float[Tensor, " C"]
    """Under which the model does."""
    change: Change
    """What stands between the known task and the new one."""
    parameters: Float[Tensor, " P"]
    """The change's."""
    level: int
    """How simple it is; see :class:`.Change`."""
    known_task: int | None
    """Which of the known tasks' contexts it is; None for a new one."""
    losses: Float[Tensor, " M"]
    """Of the held-out transitions, in the units of the model's; softened, see
    :func:`mier_adapt.diagnose`."""
    weights: Float[Tensor, " M"]
    """How much each counts: 1 where known tasks have been, less elsewhere."""
    everywhere: tuple[Float[Tensor, " B"], Float[Tensor, " B"]] | None = None
    """Losses and weights of all transitions, where these judge."""
    worse: float = 0.0
    """Than the best explanation, in the mean over held-out transitions."""
    worse_error: float = 0.0
    """Standard error of that."""

    @property
    def loss(self) -> float:
        """Mean of :attr:`losses`, by their weights."""
        return float(self.losses @ self.weights / self.weights.sum())

    def judged_by_all(self) -> "Explanation":
        """The same, by its losses :attr:`everywhere`."""
        assert self.everywhere is not None
        losses, weights = self.everywhere
        return dataclasses.replace(self, losses=losses, weights=weights)


def default_changes(model: TaskModel, transitions: Transitions) -> list[Change]:
    """What may have happened to a robot, the simplest first.

    Args:
        model: Of the known tasks.
        transitions: Of these or the new one, ``(B, ...)``; they say how much each dimension varies.
    """
    obs_dim, act_dim = model.obs_dim, model.act_dim
    inputs = torch.cat((transitions.obs, transitions.act), -1)
    targets = torch.cat((transitions.rew.unsqueeze(-1), transitions.obs_next - transitions.obs), -1)
    spread = [getattr(model, f"{name}_std", None) for name in ("input", "target")]
    input_std, target_std = (
        _positive_std(values) if known is None or len(known) != values.shape[-1] else known
        for known, values in zip(spread, (inputs, targets), strict=True)
    )
    order = Actuators(act_dim, "order")
    gains, offset = Actuators(act_dim, "gains"), Actuators(act_dim, "offset")
    scale = input_std[:obs_dim]
    found: list[Change] = [
        Actuators(act_dim, "signs"),
        order,
        Together(order, Actuators(act_dim, "gain")),
        Actuators(act_dim, "mixture"),
        Together(order, gains),
        offset,
        Together(order, gains, offset),
        Delay(),
    ]
    if model.varies != "reward":
        found += [
            Sensors(obs_dim, "signs", sparse=True),
            Sensors(obs_dim, "offset", sparse=True, scale=scale),
            Sensors(obs_dim, "gains", sparse=True),
            Sensors(obs_dim, "order", sparse=True),
        ]
    found.append(Actuators(act_dim, "affine"))
    if model.varies != "reward":
        found.append(LinearResidual(inputs.mean(0), input_std, target_std))
    return found


def _positive_std(values: Tensor) -> Tensor:
    std = values.std(0)
    return torch.where(std > 0, std, torch.ones_like(std))


@dataclass(frozen=True, eq=False, kw_only=True)
class Diagnosis:
    """What changed, by the simplest hypothesis that explains it.

    ``print(diagnosis)`` says it in words, with the hypotheses in a table.
    """

    explanations: tuple[Explanation, ...]
    """All that were tried, the simplest first."""
    chosen: Explanation
    """The simplest one that is not worse than the best; fitted to all of the transitions."""
    known_loss: float | None
    """Mean loss of known tasks' transitions, where such were given."""
    gains: tuple[Estimate, ...]
    """What each motor executes, in units of what the chosen explanation says of it: around 1. One
    whose sign the model does not tell has an infinite error."""
    sentences: tuple[str, ...]
    """What changed, in words."""
    compensation: Compensation | None
    """What undoes it in front of a policy of the known task, which :attr:`Explanation.context` of
    the chosen explanation tells from others; None where no map of actions and observations does."""
    p_value: float | None = None
    """Probability that a known task's mean error is as large as that of "nothing changed", where
    that is chosen; see ``same_policy`` of :func:`mier_adapt.diagnose`. None if not asked."""

    @property
    def changed(self) -> bool:
        """Whether anything did: whether this is none of the known tasks."""
        known = self.chosen.known_task is not None and self.chosen.change is NOTHING
        return not known or _is_rare(self.p_value)

    @property
    def explained(self) -> bool:
        """Whether the chosen explanation does about as well as the model does in known tasks."""
        if self.known_loss is None:
            return True
        to_explain = self.explanations[0].loss - self.known_loss
        return self.chosen.loss < self.known_loss + max(_AS_WELL, _MOST_LEFT * to_explain)

    def __str__(self) -> str:
        width = max(len(each.name) for each in self.explanations)
        lines = [*(f"{each}." for each in self.sentences), f"{'':{width}}      loss  worse by"]
        for each in self.explanations:
            mark = "*" if each.name == self.chosen.name else " "
            worse = f"{each.worse:5.2f} ± {each.worse_error:.2f}"
            lines.append(f"{each.name:{width}} {mark} {each.loss:7.2f}  {worse}")
        if self.known_loss is not None:
            lines.append(f"loss in known tasks: {self.known_loss:.2f}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        numbers = ("name", "loss", "worse", "worse_error")
        return {
            "sentences": list(self.sentences),
            "chosen": self.chosen.name,
            "changed": self.changed,
            "p_value": self.p_value,
            "known_task": self.chosen.known_task,
            "parameters": self.chosen.parameters.tolist(),
            "explained": self.explained,
            "known_loss": self.known_loss,
            "compensation": None if self.compensation is None else self.compensation.to_dict(),
            "gains": [list(each) if math.isfinite(each.error) else None for each in self.gains],
            "explanations": [
                {name: getattr(each, name) for name in numbers} for each in self.explanations
            ],
        }


@checked
@torch.inference_mode(False)  # also where the caller evaluates in it
@quick_products()
def diagnose(
    model: TaskModel,
    transitions: OneTask,
    *,
    contexts: Float[Tensor, "K C"] | None = None,
    known: Transitions | None = None,
    changes: Sequence[Change] | None = None,
    others: Mapping[str, Fitter] | None = None,
    names: Sequence[str] = (),
    margin: NonNegative = 0.5,
    share: Share = 0.15,
    same_policy: bool = False,
    generator: torch.Generator | None = None,
) -> Diagnosis:
    """Find the simplest hypothesis that explains a new task's transitions.

    Every change is fitted to 80% of them behind every known task at once: signs and orders by
    trying, the rest by gradients from the most promising. On the other 20% hypotheses are compared
    transition by transition. What one wins over "nothing changed" where indeed nothing did, on a
    known task's transitions, is taken off what it wins here. The simplest is chosen of those that
    explain as well as the model explains known tasks, or as the best one does, but for ``margin``
    or ``share``, or two standard errors; where something changed, half of it is left at most, and
    it did where "nothing changed" is more than 3 units above known tasks. Of those as simple the
    first is taken that is not worse by two standard errors: motors come before sensors, and signs
    before orders. Of signs, orders and mixtures of two motors all transitions judge, and may refute
    that nothing changed. Before one with many numbers come signs or orders that explain half as
    much.

    Other masses, friction or gravity may move each step by less than the model errs, but all of
    them the same way, or by a share of something. So with ``same_policy``, and 1,000 transitions of
    each known task, or 20 times as many as are new, the mean error is asked where "nothing changed"
    comes within 3 units of the loss in known tasks. Where it refutes that, a change of motors or
    sensors has to leave no more than a quarter of it, signs or orders half: the chosen one, or the
    simplest; where none does, something in the dynamics changed. Of more new ones, the latest are
    asked, a twentieth as many as are known.

    What the model predicts far from where known tasks have been counts less, by the distance of an
    observation to their nearest one: a robot that has fallen tells little of why it fell. Sensors
    that changed have to have shown familiar observations wherever familiar ones are shown now.

    Losses are softened: above the known tasks' median they grow with their logarithm, since a model
    that is too sure of itself gives single transitions, such as falls, losses of hundreds.

    Args:
        model: Of the known tasks, fitted to them already.
        transitions: The new task's, ``(B, ...)``, in the order in which they were gathered, by
            which a delay is told; an episode starts where an observation is not the next one of
            the transition before.
        contexts: The known tasks', ``(K, C)``; by default the model's initial one alone.
        known: Transitions of each known task, ``(K, B', ...)``, best such as the policy meets now.
        changes: What may have happened, the simplest first; by default those of
            ``mier_adapt.changes``, of which a model without gradients gets those that are only
            tried.
        others: Hypotheses that are less simple than all changes, by name: functions that fit them
            to the training part. A new context, new weights.
        names: What sentences call the known tasks; where there are several, their numbers, from 0.
        margin: In units of the model's loss; half a unit is a quarter of a standard deviation.
        share: Of what the best explanation wins over none; the simpler one may leave so much of it.
            In states that the known tasks rarely met a model errs, and flexible hypotheses mend
            that, too.
        same_policy: Whether the policy that gathered ``transitions`` gathered ``known``, too, in
            order. In states of another one, a model's mean error is another.
        generator: Draws the split; torch's global one when ``None``.

    Raises:
        ValueError: If there are fewer than 10 transitions, or shapes do not fit.
        TypeError: If the model's loss cannot be differentiated by the transitions, and one of
            ``changes`` has parameters that only gradients find.

    Source:
        Ours. Mendonca et al. (2020), arXiv:2006.07178, identify a context alone.
    """
    if len(transitions) < FEWEST:
        raise ValueError(
            f"diagnose expected at least {FEWEST} transitions, a fifth of which are held out, got "
            f"{len(transitions)}. Gather more."
        )
    if contexts is None:
        contexts = model.initial_context.detach().unsqueeze(0)
    require_tensor("diagnose", "contexts", contexts, (*contexts.shape[:1], model.context_dim))
    others = others or {}
    if wrong := [name for name, fitter in others.items() if not callable(fitter)]:
        raise TypeError(f"diagnose expected others to be functions, got none for {wrong}.")
    if names and len(names) != len(contexts):
        raise ValueError(
            f"diagnose expected one of names for each of {len(contexts)} known tasks, got {names}."
        )
    if len(contexts) > 1:
        names = names or [f"number {task}" for task in range(len(contexts))]
    transitions = transitions.detach()

    follows = transitions.follows
    first = torch.cat((torch.ones_like(follows[:1]), ~follows))
    floor, familiar = 0.0, None
    if known is not None:
        if known.rew.ndim != 2 or len(known) != len(contexts):
            raise ValueError(
                f"diagnose expected known to hold as many transitions of each of {len(contexts)} "
                f"known tasks, (K, B, ...), got rewards of shape {tuple(known.rew.shape)}."
            )
        alone = ChangedModel(model, NOTHING, contexts[:, :0])
        with torch.no_grad():
            floor = float(alone.losses(known, contexts).median())
        familiar = Familiarity(known.obs, len(transitions))
    evidence = Evidence(model, contexts, transitions, first, floor, familiar, generator)
    if changes is None:
        possible = default_changes(model, transitions)
        changes = [each for each in possible if evidence.gradients or not each.trained]
    found, known_loss = _explanations(evidence, [NOTHING, *changes], known)
    found += [_explanation(name, fitter, evidence) for name, fitter in others.items()]
    best = min(found, key=lambda each: each.loss)
    found = [_compared(each, best) for each in found]
    chosen = _polished(_simplest(found, known_loss, margin, share), found[0], evidence)
    p_value = None
    small = known_loss is not None and found[0].loss <= known_loss + _AS_WELL
    if same_policy and small and known is not None and evidence.gradients:
        left, p_value = _in_the_mean(chosen, found, known, transitions)
        chosen = left if left is chosen else _polished(left, found[0], evidence)
    gains: tuple[Estimate, ...] = ()
    untold: list[int] = []
    if chosen.known_task is not None:
        values, errors = evidence.gain_errors(chosen.change, chosen.parameters, chosen.context)
        signed = evidence.signs_told(chosen.change, chosen.parameters, chosen.known_task)
        errors = torch.where(signed, errors, torch.inf)
        gains = tuple(map(Estimate, values.tolist(), errors.tolist()))
        untold = (~signed).nonzero().flatten().tolist()
    change, parameters = chosen.change, chosen.parameters
    motors = affine(functools.partial(change.executed, parameters), transitions.act)
    sensors = affine(functools.partial(change.restored, parameters), transitions.obs)
    undone = None if _is_rare(p_value) else _compensation(chosen, motors, sensors, transitions)
    return Diagnosis(
        explanations=tuple(found),
        chosen=chosen,
        known_loss=known_loss,
        gains=gains,
        sentences=_sentences(chosen, motors, sensors, gains, untold, transitions, names, p_value),
        compensation=undone,
        p_value=p_value,
    )


def _explanations(
    evidence: Evidence, changes: Sequence[Change], known: Transitions | None
) -> tuple[list[Explanation], float | None]:
    """What each change explains, less what it wins in a known task; the loss of none in that."""
    fits = [(each, *evidence.fit(each)) for each in changes]
    every = torch.arange(len(evidence.weights), device=evidence.held_out.device)
    losses, everywhere = [], []
    for fit in fits:
        judged = fits[0] if evidence.estranges(*fit[:2]) else fit
        of_all = evidence.losses_in(every, *judged) if _judged_by_all(fit[0]) else None
        held_out = evidence.held_out
        losses.append(evidence.losses_in(held_out, *judged) if of_all is None else of_all[held_out])
        everywhere.append(of_all)
    weights = evidence.weights[evidence.held_out]
    flattery: list[float] = [0.0] * len(fits)
    known_loss = None
    if known is not None:
        task = fits[min(range(len(fits)), key=lambda each: float(losses[each] @ weights))][2]
        same = known[task][-len(evidence.transitions) :]
        unbroken = torch.zeros_like(same.terminated)
        contexts, generator = evidence.contexts[[task]], evidence.generator
        control = Evidence(
            evidence.model, contexts, same, unbroken, evidence.floor, None, generator
        )
        flattery, known_loss = control.flattery(changes)
    found = []
    for number, (change, parameters, task) in enumerate(fits):
        model, won, of_all = evidence.model, flattery[number], everywhere[number]
        if change is not NOTHING:
            model = ChangedModel(model, change, parameters)
        found.append(
            Explanation(
                name=change.name or "nothing changed",
                model=model,
                context=evidence.contexts[task],
                change=change,
                parameters=parameters,
                level=change.level,
                known_task=task,
                losses=losses[number] + won,
                weights=weights,
                everywhere=None if of_all is None else (of_all, evidence.weights),
            )
        )
    return found, known_loss


def _explanation(name: str, fitter: Fitter, evidence: Evidence) -> Explanation:
    """What a hypothesis explains that is no change of a known task."""
    model, context = fitter(evidence.transitions[evidence.train])
    alone = ChangedModel(model, NOTHING, context[:0].unsqueeze(0))
    judged = evidence.transitions[evidence.held_out]._map(lambda each: each.unsqueeze(0))
    with torch.no_grad():
        (losses,) = alone.losses(judged, context.unsqueeze(0))
    return Explanation(
        name=name,
        model=model,
        context=context,
        change=NOTHING,
        parameters=NOTHING.identity(),
        level=_LAST,
        known_task=None,
        losses=softened(losses, evidence.floor),
        weights=evidence.weights[evidence.held_out],
    )


def _simplest(
    found: Sequence[Explanation],
    known_loss: float | None,
    margin: float,
    share: float,
) -> Explanation:
    """The first of the simplest ones that are not worse than the best of all."""
    known = -math.inf if known_loss is None else known_loss
    enough = max(min(each.loss for each in found), known)
    none = found[0]
    missing = none.loss - enough
    if -math.inf < known < none.loss - _AS_WELL:
        # Something changed, however few transitions tell what, if any hypothesis does.
        found = [each for each in found if each.loss < none.loss] or found

    def good(left: float) -> list[Explanation]:
        return [each for each in found if each.loss <= enough + left or _as_good(each)]

    left = max(margin, share * missing)
    simple = good(left)
    if simple[0] is not none:  # something changed: how much of it may be left?
        simple = good(min(left, missing / 2))
    else:
        simple = _refuting(none, found, left) or simple
    level = min(each.level for each in simple)
    simple = [each for each in simple if each.level == level]
    if level < _MANY_NUMBERS:
        return _first_as_good(simple, found, share * missing)
    # Signs and orders have no numbers that could be fitted to what the model does not know.
    most = none.loss - _BY_SIGNS * missing
    signs = [each for each in found if each.level == 1 and each.loss < most]
    if not signs:
        return min(simple, key=lambda each: each.loss)
    return _first_as_good(signs, found, share * missing)


def _judged_by_all(change: Change) -> bool:
    """Whether no transition was fitted to, or hardly: a mixture of two motors has four numbers."""
    mixes = isinstance(change, Actuators) and change.structure == "mixture"
    return not change.trained or mixes


def _refuting(none: Explanation, found: Sequence[Explanation], left: float) -> list[Explanation]:
    """What, by all transitions, "nothing changed" leaves more than that of."""
    judged = [each for each in found if each.everywhere and each is not none]
    compared = [_compared(none.judged_by_all(), each.judged_by_all()) for each in judged]
    return [
        each
        for each, worse in zip(judged, compared, strict=True)
        if worse.worse > left and not _as_good(worse)
    ]


def _first_as_good(
    simple: Sequence[Explanation], found: Sequence[Explanation], left: float
) -> Explanation:
    """Of those as simple, the first that is not worse: motors before sensors, signs before orders.

    All transitions may tell an order from signs, and a mixture of motors from either, that leave
    more than ``left`` of what it explains.
    """
    best = min(simple, key=lambda each: each.loss)
    first = next(each for each in simple if _as_good(_compared(each, best)))
    mixed = [each for each in found if each.change.trained and _judged_by_all(each.change)]
    alike = [each for each in (*simple, *mixed) if type(each.change) is type(first.change)]
    if any(each.everywhere is None for each in alike):
        return first
    judged = {each.name: each.judged_by_all() for each in alike}
    best = min(alike, key=lambda each: judged[each.name].loss)
    compared = _compared(judged[first.name], judged[best.name])
    return first if compared.worse <= left or _as_good(compared) else best


def _as_good(compared: Explanation) -> bool:
    """Whether it is no worse than what it was compared with, but for chance."""
    return compared.worse <= _ERRORS * compared.worse_error


def _polished(one: Explanation, none: Explanation, evidence: Evidence) -> Explanation:
    """The same, fitted to all transitions, or none where nothing is left of it."""
    if one.change is NOTHING or one.known_task is None:
        return one
    change, new = one.change, evidence.transitions
    parameters = evidence.polished(change, one.parameters, one.known_task)
    added = change.residual(parameters, new.obs, new.act)
    same_act = torch.equal(change.executed(parameters, new.act), new.act)
    same_obs = torch.equal(change.restored(parameters, new.obs), new.obs)
    if same_act and same_obs and added is None and not change.lag:
        return none
    changed = ChangedModel(evidence.model, change, parameters)
    return dataclasses.replace(one, model=changed, parameters=parameters)


def _in_the_mean(
    chosen: Explanation, found: Sequence[Explanation], known: Transitions, new: Transitions
) -> tuple[Explanation, float | None]:
    """What the mean error leaves of a small change, and how probable it is where none is left.

    Where it refutes "nothing changed", a change of motors or sensors has to explain most of it: the
    chosen one, or the simplest. Where none does, something else changed.
    """
    none = found[0]
    assert none.known_task is not None
    if chosen.change.lag or not _is_interface(chosen, new):
        return chosen, None
    test = score_test(none.model, none.context, known[none.known_task], new)
    p_value = None if test is None else test.p_value
    if test is None or not _is_rare(p_value):
        return chosen, p_value if chosen is none else None
    others = sorted(found, key=lambda each: (each.level, each.loss))
    others = [each for each in others if each.level <= _TOLD and each.loss <= none.loss]
    for each in (chosen, *others):
        possible = each.known_task == none.known_task and _worth_a_word(each, new)
        most = 1 - _BY_SIGNS if each.level == 1 else _MOST_LEFT
        if possible and test.left(each.model) <= most:
            return each, None
    return none, p_value


def _is_interface(one: Explanation, new: Transitions) -> bool:
    """Whether it supposes the known task behind other motors or sensors, if anything."""
    if one.known_task is None:
        return False
    return one.change.residual(one.parameters, new.obs, new.act) is None


def _worth_a_word(one: Explanation, new: Transitions) -> bool:
    """Whether a change as it was fitted moves commands or observations by more than a little."""
    executed = one.change.executed(one.parameters, new.act) - new.act
    shown = one.change.restored(one.parameters, new.obs) - new.obs
    return bool(shown.any()) or bool(executed.abs().mean(0).max() >= SHIFTED)


def _is_rare(p_value: float | None) -> bool:
    return p_value is not None and p_value < _RARE


Affine = tuple[Tensor, Tensor]
"""``W`` and ``b``."""


def affine(function: Callable[[Tensor], Tensor], rows: Float[Tensor, "B D"]) -> Affine | None:
    """What a function of rows is, where on these it is affine."""
    offset = function(torch.zeros_like(rows[:1]))[0]
    matrix = (function(torch.eye(rows.shape[-1]).to(rows)) - offset).mT
    same = torch.allclose(rows @ matrix.mT + offset, function(rows), 1e-4, 1e-4)
    return (matrix, offset) if same else None


def _compensation(
    chosen: Explanation, motors: Affine | None, sensors: Affine | None, transitions: Transitions
) -> Compensation | None:
    """What undoes a change, where all that it does to these transitions is an affine map."""
    change = chosen.change
    added = change.residual(chosen.parameters, transitions.obs, transitions.act)
    late = change.lag or added is not None
    if chosen.known_task is None or late or motors is None or sensors is None:
        return None
    maps = [each.double().cpu().numpy() for each in (*motors, *sensors)]
    if not (maps[3].any() or (maps[2] != np.eye(len(maps[2]))).any()):
        maps = maps[:2]  # sensors are as they were
    return Compensation(*maps)


def _compared(one: Explanation, best: Explanation) -> Explanation:
    """The same, with how much worse it is than the best."""
    difference, weights = one.losses - best.losses, one.weights / one.weights.sum()
    worse = difference @ weights
    count = len(difference)
    error = ((difference - worse) * weights).norm() * math.sqrt(count / (count - 1))
    return dataclasses.replace(one, worse=float(worse), worse_error=float(error))


def _sentences(
    chosen: Explanation,
    motors: Affine | None,
    sensors: Affine | None,
    gains: tuple[Estimate, ...],
    untold: Sequence[int],
    transitions: Transitions,
    names: Sequence[str],
    p_value: float | None,
) -> tuple[str, ...]:
    """What changed, in words; ``untold`` are motors that may as well be reversed."""
    change, parameters = chosen.change, chosen.parameters
    said: list[str] = []
    moves = transitions.act.std(0) >= _STILL
    for number in (~moves).nonzero().flatten().tolist():
        said.append(f"not identifiable from these transitions: motor {number + 1} never moved")
    dead = torch.zeros_like(moves) if motors is None else is_dead(motors[0])
    if either := [str(each + 1) for each in untold if moves[each] and not dead[each]]:
        which = f"motors {', '.join(either)} are" if len(either) > 1 else f"motor {either[0]} is"
        said.append(f"not identifiable from these transitions: whether {which} reversed")
    if chosen.known_task is None:
        return (*said, f"{chosen.name} explain it, no change of actuators or sensors does")
    known = f"the known task {names[chosen.known_task]!r}" if names else ""
    if _is_rare(p_value):
        said.append(f"it is nearest to {known}" if known else "all steps are much as they were")
        return (*said, f"{_DYNAMICS}: their mean error is another (p = {p_value:.1g})")
    if change is NOTHING:
        return (*said, f"this is {known}" if known else "nothing changed")
    if known:
        said.append(f"it is nearest to {known}")
    parts = change.parts(parameters) if isinstance(change, Together) else [(change, parameters)]
    if motors is not None:
        said += motors_in_words(*motors, gains, untold)
    if sensors is not None:
        said += sensors_in_words(*sensors)
    if change.lag:
        said.append(f"actions arrive {change.lag} step late")
    if any(isinstance(each, LinearResidual) for each, _ in parts):
        said.append(_DYNAMICS)
    return tuple(said or [f"{change.name} explains it"])
