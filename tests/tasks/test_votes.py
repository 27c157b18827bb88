"""Answers that vote for the same."""

from __future__ import annotations

import time

import pytest

from aha.evaluate.passk import majority
from aha.tasks import TASKS

vote = TASKS["math"].vote_key


@pytest.mark.parametrize(
    "same",
    [
        ("1,000", "1000", "1000.0", "$1000", "1000 dollars", "\\boxed{1{,}000}", " 1000. "),
        ("0.5", "1/2", "\\frac{1}{2}", "\\dfrac12", "x = 0.5"),
        ("-3", "\u22123"),
        ("(1, 2)", "\\left( 1,2 \\right)", "$(1,2)$"),
        ("\\frac{\\sqrt{3}}{2}", "\\dfrac{\\sqrt{3}}{2}"),
    ],
)
def test_mathematics_of_one_form(same: tuple[str, ...]) -> None:
    found = [vote(answer) for answer in same]
    assert majority([*found[:1], vote("another"), *found[1:]]) == 0
    assert len({one.form for one in found if one}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("72", "73"), ("7 2", "72"), ("0.4", "40%"), ("x + 1", "1 + x"), ("(1,2)", "(2,1)")],
)
def test_mathematics_of_two_forms(one: str, other: str) -> None:
    assert vote(one) != vote(other)


def test_a_countdown_expression_is_its_value_and_its_numbers() -> None:
    form = TASKS["countdown"].vote_key

    assert form("5 + 6") == form("6+5") == form("5 + 6 = 11") == form("11 = (6 + 5)")
    assert form("5 + 6") == form("\\boxed{5 + 6}") == form("**6 + 5 = 11**")
    assert form("5 + 6") != form("5 + 5 + 1")
    assert form("5 + 6") != form("5 * 6")
    # An equation that is false is another answer, and so is what is no expression.
    assert form("5 + 6 = 12") != form("5 + 6")
    assert form("eleven") == form(" eleven ") != form("ten")
    # A number is read as an expression here: `1,000` is none.
    assert form("11") != form("5 + 6")


def test_no_answer_is_no_vote() -> None:
    assert vote(None) is None
    assert vote("  ") is None


def test_units_separate_only_where_they_differ() -> None:
    votes = [vote(answer) for answer in ("9", "5", "5 hours", "5 hours")]
    assert majority(votes) == 1
    mixed = [vote(answer) for answer in ("5 minutes", "5 hours", "5", "5 hours")]
    assert majority(mixed) == 1


def test_hostile_answers_cost_nothing() -> None:
    began = time.perf_counter()
    for answer in ("9" * 100_000, "(" * 100_000, "{" * 50_000, "\\left" * 20_000, "1," * 50_000):
        for task in ("countdown", "math"):
            assert TASKS[task].vote_key(answer) is not None
    assert time.perf_counter() - began < 2
