from __future__ import annotations

import re
from itertools import islice

import pytest

from aha.recipe import load_recipe
from aha.sections import TaskSection
from aha.tasks import TASKS, check_completions, load_problems, task_of
from aha.tasks.word_problems import WordProblems, work_out
from aha.types import UserError

TASK = WordProblems()
RANGES = TaskSection(name="word-problems", number_min=2, number_max=20, max_value=200)
NUMBER = re.compile(r"\d+")


def test_formulas_by_hand() -> None:
    numbers = {"a": 3, "b": 4, "c": 5}
    lines = work_out(["x = a + b", "y = x * c", "z = y / 7"], numbers, 200)
    assert lines == ["3 + 4 = 7", "7 * 5 = 35", "35 / 7 = 5"]
    assert numbers["z"] == 5
    assert work_out(["x = a / b"], {"a": 3, "b": 4}, 200) is None
    assert work_out(["x = a - b"], {"a": 3, "b": 4}, 200) is None
    assert work_out(["x = a * b"], {"a": 30, "b": 40}, 200) is None


def test_every_problem_is_solved_by_its_own_solution() -> None:
    problems = list(islice(TASK.generate(RANGES, "train", 0), 600))
    rows = [problem.columns for problem in problems]
    verdicts = check_completions([""] * 600, [str(row["solution"]) for row in rows], rows, "hash")
    assert all(verdict.strict for verdict in verdicts)
    off = [f"#### {int(row['answer']) + 1}" for row in rows]
    assert not any(verdict.lenient for verdict in check_completions([""] * 600, off, rows, "hash"))
    for row in rows:
        assert int(row["steps"]) == str(row["solution"]).count("=")
        assert "{" not in str(row["problem"])
        # No number of the solution's first line comes from nowhere.
        first = NUMBER.findall(str(row["solution"]).split(" = ")[0])
        assert all(n in NUMBER.findall(str(row["problem"])) or n == "2" for n in first)
        assert all(1 <= int(n) <= 200 for n in NUMBER.findall(str(row["solution"])))
        assert task_of(row) is TASKS["word-problems"]


def test_templates_are_many_and_each_number_of_steps_is_as_frequent() -> None:
    problems = list(islice(TASK.generate(RANGES, "train", 0), 900))
    counts = [sum(p.columns["steps"] == steps for p in problems) for steps in (1, 2, 3)]
    assert min(counts) > 240
    texts = {NUMBER.sub("N", str(problem.columns["form"])) for problem in problems}
    assert len(texts) >= 40
    only = TaskSection(name="word-problems", steps=(2,), number_max=20, max_value=200)
    assert {p.columns["steps"] for p in islice(TASK.generate(only, "train", 0), 50)} == {2}


def test_splits_are_apart_whatever_the_names_and_seeds() -> None:
    train = {p.columns["form"] for p in islice(TASK.generate(RANGES, "train", 0), 2_000)}
    test = {p.columns["form"] for p in islice(TASK.generate(RANGES, "test", 0), 300)}
    assert len(test) == 300
    assert not train & test
    recipe = load_recipe("word-problems-smollm2", ["task.data_seed=3"])
    again = load_recipe("word-problems-smollm2")
    assert load_problems(recipe.task, "test", 20) == load_problems(again.task, "test", 20)
    assert load_problems(recipe.task, "train", 20) != load_problems(again.task, "train", 20)


def test_ranges_without_a_problem_are_one_sentence() -> None:
    ranges = TaskSection(name="word-problems", number_min=50, number_max=50, max_value=49)
    with pytest.raises(UserError, match="numbers 50 to 50, results up to 49"):
        load_problems(ranges, "train", 5)


def test_a_row_without_its_columns_is_one_sentence() -> None:
    with pytest.raises(UserError, match="row 1: column 'answer' is missing"):
        TASK.problem({"problem": "?"}, "row 1")


def test_problems_are_told_apart_by_their_steps() -> None:
    problem = next(TASK.generate(RANGES, "test", 0))
    assert TASK.difficulty(problem.columns) == f"{problem.columns['steps']} steps"
