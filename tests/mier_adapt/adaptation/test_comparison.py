import dataclasses

import numpy as np
import pytest

from mier_adapt.adaptation.comparison import compare, with_all_stages
from mier_adapt.agents import AdaptConfig
from mier_adapt.statistics import bootstrap_interval

from ..doubles import TINY_ADAPT, example_report

STAGES = ("initial context", "adapted context", "actor only", "relabeled")


def report(task: str, seed: int, returns, decision="relabeled", stages=STAGES):
    episodes = {
        stage: (value - 1.0, value + 1.0) for stage, value in zip(stages, returns, strict=True)
    }
    return example_report(task=task, seed=seed, returns=episodes, decision=decision)


REPORTS = [
    report("a", 0, (0, 10, 20, 30)),
    report("b", 0, (0, 20, 25, 5), decision="adapted context"),
    report("a", 1, (4, 14, 28, 38)),
    report("b", 1, (0, 20, 15, 25)),
]


@pytest.mark.parametrize("order", [1, -1])
def test_arms_are_means_over_tasks_and_seeds_with_paired_gains(order):
    compared = compare(REPORTS[::order])
    assert sorted(compared["tasks"]) == ["a", "b"]
    assert (compared["seeds"], compared["baseline"]) == ([0, 1], "adapted context")
    arms = compared["arms"]
    assert list(arms) == [*STAGES, "kept"]
    relabeled = arms["relabeled"]
    by_task = dict(zip(compared["tasks"], relabeled["returns"], strict=True))
    assert by_task == {"a": [30, 38], "b": [5, 25]}
    assert relabeled["mean"] == 24.5
    assert relabeled["mean_interval"] == bootstrap_interval(np.array(relabeled["returns"]))
    assert relabeled["gain"] == np.mean([20, 24, -15, 5])
    gains = {"a": [20.0, 24.0], "b": [-15.0, 5.0]}
    expected = bootstrap_interval(np.array([gains[task] for task in compared["tasks"]]))
    assert relabeled["gain_interval"] == expected
    assert relabeled["better"] == 1
    assert arms["kept"]["mean"] == np.mean([30, 20, 38, 25])
    assert arms["adapted context"]["gain"] == arms["adapted context"]["better"] == 0


def test_tasks_of_equal_labels_are_told_apart_by_their_parameters():
    other = [
        dataclasses.replace(each, task="a", parameters=(9.0, *each.parameters[1:]))
        for each in REPORTS
        if each.task == "b"
    ]
    compared = compare([*(each for each in REPORTS if each.task == "a"), *other])
    assert compared["tasks"] == ["a", "a"]
    assert compared["arms"]["relabeled"]["returns"] == [[30, 38], [5, 25]]


def test_one_seed_has_no_interval_and_only_common_stages_are_arms():
    compared = compare(
        [REPORTS[0], report("b", 0, (0, 9), stages=("initial context", "relabeled"))]
    )
    assert (compared["baseline"], list(compared["arms"])) == (
        "initial context",
        ["initial context", "relabeled", "kept"],
    )
    assert compared["arms"]["relabeled"]["gain_interval"] is None


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ([], "each task and seed"),
        (REPORTS[:3], "each task and seed"),
        ([REPORTS[0], REPORTS[0]], "each task and seed"),
        ([REPORTS[0], report("b", 0, (1,), stages=("unchanged",))], "stage in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(reports, message):
    with pytest.raises(ValueError, match=message):
        compare(reports)


def test_all_stages_run_whatever_the_configuration_leaves_out():
    left_out = {"refresh_updates": 0, "relabel_rounds": 0, "validation_threshold": -3.0}
    config = dataclasses.replace(TINY_ADAPT, **left_out)
    default = AdaptConfig()
    assert default.refresh_updates > 0
    assert default.relabel_rounds > 0
    assert with_all_stages(config) == dataclasses.replace(
        TINY_ADAPT,
        refresh_updates=default.refresh_updates,
        relabel_rounds=default.relabel_rounds,
        validation_threshold=None,
        learn_always=True,
    )
    assert with_all_stages(TINY_ADAPT) == dataclasses.replace(TINY_ADAPT, learn_always=True)
