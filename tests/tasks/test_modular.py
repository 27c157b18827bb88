"""Modular equations: their problems, solutions, answers and typed forms."""

from __future__ import annotations

from itertools import islice

import pytest

from aha.sections import TaskSection
from aha.tasks import check_completion, task_of
from aha.tasks.modular import Modular, solution
from aha.tasks.task import split_of
from aha.types import UserError

RANGES = TaskSection(name="modular", number_min=7, number_max=13, max_value=199)
# 5 * 6 + 2 = 32, and 32 - 28 = 4.
COLUMNS = {"a": 5, "b": 2, "target": 4, "m": 7}


def test_the_solution_by_hand() -> None:
    assert solution(COLUMNS) == 6


@pytest.mark.parametrize("split", ["train", "test"])
def test_problems_have_one_solution_within_their_ranges(split: str) -> None:
    problems = list(islice(Modular().generate(RANGES, split, seed=0), 300))  # type: ignore[arg-type]
    assert len({p.key for p in problems}) == 300
    for problem in problems:
        c = problem.columns
        assert split_of(problem.key) == split
        assert 7 <= c["m"] <= 13
        assert c["a"] * (c["m"] - 1) + c["b"] <= 199
        hits = [x for x in range(c["m"]) if (c["a"] * x + c["b"]) % c["m"] == c["target"]]
        assert hits == [solution(c)]


@pytest.mark.parametrize(
    ("answer", "right"),
    [("6", True), (" 6 ", True), ("13", False), ("-1", False), ("6.0", False), ("six", False),
     ("6 or 7", False), ("", False)],
)  # fmt: skip
def test_only_the_smallest_solution_is_right(answer: str, right: bool) -> None:
    text = f"5 * 6 = 30 , yes . </think> <answer> {answer} </answer>"
    verdict = check_completion("Solve 5 * x + 2 = 4 mod 7 . <think>", text, COLUMNS)
    assert verdict.strict == right


def test_a_row_is_claimed_by_its_columns() -> None:
    assert task_of(COLUMNS).name == "modular"
    assert Modular().difficulty(COLUMNS) == "modulus  7"
    assert Modular().compact_question(COLUMNS) == "Solve 5 * x + 2 = 4 mod 7 ."
    assert "remainder 4" in Modular().question(COLUMNS)


@pytest.mark.parametrize("text", ["5 * x + 2 = 4 mod 7", "Solve 5*x+2=4 mod 7."])
def test_a_typed_problem(text: str) -> None:
    problem = Modular().typed(text)
    assert problem.columns == COLUMNS
    assert Modular().typed(Modular().written(problem.columns)) == problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5 x = 3", "is no modular equation"),
        ("2 * x + 1 = 3 mod 4", "share no factor"),
        ("5 * x + 9 = 4 mod 7", "b and target 0 to m - 1"),
    ],
)
def test_a_wrong_typed_problem_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Modular().typed(text)


def test_a_row_that_is_no_problem_names_what_is_wrong() -> None:
    with pytest.raises(UserError, match="row 3: a row of this task has whole numbers"):
        Modular().problem({"a": 1, "b": None}, "row 3")
