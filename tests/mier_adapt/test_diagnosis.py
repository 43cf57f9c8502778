"""A robot whose physics are known in closed form, behind changes that are known, too."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from mier_adapt import Transitions
from mier_adapt._evidence import NOTHING, Evidence
from mier_adapt._familiarity import Familiarity
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
from mier_adapt.diagnosis import Explanation, _compared, _simplest, diagnose

from .doubles import ClosedForm

OBS, ACT = 4, 3
PULL = torch.tensor([[0.5, 0.1, 0.0, -0.2], [0.0, 0.4, 0.2, 0.1], [-0.1, 0.0, 0.3, 0.3]])


class Robot(ClosedForm):
    """Pushes its state by known amounts, and curves; knows how sure it is."""

    obs_dim, act_dim, context_dim, std = OBS, ACT, 0, 0.01

    def mean(self, obs, act, context):
        pushed = act + 0.3 * act.square()
        return pushed.sum(-1), obs + pushed @ PULL + 0.3 * torch.sin(2 * obs)


def gathered(
    count=120, matrix=None, offset=0.0, gain=1.0, shift=0.0, delay=False, pull=0.0, still=()
):
    """Transitions of a robot that executes ``matrix act + offset``, shows ``gain obs + shift``."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(count, OBS, generator=generator)
    act = torch.rand(count, ACT, generator=generator) * 1.6 - 0.8
    act[:, list(still)] = 0.0
    executed = act if matrix is None else act @ torch.as_tensor(matrix).float().T
    executed = (executed + torch.as_tensor(offset)).clamp(-1, 1)
    noise = 0.01 * torch.randn(count, OBS, generator=generator)
    if delay:
        executed = torch.cat((torch.zeros(1, ACT), executed[:-1]))
        for step in range(count - 1):  # one episode, by which alone a delay is told
            state[step + 1] = Robot().mean(state[step], executed[step], None)[1] + noise[step]
    rew, after = Robot().mean(state, executed, torch.zeros(0))
    after = after + pull * state + noise
    rew = rew + 0.01 * torch.randn(count, generator=generator)
    shown = [torch.as_tensor(gain) * each + torch.as_tensor(shift) for each in (state, after)]
    return Transitions(shown[0], act, rew, shown[1], torch.zeros(count, dtype=torch.bool))


def found(transitions):
    return diagnose(
        Robot(),
        transitions,
        known=gathered()._map(lambda each: each.unsqueeze(0)),
        generator=torch.Generator().manual_seed(0),
    )


def test_nothing_changed() -> None:
    diagnosis = found(gathered())
    assert diagnosis.sentences == ("nothing changed",)
    assert diagnosis.explained


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"matrix": np.diag([1, -1, 1])}, "motor 2 is reversed (gain -1.0"),
        ({"matrix": np.eye(ACT)[[2, 1, 0]]}, "motor 1 follows what is meant for motor 3"),
        (
            {"matrix": 0.6 * np.eye(ACT)},
            "all motors are at 0.60 of their strength, or all that they move is 1.67 times as",
        ),
        ({"matrix": np.diag([1, 1, 0.4])}, "motor 3 is at 0.40 of its strength"),
        ({"matrix": np.diag([0, 1, 1])}, "motor 1 is dead"),
        ({"offset": (0.2, 0.0, -0.1)}, "motor 1 is shifted by +0.2"),
        ({"gain": (1, 1, -1, 1)}, "sensor 3 is reversed"),
        ({"shift": (0, 0.5, 0, 0)}, "sensor 2 is shifted by +0."),
        ({"delay": True}, "actions arrive 1 step late"),
        ({"pull": 0.3}, "something in the dynamics changed"),
    ],
)
def test_what_changed_is_said(changed, said) -> None:
    diagnosis = found(gathered(**changed))
    assert any(each.startswith(said) for each in diagnosis.sentences), str(diagnosis)
    assert said in str(diagnosis)
    assert len(diagnosis.to_dict()["explanations"]) == len(diagnosis.explanations)


@pytest.mark.parametrize(("count", "degrees"), [(15, 55), (40, 35), (40, 125), (120, 35)])
def test_two_motors_that_are_mixed_are_told_by_their_four_numbers(count, degrees) -> None:
    matrix = np.eye(ACT)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[np.ix_([0, 2], [0, 2])] = [[cos, -sin], [sin, cos]]
    diagnosis = found(gathered(count, matrix))
    assert diagnosis.chosen.name == "actuators mixture"
    assert diagnosis.explained
    assert diagnosis.sentences[0].startswith("motor 1 executes a mixture, ")
    assert diagnosis.sentences[1].endswith("the others are as they were")
    assert diagnosis.compensation is not None
    np.testing.assert_allclose(diagnosis.compensation.act_matrix, matrix, atol=0.05)
    assert diagnosis.compensation.act_offset == pytest.approx(0)


def test_two_and_two_are_mixed_and_no_motor_twice() -> None:
    mixture = Actuators(5, "mixture")
    one = mixture.alternatives(mixture.identity())
    assert len(one) == 10 * 4  # pairs, by 45°, 135°, 225° or 315°
    two = mixture.alternatives(one[0])
    assert len(two) == 3 * 4  # of the three that are left
    assert mixture.alternatives(two[0]).shape == (0, 25)
    for each, moved in ((mixture.identity(), 0), (one[0], 4), (two[0], 8)):
        matrix, _ = mixture.map(each)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(5))
        assert mixture.moved(each) == moved
        assert torch.equal(mixture.free(each), each != mixture.identity())


def test_shifted_motors_are_not_called_weak_as_well() -> None:
    said = found(gathered(offset=(0.2, -0.25, 0.15))).sentences
    assert [each.split(" is ")[0] for each in said] == ["motor 1", "motor 2", "motor 3"]
    assert all("shifted" in each for each in said)


def test_signs_that_explain_most_are_told_where_only_many_numbers_explain_more() -> None:
    diagnosis = found(gathered(matrix=np.diag([1, -1, 1]), pull=0.1))
    assert diagnosis.sentences[0].startswith("motor 2 is reversed")
    assert diagnosis.explanations[-1].loss < diagnosis.chosen.loss - 10  # the residual
    assert not diagnosis.explained


class TwoRobots(Robot):
    """The context says which way all motors are wired."""

    context_dim = 1
    initial_context = torch.zeros(1)

    def mean(self, obs, act, context):
        if context.ndim == act.ndim - 1:
            context = context.unsqueeze(-2)
        return super().mean(obs, act * context, context)


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        ((-1, -1, -1), ("this is the known task 'backwards'",)),
        ((-1, -1, 1), ("it is nearest to the known task 'backwards'", "motor 3 is reversed")),
    ],
)
def test_a_known_task_is_told_by_its_name(signs, said) -> None:
    diagnosis = diagnose(
        TwoRobots(),
        gathered(matrix=np.diag(signs)),
        contexts=torch.tensor([[1.0], [-1.0]]),
        names=["forwards", "backwards"],
        generator=torch.Generator().manual_seed(0),
    )
    assert diagnosis.chosen.known_task == 1
    for each, start in zip(diagnosis.sentences, said, strict=True):
        assert each.startswith(start)


def test_another_hypothesis_wins_only_where_changes_do_not_explain() -> None:
    class Pulled(Robot):
        """Curves the other way; no interface does that."""

        def mean(self, obs, act, context):
            rew, obs_next = super().mean(obs, act, context)
            return rew, obs_next - 2 * torch.sin(2 * obs)

    given = []

    def fitter(transitions):
        given.append(len(transitions))
        return Pulled(), torch.zeros(0)

    def chosen(transitions):
        return diagnose(Robot(), transitions, others={"new weights": fitter}).chosen

    plain = gathered()
    torch.manual_seed(0)
    assert chosen(plain).name == "nothing changed"
    curved = plain.obs_next - 2 * torch.sin(2 * plain.obs)
    other = chosen(Transitions(plain.obs, plain.act, plain.rew, curved, plain.terminated))
    assert (other.name, type(other.model), other.known_task) == ("new weights", Pulled, None)
    assert given == [96, 96]  # the training part alone


NAMES = ("nothing changed", "motors' signs", "sensors' signs", "one gain", "gains", "residual")
LEVELS = (0, 1, 1, 2, 3, 5)


def explanation(name, losses, *, change=NOTHING, level=None, count=40, **fields):
    """Of as many held-out transitions, the first of these losses."""
    return Explanation(
        name=name,
        model=Robot(),
        context=torch.zeros(0),
        change=change,
        parameters=change.identity(),
        level=change.level if level is None else level,
        known_task=0,
        losses=losses[:count],
        weights=torch.ones(count),
        **fields,
    )


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        # Sensors explain it as well as motors do, and a little better by chance.
        ((9, 2.0, 1.9, 2.0, 2.0, 2.0), "motors' signs"),
        ((9, 4.0, 1.9, 2.0, 2.0, 2.0), "sensors' signs"),
        # What is to be explained is little, and one gain leaves most of it.
        ((0.6, 0.6, 0.6, 0.45, 0.0, 0.0), "gains"),
        ((0.4, 0.4, 0.4, 0.45, 0.0, 0.0), "nothing changed"),
        ((9, 9, 9, 0.45, 0.0, 0.0), "one gain"),
    ],
)
def test_the_first_of_the_simplest_that_explain_it_is_chosen(losses, chosen) -> None:
    noise = torch.randn(len(NAMES), 40, generator=torch.Generator().manual_seed(0))
    noise -= noise.mean(1, keepdim=True)
    found = [
        explanation(name, loss + (0.5 if "signs" in name else 0.01) * each, level=level)
        for name, level, loss, each in zip(NAMES, LEVELS, losses, noise, strict=True)
    ]
    best = min(found, key=lambda each: each.loss)
    found = [_compared(each, best) for each in found]
    assert _simplest(found, 0.0, 0.5, 0.15).name == chosen


def chosen_by_all(*losses, spread=1.0, sensors=0.0, known=-9.0):
    """What is chosen of these, by 200 transitions of which 40 are held out."""
    motors = [Actuators(ACT, each) for each in ("signs", "order", "mixture")]
    changes = (NOTHING, *motors, Sensors(OBS, "signs"))
    noise = torch.randn(len(changes), 200, generator=torch.Generator().manual_seed(1))
    noise -= noise.mean(1, keepdim=True)
    found = []
    for change, loss, each in zip(changes, (*losses, sensors), noise, strict=True):
        of_all = loss + spread * each
        everywhere = (of_all, torch.ones(200))
        name = change.name or "nothing changed"
        found.append(explanation(name, of_all, change=change, everywhere=everywhere))
    best = min(found, key=lambda each: each.loss)
    return _simplest([_compared(each, best) for each in found], known, 0.5, 0.15).name


def test_an_order_is_told_from_signs_by_all_transitions() -> None:
    """Which few that are held out do not: a robot that moves little shows little of either."""
    assert chosen_by_all(0.0, -1.7, -2.1, 0.0) == "actuators order"
    assert chosen_by_all(0.0, -2.0, -2.1, 0.0) == "actuators signs"  # as well, but for a twentieth
    # Motors come before sensors.
    assert chosen_by_all(0.0, -1.7, 0.0, 0.0, sensors=-2.0) == "actuators signs"
    # Where those that are held out tell as much already, a share of it excuses nothing.
    assert chosen_by_all(0.0, -7.0, -8.0, 0.0, spread=0.1) == "actuators order"


def test_a_mixture_of_two_motors_is_told_from_their_exchange_by_all_transitions() -> None:
    assert chosen_by_all(0.0, 0.0, -1.7, -2.1) == "actuators mixture"
    assert chosen_by_all(0.0, 0.0, -2.0, -2.1) == "actuators order"
    assert chosen_by_all(0.0, -1.7, 0.0, -2.1) == "actuators mixture"


def test_all_transitions_may_refute_that_nothing_changed() -> None:
    """Where those that are held out excuse it by chance."""
    for spread, refuted in ((9.0, False), (1.5, True)):
        for number, name in enumerate(("signs", "order", "mixture"), start=1):
            losses = [0.0] * 4
            losses[number] = -0.8
            told = chosen_by_all(*losses, spread=spread, known=-1.0)
            assert told == (f"actuators {name}" if refuted else "nothing changed")
    within_a_margin = chosen_by_all(0.0, -0.3, -0.3, -0.4, spread=0.1, known=-1.0)
    assert within_a_margin == "nothing changed"


def test_nothing_changed_is_not_said_where_that_leaves_much_to_explain() -> None:
    """However uncertain it is what explains it better."""
    noise = 4 * torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    noise -= noise.mean(1, keepdim=True)

    def chosen(known_loss):
        found = [
            explanation("nothing changed", noise[0]),
            explanation("actuators signs", noise[1] - 1.0, change=Actuators(ACT, "signs")),
        ]
        best = found[1]
        found = [_compared(each, best) for each in found]
        assert found[0].worse < 2 * found[0].worse_error
        return _simplest(found, known_loss, 0.5, 0.15).name

    assert chosen(-2.0) == "nothing changed"
    assert chosen(-3.5) == "actuators signs"
    assert chosen(None) == "nothing changed"


def test_what_no_hypothesis_explains_is_not_explained() -> None:
    """Though the model is far off: whatever was tried is no better than "nothing changed"."""
    pulled = gathered(pull=3.0)
    known = gathered()._map(lambda each: each.unsqueeze(0))
    for changes in ([], [Delay()]):
        diagnosis = diagnose(
            Robot(),
            pulled,
            known=known,
            changes=changes,
            generator=torch.Generator().manual_seed(0),
        )
        assert diagnosis.explanations[0].loss > diagnosis.known_loss + 3
        assert diagnosis.chosen.name == "nothing changed"
        assert not diagnosis.explained


def test_an_exchange_costs_a_search_as_much_as_two_reversals() -> None:
    signs, order = Actuators(ACT, "signs"), Actuators(ACT, "order")
    swap = torch.eye(ACT)[[1, 0, 2]].flatten()
    assert int(signs.moved(torch.tensor([-1.0, -1.0, 1.0]))) == int(order.moved(swap)) == 2
    assert int(order.moved(torch.diag(torch.tensor([-1.0, -1.0, 1.0])).flatten())) == 2
    both = Together(order, Actuators(ACT, "gains"))
    assert both.moved(torch.stack([torch.cat((swap, torch.tensor([1.0, 0.5, 1.0])))])).tolist() == [
        3
    ]
    assert int(NOTHING.moved(torch.zeros(0))) == 0


def test_signs_are_tried_again_where_a_gain_has_been_fitted() -> None:
    change = Together(Actuators(ACT, "signs"), Actuators(ACT, "gain"))
    transitions = gathered(matrix=0.6 * np.diag([1, -1, 1]))
    started = torch.zeros(len(transitions), dtype=torch.bool)
    evidence = Evidence(Robot(), torch.zeros(1, 0), transitions, started, 0.0, None, None)
    none = change.identity().unsqueeze(0), torch.tensor([0])
    evidence.search = lambda change: none  # which was misled by the motors' strength
    found, _ = evidence.fit(change)
    np.testing.assert_allclose(found, (1, -1, 1, 0.6), atol=0.01)


def test_what_is_reached_in_two_ways_is_one_start() -> None:
    transitions = gathered(gain=(1, 0.5, -1, 1))
    started = torch.zeros(len(transitions), dtype=torch.bool)
    evidence = Evidence(Robot(), torch.zeros(1, 0), transitions, started, 0.0, None, None)
    starts, _ = evidence.search(Sensors(OBS, "gains", sparse=True))
    assert starts[0].tolist() == [1, 2, -1, 1]
    assert len(starts) == len(starts.unique(dim=0)) == 3


def test_a_parameter_that_saves_nothing_is_as_it_was() -> None:
    """Of a motor that never moved any gain is as good."""
    gains = Actuators(ACT, "gains")
    transitions = gathered(matrix=np.diag([1, 1, 0.4]), still=[1])
    started = torch.zeros(len(transitions), dtype=torch.bool)
    evidence = Evidence(Robot(), torch.zeros(1, 0), transitions, started, 0.0, None, None)
    found = evidence.polished(gains, torch.tensor([1.0, 1.5, 0.5]), 0)
    np.testing.assert_allclose(found, (1, 1, 0.4), atol=0.01)
    assert found[:2].tolist() == [1, 1]


@pytest.mark.parametrize(("std", "kept"), [(0.6, 0.2), (0.8, 0)])
def test_a_fitted_parameter_is_kept_for_a_little_less_than_it_takes_to_move_one(std, kept) -> None:
    """Saved are 0.13 and 0.08; a search moves what saves 0.15."""

    class Unsure(Robot):
        pass

    Unsure.std = std
    offset, transitions = Actuators(ACT, "offset"), gathered(offset=(0.0, 0.2, 0.0))
    started = torch.zeros(len(transitions), dtype=torch.bool)
    evidence = Evidence(Unsure(), torch.zeros(1, 0), transitions, started, 0.0, None, None)
    found = evidence.polished(offset, torch.tensor([0.0, 0.2, 0.0]), 0)
    np.testing.assert_allclose(found, (0, kept, 0), atol=0.01)


class KnowsWhereItHasBeen(Robot):
    """Elsewhere it errs, ever more, and all the same is as sure of itself."""

    def mean(self, obs, act, context):
        rew, obs_next = super().mean(obs, act, context)
        astray = (obs.abs() - 4).clamp_min(0) * (1 + act.sum(-1, keepdim=True))
        return rew, obs_next + 0.03 * torch.sign(obs) * astray


def test_where_known_tasks_have_never_been_the_model_has_less_of_a_say() -> None:
    """A robot that has fallen lies where the model knows nothing; until then it tells much."""
    changed = gathered(200, matrix=np.diag([1, -1, 1]))
    fallen = torch.arange(200) >= 20
    obs = torch.where(fallen.unsqueeze(1), 3 * changed.obs + 9, changed.obs)
    executed = changed.act * torch.tensor([1.0, -1.0, 1.0])
    rew, obs_next = Robot().mean(obs, executed, torch.zeros(0))
    noise = 0.01 * torch.randn(200, OBS, generator=torch.Generator().manual_seed(1))
    diagnosis = diagnose(
        KnowsWhereItHasBeen(),
        Transitions(obs, changed.act, rew, obs_next + noise, changed.terminated),
        known=gathered(400)._map(lambda each: each.unsqueeze(0)),
        generator=torch.Generator().manual_seed(0),
    )
    assert diagnosis.sentences[0].startswith("motor 2 is reversed")
    assert len(diagnosis.sentences) == 1


def test_familiarity_is_one_where_known_tasks_have_been_and_falls_with_the_distance() -> None:
    known, new = gathered(900).obs.unflatten(0, (3, 300)), gathered(300).obs
    familiar = Familiarity(known, 300)
    assert (familiar(new) == 1).float().mean() > 0.9
    assert torch.equal(familiar(new)[:2], familiar(new[:2]))  # each by itself
    outside = familiar(new + 10)
    assert outside.max() < 0.3
    torch.testing.assert_close(familiar(new + 1_000).mean(), outside.mean() / 100, rtol=1, atol=0)
    units = torch.tensor([1e3, 1.0, 1e-4, 0.0])  # the last one shows the same everywhere
    torch.testing.assert_close(
        Familiarity(known * units + 5, 300)((new + 10) * units + 5),
        Familiarity(known[..., :3], 300)((new + 10)[:, :3]),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize(("shift", "estranges"), [(0.0, False), (0.05, False), (8.0, True)])
def test_a_change_of_sensors_may_not_make_strange_what_looks_familiar(shift, estranges) -> None:
    sensors, shown = Sensors(OBS, "offset", scale=torch.ones(OBS)), gathered(60)

    def evidence(transitions):
        started = torch.zeros(len(transitions), dtype=torch.bool)
        familiar = Familiarity(gathered(400).obs.unsqueeze(0), len(transitions))
        return Evidence(Robot(), torch.zeros(1, 0), transitions, started, 0.0, familiar, None)

    shifted = torch.full_like(sensors.identity(), shift)
    assert evidence(shown).estranges(sensors, shifted) == estranges
    # Of sensors that are shifted nothing looks familiar, and what undoes that is free to.
    off = Transitions(shown.obs - 8, shown.act, shown.rew, shown.obs_next - 8, shown.terminated)
    assert not evidence(off).estranges(sensors, shifted)


@pytest.mark.parametrize(
    "known", [torch.zeros(2, 50, OBS), torch.randn(1, 1, OBS)], ids=["at rest", "a single one"]
)
def test_without_anything_to_compare_with_all_are_familiar(known) -> None:
    assert (Familiarity(known, 20)(gathered(20).obs) == 1).all()


def test_a_model_without_gradients_is_refused_where_they_are_needed() -> None:
    class Opaque(Robot):
        def loss(self, transitions, context):
            return super().loss(transitions, context).detach()

    signs = [Actuators(ACT, "signs")]
    assert diagnose(Opaque(), gathered(matrix=np.diag([1, -1, 1])), changes=signs).chosen
    with pytest.raises(TypeError, match=r"no graph.*trained"):
        diagnose(Opaque(), gathered(), changes=[Actuators(ACT, "gains")])


def test_a_caller_without_gradients_gets_the_same() -> None:
    said = found(gathered(matrix=np.diag([1, 1, 0.4]))).to_dict()
    for guard in (torch.no_grad, torch.inference_mode):
        with guard():
            assert found(gathered(matrix=np.diag([1, 1, 0.4]))).to_dict() == said


def test_what_is_no_affine_map_is_not_told_as_one() -> None:
    class Stiff(Change):
        """Motors lose more of what is large."""

        name, level = "stiffness", 2

        def identity(self):
            return torch.zeros(1)

        def executed(self, parameters, act):
            return act - parameters.unsqueeze(-2) * act**3

    plain = gathered()
    rew, after = Robot().mean(plain.obs, plain.act - 0.5 * plain.act**3, None)
    stiff = Transitions(plain.obs, plain.act, rew, after, plain.terminated)
    diagnosis = diagnose(Robot(), stiff, changes=[Stiff()])
    assert diagnosis.sentences == ("stiffness explains it",)
    assert diagnosis.compensation is None


def test_what_never_moved_is_not_told() -> None:
    diagnosis = found(gathered(still=(1,)))
    assert diagnosis.sentences[0].endswith("motor 2 never moved")
    assert not diagnosis.gains[1].told
    assert diagnosis.gains[0].told


class Even(Robot):
    """Does the same with a command of some motors and its opposite, as a model may have learned."""

    def __init__(self, motors):
        self.motors = motors

    def mean(self, obs, act, context):
        act = act.clone()
        act[..., self.motors] = act[..., self.motors].square()
        return super().mean(obs, act, context)


@pytest.mark.parametrize(
    ("motors", "said"),
    [([1], "motor 2 is reversed"), ([1, 2], "motors 2, 3 are reversed")],
)
def test_that_a_model_cannot_tell_a_sign_is_said(motors, said) -> None:
    transitions = gathered()
    obs, act = transitions.obs, transitions.act
    for sign in (1.0, -1.0):
        executed = act * torch.tensor([-1.0, sign, 1.0])
        rew, after = Even(motors).mean(obs, executed, None)
        new = Transitions(obs, act, rew, after, transitions.terminated)
        diagnosis = diagnose(Even(motors), new, changes=[Actuators(ACT, "signs")])
        first, last = diagnosis.sentences
        assert first == f"not identifiable from these transitions: whether {said}"
        assert last.startswith("motor 1 is reversed (gain -1.0")
        assert last.endswith("; the others are as they were, as far as is told")
        told = [each.told for each in diagnosis.gains]
        assert told == [number not in motors for number in range(ACT)]


def test_a_dead_motor_is_not_asked_for_its_sign() -> None:
    diagnosis = found(gathered(matrix=np.diag([1, 0, 1])))
    assert diagnosis.sentences == ("motor 2 is dead; the others are as they were",)


def test_too_few_transitions_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 transitions"):
        diagnose(Robot(), gathered()[:3])


# Changes --------------------------------------------------------------------------------------

CHANGES = [
    *(Actuators(ACT, each) for each in ("signs", "order", "gain", "gains", "offset")),
    *(Actuators(ACT, each) for each in ("mixture", "affine")),
    *(Sensors(OBS, each) for each in ("signs", "order", "gains", "offset")),
    Delay(),
    LinearResidual(torch.zeros(OBS + ACT), torch.ones(OBS + ACT), torch.ones(1 + OBS)),
    Together(Actuators(ACT, "order"), Sensors(OBS, "gains", sparse=True)),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.name)
def test_the_identity_changes_nothing(change) -> None:
    transitions = gathered(10)
    model = ChangedModel(Robot(), change, change.identity())
    known = model.known(transitions)
    for name in ("obs", "act", "rew", "obs_next"):
        assert torch.equal(getattr(known, name), getattr(transitions, name))
    assert torch.equal(
        model.loss(transitions, torch.zeros(0)), Robot().loss(transitions, torch.zeros(0))
    )


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.name)
def test_predictions_undo_what_the_loss_does(change) -> None:
    own = change.identity()
    moved = change.alternatives(own)
    own = moved[0] if len(moved) else own + 0.1
    model = ChangedModel(Robot(), change, own)
    transitions = gathered(10)
    rew, obs_next = model.mean(transitions.obs, transitions.act, torch.zeros(0))
    made = Transitions(transitions.obs, transitions.act, rew, obs_next, transitions.terminated)
    known = model.known(made)
    expected = Robot().mean(known.obs, known.act, torch.zeros(0))
    torch.testing.assert_close(known.rew, expected[0])
    torch.testing.assert_close(known.obs_next, expected[1])


def test_a_densitys_volume_is_paid_for() -> None:
    change = Sensors(OBS, "gains")
    shrunk = ChangedModel(Robot(), change, torch.full((OBS,), 0.5))
    known = shrunk.known(gathered(10))
    paid = shrunk.loss(gathered(10), torch.zeros(0)) - Robot().loss(known, torch.zeros(0))
    assert float(paid) == pytest.approx(2 * np.log(2), rel=1e-5)


# Compensation ---------------------------------------------------------------------------------


@given(
    st.permutations(range(ACT)),
    st.lists(st.sampled_from((-1.0, 1.0)), min_size=ACT, max_size=ACT),
    st.lists(st.floats(-1, 1), min_size=ACT, max_size=ACT),
)
def test_compensation_inverts_a_change(order, signs, wanted) -> None:
    matrix = np.diag(signs) @ np.eye(ACT)[list(order)]
    command = Compensation(matrix, np.zeros(ACT)).action(wanted)
    np.testing.assert_allclose(matrix @ command, wanted, atol=1e-12)


def test_what_motors_cannot_do_is_done_as_nearly_as_they_can() -> None:
    angle = np.radians(60)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wanted = np.array([1.0, 0.9])
    command = Compensation(turned, np.zeros(2)).action(wanted)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 401)] * 2), -1).reshape(-1, 2)
    nearest = np.square(grid @ turned.T - wanted).sum(-1).min()
    assert np.square(turned @ command - wanted).sum() <= nearest + 1e-3
    assert Compensation(np.zeros((2, 2)), np.zeros(2)).action(wanted).tolist() == [0, 0]


def test_no_change_is_compensated_to_the_last_bit() -> None:
    act = np.random.default_rng(0).uniform(-1, 1, (5, ACT)).astype(np.float32)
    same = Compensation(np.eye(ACT), np.zeros(ACT))
    assert same.action(act) is act or np.array_equal(same.action(act), act)
    assert np.array_equal(same.observation(act), act)
    assert np.array_equal(same.policy(lambda obs: obs)(act), act)


def test_compensation_of_other_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="act_matrix of shape"):
        Compensation(np.eye(3), np.zeros(2))
    with pytest.raises(ValueError, match="act of shape"):
        Compensation(np.eye(3), np.zeros(3)).action(np.zeros(2))


@pytest.mark.parametrize("kind", [Actuators, Sensors])
@pytest.mark.parametrize("structure", ["signs", "gain", "gains", "offset", "order"])
def test_what_is_tried_goes_where_parameters_are(kind, structure):
    """By tensors that are said to be on a GPU, and are nowhere."""
    with FakeTensorMode():
        change = kind(3, structure)
        parameters = torch.ones(len(change.identity()), device="cuda")
        assert change.alternatives(parameters).device.type == "cuda"
        if structure == "offset":
            assert change.map(parameters)[1].device.type == "cuda"
