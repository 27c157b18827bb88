from __future__ import annotations

from dataclasses import replace

import pytest

from aha.answers.equations import WrittenStep
from aha.reasoning.analysis import Analysis
from aha.reasoning.behaviours import Passage
from aha.report.before_after import behaviours, shares_chart
from aha.report.run_data import RunData, Written, load
from aha.runs import RunDirectory


def one(key: str, correct: bool, shows: bool, steps: tuple[bool, ...] = ()) -> Written:
    analysis = Analysis(
        passages=(Passage("self_check", 0, 1),) if shows else (),
        steps=tuple(WrittenStep(0, 1, true) for true in steps),
        corrected=False,
        reflections=int(shows),
    )
    return Written(key, "p", "t", correct, 1, "held out", analysis)


@pytest.fixture
def data(run: RunDirectory) -> RunData:
    return replace(
        load(run),
        before=(one("a", False, False, (True, False)), one("b", False, False, (True, True))),
        after=(one("a", True, True, (True,)), one("b", False, False)),
    )


def test_shares_rise_lift_and_steps_by_hand(data: RunData) -> None:
    found = behaviours(data)
    assert found is not None
    row = found.rows[0]
    assert row.label == "self-check"
    assert (row.before.value, row.after.value) == (0.0, 0.5)
    assert row.rise is not None
    assert row.rise.value == 0.5
    assert row.lift_before is None  # nobody shows it
    assert row.lift_after is not None
    assert row.lift_after.value == 1.0  # the one that shows it is right, the other is not
    assert found.steps == ((4, 0.75), (1, 1.0))
    assert found.phrases == (0.0, 0.5)


def test_thresholds_are_reached_where_the_mean_of_five_does(data: RunData) -> None:
    found = behaviours(data)
    assert found is not None
    # self_check_rate is step/40: the mean of steps s-4..s is (s-2)/40, so 0.1 at 6 and 0.5 at 22.
    assert found.rows[0].reaches == ((0.1, 6), (0.5, 22))
    # corrected_rate is a fifth of that: 0.1 at step 22, 0.5 never.
    assert found.rows[-1].reaches == ((0.1, 22), (0.5, None))


def test_an_older_run_has_no_steps_to_name(data: RunData) -> None:
    old = [{k: v for k, v in r.items() if not k.startswith("reasoning/")} for r in data.metrics]
    found = behaviours(replace(data, metrics=old))
    assert found is not None
    assert all(row.reaches == () for row in found.rows)


def test_without_evaluations_there_is_nothing_to_compare(data: RunData) -> None:
    assert behaviours(replace(data, after=())) is None


def test_the_chart_has_both_sides_with_intervals(data: RunData) -> None:
    chart = shares_chart([("before", data.before), ("after", data.after)])
    assert chart.categories[0] == "self-check"
    assert [bars.values[0] for bars in chart.series] == [0.0, 0.5]
    assert chart.series[1].low is not None
    assert chart.series[1].low[0] < 0.5
