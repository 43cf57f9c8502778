"""Task values against the figures of the released code, and tasks and sets as plain values."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mier_adapt_envs
from mier_adapt_envs import Task, TaskSet

ALL_SETS = [
    (family, name)
    for family in mier_adapt_envs.families()
    for name in mier_adapt_envs.task_sets(family)
]
tasks = st.builds(
    Task,
    st.sampled_from(mier_adapt_envs.families()),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=9).map(tuple),
    label=st.text(max_size=9),
)


def values(family, name):
    return np.array([task.parameters for task in mier_adapt_envs.task_set(family, name)])


@pytest.mark.parametrize(
    ("family", "name", "first", "last", "total"),
    [
        ("HalfCheetahVel", "standard", [0.786074, 0.476052, 0.834380], 0.558322, 194.987227),
        ("HalfCheetahVel", "medium", [0.655062, 0.396710], None, 209.135651),
        ("HalfCheetahVel", "hard", [0.393037], None, 158.316761),
    ],
)
def test_released_velocities(family, name, first, last, total):
    drawn = values(family, name)[:, 0]
    np.testing.assert_allclose(drawn[: len(first)], first, atol=5e-7)
    assert drawn.sum() == pytest.approx(total, abs=5e-7)
    assert last is None or drawn[-1] == pytest.approx(last, abs=5e-7)
    assert len(drawn) == 130


def test_ranges_of_medium_and_hard():
    assert values("HalfCheetahVel", "medium")[100, 0] == pytest.approx(2.841827, abs=5e-7)
    for name, limit in (("medium", 2.5), ("hard", 1.5)):
        drawn = values("HalfCheetahVel", name)[:, 0]
        assert drawn[:100].max() < limit
        assert drawn[100:].min() >= 2.5
        assert drawn[100:].max() < 3.0


def test_difficulty_sweep_of_velocities():
    sweep = mier_adapt_envs.task_set("HalfCheetahVel", "fig5")
    assert [task.parameters[0] for task in sweep.meta_test] == [1.75 + i / 4 for i in range(10)]
    assert sweep.meta_train == mier_adapt_envs.task_set("HalfCheetahVel", "hard").meta_train


def test_released_ant_directions():
    drawn = values("AntDir", "ood")[:, 0]
    np.testing.assert_allclose(drawn[:3], [1.764979, 4.480136, 3.449440], atol=5e-7)
    assert drawn[99] == pytest.approx(0.508426, abs=5e-7)
    assert drawn[:100].sum() == pytest.approx(221.567455, abs=5e-7)
    np.testing.assert_array_equal(drawn[100:], np.linspace(1.5 * np.pi, 2 * np.pi, 10))
    np.testing.assert_array_equal(values("AntDir", "fig5"), values("AntDir", "ood"))
    assert values("AntDir", "forward_backward")[:2, 0].tolist() == [0.0, math.pi]


@pytest.mark.parametrize(
    ("family", "num_joints", "num_negated"),
    [("HalfCheetahNegatedJoints", 6, 3), ("AntNegatedJoints", 8, 4)],
)
def test_negated_joints(family, num_joints, num_negated):
    last = num_joints - 1
    negated = [
        tuple(np.flatnonzero(np.array(task.parameters) == -1))
        for task in mier_adapt_envs.task_set(family)
    ]
    trained = list(combinations(range(last), num_negated))
    unseen = [(*some, last) for some in combinations(range(last), num_negated - 1)]
    assert negated == trained + unseen


def test_index_of_the_papers_out_of_distribution_tasks():
    tasks = mier_adapt_envs.task_set("HalfCheetahNegatedJoints")
    assert len(tasks.meta_train) == len(tasks.meta_test) == 10
    assert tasks[10:] == tasks.meta_test
    assert tasks[-1] is tasks[19]
    assert str(tasks[10]) == "negated joints 1,2,6"


def test_released_ant_negated_joints():
    full = mier_adapt_envs.task_set("AntNegatedJoints", "standard")
    released = mier_adapt_envs.task_set("AntNegatedJoints", "released")
    assert (len(full.meta_train), len(full.meta_test)) == (35, 35)
    assert released.meta_train == full.meta_train
    assert released.meta_test == full.meta_test[:15]


def test_goals_fill_a_disc_of_radius_3():
    radii = np.linalg.norm(values("AntGoal", "standard"), axis=1)
    assert radii.shape == (180,)
    assert radii.max() <= 3.0
    # Uniform over the disc: a quarter of the goals in half the radius.
    assert 0.15 < (radii < 1.5).mean() < 0.35


def test_walker_multipliers():
    drawn = values("Walker2dRandParams", "ood")
    trained, unseen = drawn[:40], drawn[40:]
    # The generator's first draws are those of body_mass.
    first = np.random.RandomState(42).uniform(-3, 3, size=8)
    np.testing.assert_allclose(trained[0, :8], 1.5**first, atol=1e-9)
    damping = np.r_[32:41]
    assert trained[:, damping].max() <= 1.3**3 + 1e-9
    assert 1.3**3 < trained.max() <= 1.5**3 + 1e-9
    expected = trained.mean(axis=0) + 5 * trained.std(axis=0)
    assert np.abs((unseen - expected) / trained.std(axis=0)).max() < 5
    assert unseen.shape == (20, 65)
    standard = mier_adapt_envs.task_set("Walker2dRandParams", "standard")
    assert (len(standard.meta_train), len(standard.meta_test)) == (40, 10)


FROZEN = {
    "HalfCheetahVel standard": "18c91599dc317c96",
    "HalfCheetahVel medium": "66c2fd1338b580c0",
    "HalfCheetahVel hard": "8a0214753243f054",
    "HalfCheetahVel fig5": "b20eacf769f03cd0",
    "HalfCheetahDir standard": "6a0150e8ac1dc693",
    "HalfCheetahNegatedJoints held_out_joint": "55a2b2a1a0884ef0",
    "HalfCheetahNegatedJoints standard": "211357290e8a7c27",
    "AntDir forward_backward": "b2d2ee7278e56b9a",
    "AntDir ood": "3232a8002a64dfcf",
    "AntDir fig5": "3232a8002a64dfcf",
    "AntGoal standard": "b415fc02adadd00f",
    "AntNegatedJoints standard": "d52e8c65fc0736c6",
    "AntNegatedJoints released": "97455417f708793c",
    "Walker2dRandParams standard": "841d1c71edb842d5",
    "Walker2dRandParams ood": "8bba04c9f157a3b3",
    "HumanoidDir standard": "2039dd407156d9f1",
}


def test_every_set_is_frozen():
    assert {f"{f} {n}": mier_adapt_envs.task_set(f, n).hash[:16] for f, n in ALL_SETS} == FROZEN


@pytest.mark.parametrize(("family", "name"), ALL_SETS)
def test_sets_survive_json_and_know_themselves(family, name):
    tasks = mier_adapt_envs.task_set(family, name)
    read = TaskSet.from_json(tasks.to_json())
    assert read == tasks
    assert read.hash == tasks.hash
    assert hash(read) == hash(tasks)
    assert [task.label for task in read] == [task.label for task in tasks]
    assert (tasks.family, tasks.name) == (family, name)
    assert len(tasks) == len(tasks.meta_train) + len(tasks.meta_test)
    assert all(task.label for task in tasks)


def test_labels_tell_tasks_apart():
    for family, name in ALL_SETS:
        for split in ("meta_train", "meta_test"):
            labels = [str(t) for t in getattr(mier_adapt_envs.task_set(family, name), split)]
            if family not in ("AntDir", "HumanoidDir", "HalfCheetahVel", "AntGoal"):  # rounded
                assert len(set(labels)) == len(labels)


@given(tasks)
def test_tasks_survive_json(task):
    assert Task.from_json(task.to_json()) == task
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))).label == task.label
    assert len({task, Task.from_json(task.to_json())}) == 1


@given(tasks, tasks)
def test_hash_depends_on_parameters_and_split_only(one, other):
    def build(meta_train, meta_test, name="x"):
        return TaskSet("F", name, "F-v0", tuple(meta_train), tuple(meta_test))

    one, other = (Task("F", task.parameters, label=task.label) for task in (one, other))
    unlabelled = Task("F", one.parameters)
    assert build([one], [other]).hash == build([unlabelled], [other], name="y").hash
    assert build([one, other], []).hash != build([one], [other]).hash
    assert (build([one], []).hash == build([other], []).hash) == (
        json.dumps(one.parameters) == json.dumps(other.parameters)
    )


def test_tasks_take_numpy_numbers():
    task = Task("HalfCheetahVel", np.array([1.5], dtype=np.float32))
    assert task.parameters == (1.5,)
    assert type(task.parameters[0]) is float
    assert str(task) == "HalfCheetahVel(1.5)"


def test_tasks_are_frozen():
    with pytest.raises(AttributeError):
        Task("HalfCheetahVel", (1.0,)).parameters = (2.0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", (1.0,)), "family must be a non-empty string"),
        ((3, (1.0,)), "family must be a non-empty string"),
        (("HalfCheetahVel", (math.nan,)), r"parameters .* finite numbers, got \(nan,\)"),
        (("HalfCheetahVel", (math.inf,)), r"parameters .* finite numbers, got \(inf,\)"),
        (("HalfCheetahVel", 1.5), "Write a single number as a tuple"),
        (("HalfCheetahVel", ((1.0, 2.0),)), "parameters .* flat sequence of finite numbers"),
        (("HalfCheetahVel", "12"), "parameters .* finite numbers, got '12'"),
        (("HalfCheetahVel", (1.0,), 5), "label a string, got 'HalfCheetahVel' and 5"),
    ],
)
def test_bad_tasks(arguments, message):
    with pytest.raises(ValueError, match=message):
        Task(*arguments)


@pytest.mark.parametrize(
    "values",
    [{"family": "F"}, {"family": "F", "parameters": [1], "speed": 2}, [1.0], None],
)
def test_bad_dict_forms(values):
    with pytest.raises(ValueError, match=r"dict form|Task"):
        Task.from_dict(values)


HOSTILE = [
    "[" * 100_000,
    '{"family":' * 20_000,
    "9" * 10_000,
    "1",
    "null",
    "{",
    '{"family": "F", "parameters": [%s]}' % ("9" * 400),
    '{"family": "F", "parameters": [1e999]}',
    '{"family": "F", "parameters": {"1": 2}}',
    '{"family": "F", "parameters": ' + "[" * 500 + "]" * 500 + "}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:40])
@pytest.mark.parametrize("kind", [Task, TaskSet])
def test_json_that_is_no_task_is_a_value_error(kind, text):
    with pytest.raises(ValueError) as info:  # noqa: PT011
        kind.from_json(text)
    assert len(str(info.value)) < 500


@pytest.mark.parametrize("place", ["family", "name", "env_id", "meta_train", "meta_test"])
@pytest.mark.parametrize("value", [None, 5, True, "x", [1], [[]], {"a": 1}, [{"family": 1}]])
def test_json_of_a_set_with_anything_in_its_places(place, value):
    values = TaskSet("F", "x", "F-v0", (Task("F", (1.0,)),), ()).to_dict()
    text = json.dumps({**values, place: value})
    if isinstance(value, str) and place in ("name", "env_id"):
        TaskSet.from_json(text)
        return
    with pytest.raises(ValueError):  # noqa: PT011
        TaskSet.from_json(text)
    with pytest.raises(ValueError):  # noqa: PT011
        TaskSet.from_dict(json.loads(text))


def test_bad_sets():
    task = Task("HalfCheetahVel", (1.0,))
    with pytest.raises(
        ValueError, match=r"meta_test\[0\] must be a Task of F, got Task\(family=\'HalfCheetahVel\'"
    ):
        TaskSet("F", "x", "F-v0", (), (task,))
    with pytest.raises(ValueError, match=r"meta_train\[1\] must be a Task"):
        TaskSet("HalfCheetahVel", "x", "F-v0", (task, 3), ())
    with pytest.raises(ValueError, match="entries"):
        TaskSet.from_dict({"family": "F"})


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (mier_adapt_envs.task_set("HalfCheetahVel"), "HalfCheetahVel 'standard'"),
        (mier_adapt_envs.change_set("Ant", "test"), "The test set of Ant"),
    ],
)
def test_an_index_beyond_a_set_says_how_long_it_is(found, name):
    assert found[np.int64(-1)] == found[len(found) - 1] == found[len(found) - 1 :][0]
    for index in (len(found), -len(found) - 1):
        message = f"{name} has {len(found)} entries, expected an index from 0 to {len(found) - 1}"
        with pytest.raises(IndexError, match=f"{message}, got {index}"):
            found[index]
    for index in ("3", 1.0, None):
        with pytest.raises(
            TypeError, match=f"{name} expected an integer or a slice, got {index!r}"
        ):
            found[index]


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"family must be one of HalfCheetahVel, .*'Cheetah'"):
        mier_adapt_envs.task_set("Cheetah")
    with pytest.raises(ValueError, match="must be one of standard, medium, hard, fig5, got 'easy'"):
        mier_adapt_envs.task_set("HalfCheetahVel", "easy")
    for function in (mier_adapt_envs.task_sets, mier_adapt_envs.env_class):
        with pytest.raises(ValueError, match="family must be one of"):
            function("Cheetah")


def test_what_varies():
    both = {"HalfCheetahNegatedJoints", "AntNegatedJoints", "Walker2dRandParams"}
    for family in mier_adapt_envs.families():
        expected = "reward_and_dynamics" if family in both else "reward"
        assert mier_adapt_envs.env_class(family).varies == expected
