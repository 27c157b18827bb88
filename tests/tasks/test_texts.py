from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aha.sections import TaskSection
from aha.tasks import TASKS, ProblemSet, check_completions, load_problems
from aha.tasks.data import overlap, prepare
from aha.types import Problem, UserError

DATA = Path(__file__).parents[1] / "data"
SETS = [
    ("countdown", "countdown.jsonl", 40),
    ("gsm8k", "gsm8k.jsonl", 40),
    ("math", "math500.jsonl", 40),
    ("math", "aime24.jsonl", 10),
    ("numina-math-tir", "numina.jsonl", 24),
    ("bespoke-stratos", "stratos.jsonl", 24),
]


def section(name: str, **changes: Any) -> TaskSection:
    return TaskSection(name=name, **changes)


def load_all(task: str, source: str) -> ProblemSet:
    return TASKS[task].read(section(task), source)


def custom(text: str) -> Problem:
    problem = TASKS["custom"].problem({"problem": text}, "row 1")
    assert problem is not None
    return problem


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(("task", "name", "count"), SETS)
def test_every_set_loads_with_a_gold_for_every_row(task: str, name: str, count: int) -> None:
    found = load_all(task, str(DATA / name))
    assert found.rows == count
    assert len(found.problems) + found.duplicates == count
    assert found.without_gold == 0
    assert found.losses() is None


@pytest.mark.parametrize(("task", "name", "count"), SETS[1:])
def test_golds_are_bare_and_right(task: str, name: str, count: int) -> None:
    problems = load_all(task, str(DATA / name)).problems
    rows = [problem.columns for problem in problems]
    assert all("####" not in row["answer"] and "boxed" not in row["answer"] for row in rows)
    texts = [f"<think></think><answer>{row['answer']}</answer>" for row in rows]
    assert all(v.strict for v in check_completions([""] * len(rows), texts, rows))


def test_rows_without_a_gold_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        {"question": f"What is {i}?", "answer": f"... #### {i}" if i % 3 else "I do not know"}
        for i in range(1, 31)
    ]
    source = write(tmp_path / "rows.jsonl", rows)
    found = load_all("gsm8k", source)
    assert (len(found.problems), found.without_gold) == (20, 10)
    losses = found.losses()
    assert losses is not None
    assert "10 of 30 rows" in losses
    assert "line 3" in losses


def test_a_set_without_any_gold_is_one_sentence(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"question": "?", "answer": "none"}])
    with pytest.raises(UserError, match=r"leaves no problem.*1 of 1 rows have no gold"):
        load_problems(section("gsm8k", source=source), "train", None)


@pytest.mark.parametrize(
    ("task", "row", "word"),
    [
        ("gsm8k", {"question": "?"}, "'answer' is missing"),
        ("gsm8k", {"question": "", "answer": "1"}, "question is ''"),
        ("math", {"problem": "?"}, "'solution'"),
        ("bespoke-stratos", {"system": ""}, "'conversations' is missing"),
        ("bespoke-stratos", {"conversations": [1]}, "list of {from, value}"),
        ("custom", {"question": "?"}, "'problem' is missing"),
    ],
)
def test_a_missing_column_is_one_sentence(
    tmp_path: Path, task: str, row: dict[str, Any], word: str
) -> None:
    source = write(tmp_path / "rows.jsonl", [row])
    with pytest.raises(UserError) as caught:
        load_all(task, source)
    assert word in str(caught.value)
    assert "line 1" in str(caught.value)


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"frage": "1 + 1?", "antwort": 2, "level": 3}])
    mapped = section("custom", columns={"problem": "frage", "answer": "antwort"})
    (problem,) = TASKS["custom"].read(mapped, source).problems
    assert problem.columns == {"problem": "1 + 1?", "answer": "2", "level": 3}
    wrong = section("custom", columns={"problem": "question"})
    with pytest.raises(UserError, match=r"task\.columns maps 'problem' to 'question'"):
        TASKS["custom"].read(wrong, source)


def test_a_problem_column_alone_is_a_custom_set() -> None:
    assert custom("Why?").columns == {"problem": "Why?"}


def test_the_boxed_answer_is_the_last_whole_one() -> None:
    row = {"problem": "p", "solution": "\\boxed{1} so \\boxed{\\frac{1}{\\sqrt{2}}} and \\boxed{3"}
    problem = TASKS["math"].problem(row, "row 1")
    assert problem is not None
    assert problem.columns["answer"] == "\\frac{1}{\\sqrt{2}}"


def test_a_gold_of_zero_is_a_gold() -> None:
    for gold in (0, 0.0, "0"):
        problem = TASKS["math"].problem({"problem": "p", "answer": gold}, "row 1")
        assert problem is not None
        assert problem.columns["answer"] == str(gold)


def test_stratos_without_a_box_has_no_gold() -> None:
    turns = [{"from": "user", "value": "p"}, {"from": "assistant", "value": "maybe 3"}]
    assert TASKS["bespoke-stratos"].problem({"conversations": turns}, "row 1") is None


def test_a_test_set_of_its_own_is_never_trained_on(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "answer": str(i)} for i in range(50)]
    train = write(tmp_path / "train.jsonl", rows)
    test = write(tmp_path / "test.jsonl", [{"question": "what  is 7?", "answer": "7"}, *rows[40:]])
    task = section("gsm8k", source=train, test_source=test)
    found = load_problems(task, "train", None)
    held_out = load_problems(task, "test", None)
    assert len(held_out.problems) == 11
    assert len(found.problems) == 39
    assert found.other_split == 11
    assert not {p.key for p in found.problems} & {p.key for p in held_out.problems}


def test_overlap_finds_shared_words_in_a_row() -> None:
    long = "a train leaves the station at nine in the morning and arrives at noon"
    one = [custom(text) for text in (long, "two plus two", "unrelated")]
    other = [custom(text) for text in (f"So {long.upper()}!", "two plus two", "train station")]
    assert overlap(one, other) == [one[0].key, one[1].key]


def test_prepare_writes_files_that_load_again(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"Problem {i} of many words that differ: {i * 7} and {i * 13}?",
            "answer": str(i),
        }
        for i in range(60)
    ]
    source = write(tmp_path / "all.jsonl", [*rows, rows[0]])
    task = section("gsm8k", source=source)
    train, test = (load_problems(task, split, None) for split in ("train", "test"))
    assert train.duplicates + test.duplicates == 1
    left_out = train.problems[0]
    row = {"question": left_out.columns["problem"], "answer": "1"}
    other = write(tmp_path / "other.jsonl", [row])
    assert prepare(TASKS["gsm8k"], task, tmp_path / "out", [other]) == [
        train.account("train"),
        test.account("test"),
        "overlap with the test split: 0 of 53 training problems share 8 words in a row (0.00%)",
        f"overlap with {other}: 1 of 53 training problems share 8 words in a row (1.89%)",
        "written: 52 training and 7 test problems",
    ]
    for name, problems in (("train", train.problems[1:]), ("test", test.problems)):
        again = load_all("custom", str(tmp_path / "out" / f"{name}.jsonl"))
        assert [p.key for p in again.problems] == [p.key for p in problems]
