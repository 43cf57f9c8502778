import re

import pytest

from ..doubles import example_report


def cells(report) -> dict[str, list[str]]:
    """The table's rows by stage."""
    _, head, *rows = str(report).split("novelty:")[0].split("model loss:")[0].splitlines()
    assert re.split(r" {3,}", head.strip()) == ["return, 2 episodes", "real transitions", "seconds"]
    return {name: numbers for name, *numbers in (re.split(r" {3,}", row) for row in rows)}


def test_a_report_prints_what_each_stage_returned_and_cost():
    assert cells(example_report()) == {
        "initial context": ["0 ± 10", "0", "0"],
        "adapted context": ["100 ± 10", "4,000", "1"],
        "actor only": ["200 ± 10", "4,000", "3"],
        "relabeled": ["300 ± 20", "4,000", "431"],
        "gate": ["95 → 305", "400", "5"],
    }


def test_a_report_prints_its_decision_losses_and_novelty():
    text = str(example_report())
    assert text.startswith("negated joints 1,4,6, seed 3. Kept relabeled: it returned more.")
    assert "new task 9.00 → 3.00 → -1.00; held out 8.00 → 2.00 → -2.00" in text
    assert "earlier tasks -7.00 → -6.00" in text
    assert "novelty: -1.2 (known tasks: 0 ± 1)" in text
    assert "20,000 transitions for 500 updates; models disagree by 0.12" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_report_counts_what_went_on_with_what_it_made_alone():
    base = example_report()
    log = ({"transitions": 0, "steps": 119, "return": 1.0, "policy": "continued"},)
    report = example_report(
        returns={**base.returns, "continued": (400.0, 400.0)},
        seconds={**base.seconds, "continue": 1_000.0},
        continued=log,
        continued_transitions=119,
    )
    made = cells(report)
    assert made["relabeled"] == ["300 ± 20", "4,000", "431"]
    assert made["continued"][1:] == ["4,119", "1431"]


@pytest.mark.parametrize("base", ["unchanged", "adapted context"])
def test_a_report_prints_the_stages_that_ran(base):
    report = example_report(
        returns={base: (0.0, 2.0), "relabeled": (9.0, 9.0)}, gate_returns={}, novelty=None
    )
    assert list(cells(report)) == [base, "relabeled"]
    assert "novelty" not in str(report)
