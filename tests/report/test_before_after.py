from __future__ import annotations

from dataclasses import replace

import pytest

from aha.answers.equations import WrittenStep
from aha.reasoning.analysis import Analysis
from aha.reasoning.behaviours import Passage
from aha.report.before_after import behaviours, rises, shares_chart, summary, tiles, words_chart
from aha.report.run_data import RunData, Written, load, pairs
from aha.runs import RunDirectory

NBSP = "\N{NO-BREAK SPACE}"


def written(key: str, tokens: int, correct: bool, *shows: str) -> Written:
    passages = tuple(Passage(name, 0, 1) for name in shows)
    analysis = Analysis(passages=passages, steps=(), corrected=False, reflections=0)
    return Written(key, "prompt", "text", correct, tokens, "held out", analysis)


BEFORE = [
    written("a", 10, False),
    written("b", 20, True),
    written("c", 30, False, "self_check"),
    written("d", 40, False),
]
AFTER = [
    written("a", 22, True, "backtracking", "self_check"),
    written("b", 34, True, "backtracking"),
    written("c", 46, False, "backtracking", "self_check"),
    written("d", 58, True),
]


def test_rises_are_paired_by_problem_whatever_the_order() -> None:
    found = rises(BEFORE, list(reversed(AFTER)))
    assert found is not None
    assert {one.n for one in found.values()} == {4}
    # Differences 12, 14, 16, 18: mean 15, sd sqrt(20/3), t(3, 97.5 %) = 3.182446.
    assert found["length"].value == 15
    half = 3.182446 * (20 / 3) ** 0.5 / 2
    assert found["length"].low == pytest.approx(15 - half, abs=1e-5)
    assert found["length"].high == pytest.approx(15 + half, abs=1e-5)
    assert (found["accuracy"].value, found["self_check"].value, found["backtracking"].value) == (
        0.5,
        0.25,
        0.75,
    )


def test_problems_of_one_side_only_are_left_out() -> None:
    assert [a.key for a, _ in pairs(BEFORE[:2], AFTER)] == ["a", "b"]
    assert rises(BEFORE[:1], AFTER) is None


def test_a_problem_that_stands_twice_is_paired_in_order() -> None:
    before = [written("a", 1, True), written("a", 2, True)]
    after = [written("a", 3, True), written("a", 4, True), written("a", 5, True)]
    assert [(a.tokens, b.tokens) for a, b in pairs(before, after)] == [(1, 3), (2, 4)]


def test_the_sentences_hold_figures_and_intervals(run: RunDirectory) -> None:
    sentences = summary(load(run))
    # One of six, five of six; Wilson's intervals by hand with z = 1.959964.
    assert sentences[0] == (
        f"On 6 held-out problems accuracy (strict) went from 16.7{NBSP}% (95 % interval 3.0 to "
        f"56.4{NBSP}%) to 83.3{NBSP}% (43.6 to 97.0{NBSP}%)."
    )
    # Lengths 40, 20 x 5 before and 40 x 5, 20 after: differences 0, 20 x 4, 0: mean
    # 13.333, sd 10.328, t(5, 97.5 %) = 2.570582.
    assert "completions grew by 13.3 tokens (95 % interval 2.49 to 24.2)" in sentences[1]
    assert len(sentences) == 2
    shown = tiles(load(run))
    assert [label for label, *_ in shown][:2] == ["accuracy, strict", "length, tokens"]
    assert shown[0][1:3] == (f"16.7{NBSP}%", f"83.3{NBSP}%")


def test_a_fall_is_told_by_its_size(run: RunDirectory) -> None:
    before, after = run.read_lines("eval-before.jsonl"), run.read_lines("eval-after.jsonl")
    run.write_lines("eval-before.jsonl", after)
    run.write_lines("eval-after.jsonl", before)
    assert "shrank by 13.3 tokens (95 % interval 2.49 to 24.2)" in summary(load(run))[1]


def test_what_may_be_chance_is_not_called_a_rise(run: RunDirectory) -> None:
    run.write_lines("eval-after.jsonl", run.read_lines("eval-before.jsonl"))
    sentence = summary(load(run))[1]
    assert "did not change measurably" in sentence
    assert "grew" not in sentence
    assert "rose" not in sentence


def test_a_run_that_goes_on_is_told_from_training_alone(run: RunDirectory) -> None:
    (run.path / "eval-after.jsonl").unlink()
    sentences = summary(load(run))
    assert sentences[0] == "40 of 150 steps are done, with no evaluation yet after training."
    assert sentences[1].startswith("The reward of rollouts went from 0.0")
    assert tiles(load(run)) == []


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
    assert [share.value for share in row.shares] == [0.0, 0.5]
    assert row.rise is not None
    assert row.rise.value == 0.5
    before, after = row.lifts
    assert before is None  # nobody shows it
    assert after is not None
    assert after.value == 1.0  # the one that shows it is right, the other is not
    assert found.steps == [(4, 0.75), (1, 1.0)]
    assert found.phrases == [0.0, 0.5]


def test_thresholds_are_reached_where_the_mean_of_five_does(data: RunData) -> None:
    found = behaviours(data)
    assert found is not None
    # self_check_rate is step/40: the mean of steps s-4..s is (s-2)/40, so 0.1 at 6 and 0.5 at 22.
    assert found.rows[0].reaches == [(0.1, 6), (0.5, 22)]
    # corrected_rate is a fifth of that: 0.1 at step 22, 0.5 never.
    assert found.rows[-1].reaches == [(0.1, 22), (0.5, None)]


def test_an_older_run_has_no_steps_to_name(data: RunData) -> None:
    old = [{k: v for k, v in r.items() if not k.startswith("reasoning/")} for r in data.metrics]
    found = behaviours(replace(data, metrics=old))
    assert found is not None
    assert all(row.reaches == [] for row in found.rows)


def test_without_evaluations_there_is_nothing_to_compare(data: RunData) -> None:
    assert behaviours(replace(data, after=())) is None


def test_the_chart_has_both_sides_with_intervals(data: RunData) -> None:
    chart = shares_chart([("before", data.before), ("after", data.after)])
    assert chart.categories[0] == "self-check"
    assert [bars.values[0] for bars in chart.series] == [0.0, 0.5]
    assert chart.series[1].low is not None
    assert chart.series[1].low[0] < 0.5


def texts(run: RunDirectory, *found: str) -> list[Written]:
    first = load(run).before[0]
    return [replace(first, text=text) for text in found]


def test_counts_are_per_hundred_completions(run: RunDirectory) -> None:
    before = texts(run, "wait", "nothing", "nothing", "nothing")
    after = texts(run, "Wait, wait", "perhaps WAIT")
    chart = words_chart([("before", before), ("after", after)], "countdown")
    assert chart is not None
    assert list(chart.categories) == ["“wait”", "“perhaps”"]
    assert [bars.values for bars in chart.series] == [[25.0, 0.0], [150.0, 50.0]]


def test_the_most_frequent_phrase_comes_first(run: RunDirectory) -> None:
    chart = words_chart([("after", texts(run, "perhaps perhaps wait"))], "countdown")
    assert chart is not None
    assert list(chart.categories) == ["“perhaps”", "“wait”"]


def test_no_phrase_no_chart(run: RunDirectory) -> None:
    assert words_chart([("after", texts(run, "2 + 2 = 4"))], "countdown") is None
