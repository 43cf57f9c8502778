import dataclasses
import json

import numpy as np
import pytest

from mier_adapt import figures
from mier_adapt.adaptation import compare
from mier_adapt.statistics import bootstrap_interval

from .doubles import example_diagnosis, example_report

STEPS = (1000, 2000, 3000)


@pytest.fixture(autouse=True)
def plain_figures():
    """Here they are drawn as users get them."""


@pytest.fixture
def axes(monkeypatch):
    """The axes of what is drawn; nothing is written."""
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.extend(figure.axes))
    return drawn


def rows(seed: int, steps=STEPS) -> list[dict]:
    generator = np.random.default_rng(seed)
    evaluated = [
        {"env_steps": step, "returns_adapted": generator.normal(step / 10, 5, 4).tolist()}
        for step in steps
    ]
    return [*evaluated, {"env_steps": 9999, "model_loss": 1.0}]


def evaluation(seed: int, labels=("a 1", "a 2", "b 3"), parameters=1, seeds=2) -> dict:
    generator = np.random.default_rng(seed)
    tasks = [
        {
            "task": label,
            "parameters": [float(number)] * parameters,
            "return_initial": generator.normal(size=seeds).tolist(),
            "return_adapted": generator.normal(100, size=seeds).tolist(),
        }
        for number, label in enumerate(labels)
    ]
    return {"splits": {"train": tasks[:2], "test": tasks[2:]}}


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_episodes_are_drawn_with_what_was_found_out(tmp_path, ending):
    log = [
        {"transitions": 0, "steps": 9, "return": -3.0, "policy": "gathering", "said": "9 gathered"},
        {"transitions": 9, "steps": 5, "return": 4.0, "policy": "compensated"},
    ]
    log[0]["said"] = "motor 1 is reversed (gain -1.00 ± 0.01); compensated is to play an episode"
    figures.plot_episodes(log, tmp_path / f"it.{ending}")
    if ending == "svg":
        text = (tmp_path / "it.svg").read_text()
        assert "1: motor 1 is reversed" in text
        assert "is to play" not in text
    for bad in ([], [{"transitions": 0}], [1]):
        with pytest.raises((TypeError, ValueError), match="plot_episodes expected log"):
            figures.plot_episodes(bad, tmp_path / "bad.png")
    assert not (tmp_path / "bad.png").exists()


def test_a_learning_curve_of_one_seed_spans_its_tasks(axes, tmp_path):
    run = rows(0)
    figures.plot_learning_curves({"preset": [run]}, tmp_path / "x.png")
    line = axes[0].lines[0]
    returns = np.array([row["returns_adapted"] for row in run[:-1]])
    np.testing.assert_array_equal(line.get_xdata(), STEPS)
    np.testing.assert_allclose(line.get_ydata(), returns.mean(1))
    band = axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (returns.min(), returns.max())


@pytest.mark.parametrize("has_model", [True, False])
def test_a_runs_own_curve_shows_losses_where_there_is_a_model(axes, tmp_path, has_model):
    losses = {"loss_initial": 3.0, "loss_adapted": 2.0} if has_model else {}
    returns = {"return_initial": -1.0, "return_adapted": 5.0}
    run = [{"updates": number, **returns, **losses} for number in (10, 20)]
    figures.plot_learning_curve([*run, {"updates": 30}], tmp_path / "x.png")
    drawn = [[line.get_ydata()[-1] for line in each.lines] for each in axes]
    assert drawn == [[-1.0, 5.0], [3.0, 2.0]][: 1 + has_model]
    assert all(list(line.get_xdata()) == [10, 20] for each in axes for line in each.lines)


def test_a_learning_curve_of_several_seeds_has_an_interval_where_all_were_evaluated(axes, tmp_path):
    seeds = [rows(0), rows(1, STEPS[:2])]
    figures.plot_learning_curves({"preset": seeds}, tmp_path / "x.png")
    np.testing.assert_array_equal(axes[0].lines[0].get_xdata(), STEPS[:2])
    first = np.array([run[0]["returns_adapted"] for run in seeds]).T
    ends = axes[0].collections[0].get_paths()[0].vertices
    at_first = ends[ends[:, 0] == STEPS[0], 1]
    assert (at_first.min(), at_first.max()) == pytest.approx(bootstrap_interval(first))


@pytest.mark.parametrize(
    ("splits", "title"),
    [
        ((None, "meta_train"), "Meta-training tasks, after adaptation"),
        (("meta_test", "meta_test"), "Meta-test tasks, after adaptation"),
        ((None, "meta_test"), "Meta-training tasks and Meta-test tasks, after adaptation"),
    ],
)
def test_learning_curves_say_which_tasks_they_are_of(axes, tmp_path, splits, title):
    curves = {
        str(number): [[row | ({"split": split} if split else {}) for row in rows(number)]]
        for number, split in enumerate(splits)
    }
    figures.plot_learning_curves(curves, tmp_path / "x.png")
    assert axes[0].get_title() == title


def test_learning_curves_over_time_stand_at_the_mean_minutes_of_their_seeds(axes, tmp_path):
    seeds = [
        [{**row, "seconds": seconds * (1 + number)} for number, row in enumerate(rows(seed))]
        for seed, seconds in ((0, 60), (1, 180))
    ]
    figures.plot_learning_curves({"preset": seeds}, tmp_path / "x.png", over="time")
    np.testing.assert_allclose(axes[0].lines[0].get_xdata(), [2, 4, 6])
    assert axes[0].get_xlabel() == "minutes of training"


def test_what_nothing_trained_is_a_line_across(axes, tmp_path):
    (row, *_) = rows(0)
    chance = [{**row, "env_steps": 0, "updates": 1}]
    figures.plot_learning_curves({"chance": [chance], "preset": [rows(1)]}, tmp_path / "x.png")
    line = axes[0].lines[0]
    assert line.get_linestyle() == "--"
    np.testing.assert_allclose(line.get_ydata(), np.mean(row["returns_adapted"]))
    np.testing.assert_array_equal(axes[0].lines[1].get_xdata(), STEPS)


@pytest.mark.parametrize("parameters", [1, 2])
def test_tasks_stand_at_their_parameter_or_in_a_row_and_pool_their_seeds(
    axes, tmp_path, parameters
):
    records = [evaluation(seed, ("a 5", "a 6", "a 7"), parameters) for seed in (0, 1)]
    figures.plot_task_returns({"preset": records}, tmp_path / "x.png", family="Some")
    points = axes[0].lines[1]  # that of the initial context is the first
    adapted = [
        np.mean([row["return_adapted"] for row in same])
        for split in ("train", "test")
        for same in zip(*(record["splits"][split] for record in records), strict=True)
    ]
    np.testing.assert_array_equal(points.get_xdata(), [0, 1, 2])
    np.testing.assert_allclose(points.get_ydata(), adapted)
    assert axes[0].get_xlabel() == "a"
    if parameters == 2:
        assert [label.get_text() for label in axes[0].get_xticklabels()] == ["5", "6", "7"]


@pytest.mark.parametrize(
    "others", [("a 1", "a 2", "b 4"), ("a 1", "a 2"), ("a 1", "a 2", "b 3", "b 4")]
)
def test_evaluations_of_different_tasks_are_refused(tmp_path, others):
    one, other = evaluation(0), evaluation(1, others)
    for evaluations in ({"preset": [one, other]}, {"one": [one], "other": [other]}):
        with pytest.raises(ValueError, match="different tasks"):
            figures.plot_task_returns(evaluations, tmp_path / "x.png", family="Some")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_drawn_is_refused(tmp_path):
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match="no evaluation in common"):
        figures.plot_learning_curves({"preset": [rows(0), rows(1, ())]}, path)
    with pytest.raises(ValueError, match=r"curves of 1 to 9 .*, got 0"):
        figures.plot_learning_curves({}, path)
    labels = tuple(f"task {number}" for number in range(81))
    with pytest.raises(ValueError, match="81 tasks"):
        figures.plot_task_returns({"x": [evaluation(0, labels, 2)]}, path, family="Some")


@pytest.mark.parametrize(
    "stages", [("unchanged", "relabeled"), ("initial context", "adapted context", "actor only")]
)
def test_an_adaptation_shows_every_episode_of_every_stage(axes, tmp_path, stages):
    returns = {stage: (float(number), number + 5.0) for number, stage in enumerate(stages)}
    report = example_report(returns=returns, decision=stages[-1], novelty=None)
    figures.plot_adaptation(report.to_dict(), tmp_path / "x.png")
    left, right = axes
    for line, (number, stage) in zip(left.lines, enumerate(stages), strict=False):
        np.testing.assert_array_equal(line.get_ydata(), returns[stage])
        assert set(line.get_xdata()) == {number}
    colours = [line.get_color() for line in left.lines[: len(stages)]]
    assert colours[-1] not in colours[:-1]  # the one that was kept
    assert [label.get_text() for label in left.get_xticklabels()] == [
        stage.replace(" ", "\n") for stage in stages
    ]
    assert [list(line.get_ydata()) for line in right.lines] == [[9, 3, -1], [8, 2, -2], [-7, -6]]
    assert f"kept {stages[-1]}" in left.figure.get_suptitle()
    assert "novelty" not in right.get_xlabel()
    written = json.loads(json.dumps(example_report().to_dict()))  # as it is in its file
    figures.plot_adaptation(written, tmp_path / "x.png")
    assert "novelty: -1.2" in axes[3].get_xlabel()
    written["novelty"] = {"context_distance": 2.5, "loss_excess": -3.5}  # as release 0.1 wrote it
    figures.plot_adaptation(written, tmp_path / "x.png")
    assert "novelty: -3.5" in axes[5].get_xlabel()


def test_where_nothing_was_learned_hypotheses_are_shown(axes, tmp_path):
    nothing = dict.fromkeys(("train_loss", "validation_loss", "earlier_tasks_loss"))
    report = example_report(diagnosis=example_diagnosis(), **nothing)
    figures.plot_adaptation(report.to_dict(), tmp_path / "x.png")
    assert [line.get_xdata()[0] for line in axes[1].lines] == [9.0, -2.0, -2.5]
    names = [label.get_text() for label in axes[1].get_yticklabels()]
    assert names == ["nothing changed", "actuators order"]


def test_a_diagnosis_shows_what_each_motor_does_and_how_sure_that_is(axes, tmp_path):
    figures.plot_diagnosis(example_diagnosis(), tmp_path / "x.png")
    motors, losses = axes
    drawn = [(*bar[0].get_xdata(), *bar[0].get_ydata()) for bar in motors.containers]
    np.testing.assert_allclose(drawn, [(1.02, 0), (-0.98, 1), (1.0, 2)])
    reach = [np.ptp(bar[2][0].get_segments()[0][:, 0]) / 2 for bar in motors.containers]
    np.testing.assert_allclose(reach, [1.96 * 0.03, 1.96 * 0.04, 0])
    assert [bar[0].get_fillstyle() for bar in motors.containers] == ["full", "full", "none"]
    assert motors.get_xlabel() == "gain (hollow: not told)"
    assert [text.get_text() for text in motors.texts] == [" command 2", " command 1"]
    assert "motor 3 never moved" in motors.figure.get_suptitle()
    colours = [line.get_color() for line in losses.lines]
    assert colours[1] not in (colours[0], colours[2])
    with pytest.raises(ValueError, match=r"plot_diagnosis expected diagnosis .*without 'sent"):
        figures.plot_diagnosis({}, tmp_path / "x.png")


def test_a_comparison_shows_each_task_after_each_stage(axes, tmp_path):
    returns = {"initial context": (1.0, 3.0), "relabeled": (5.0, 7.0)}
    reports = [
        example_report(task=f"joints {task}", seed=seed, returns=returns)
        for task in (1, 2, 3)
        for seed in (0, 1)
    ]
    figures.plot_comparison(compare(reports), tmp_path / "x.png")
    drawn = [line.get_ydata() for line in axes[0].lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal(drawn, [[2, 2, 2], [6, 6, 6]])
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["1", "2", "3"]
    assert axes[0].get_xlabel() == "joints"
    assert "3 task(s), 2 seed(s); mean handed back: 6" in axes[0].get_title()
    reports = [dataclasses.replace(reports[0], task=f"joints {task}") for task in range(81)]
    with pytest.raises(ValueError, match="got 81"):
        figures.plot_comparison(compare(reports), tmp_path / "x.png")


def test_what_is_no_report_or_comparison_is_refused(tmp_path):
    path = tmp_path / "x.png"
    report = example_report().to_dict()
    del report["reason"]
    with pytest.raises(ValueError, match=r"plot_adaptation expected report .*without 'reason'"):
        figures.plot_adaptation(report, path)
    with pytest.raises(ValueError, match=r"plot_comparison expected compared .*without 'tasks'"):
        figures.plot_comparison(example_report().to_dict(), path)
    with pytest.raises(TypeError, match="compared to be of type Mapping"):
        figures.plot_comparison([example_report()], path)
    assert list(tmp_path.iterdir()) == []
