"""The registry of tasks, and the contract that every task keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aha.sections import TaskSection
from aha.tasks import TASKS, Task, check_completions, task_of
from aha.tasks.task import Vote
from aha.types import Problem

SOURCE = Path(__file__).parents[2] / "src" / "aha"


def test_rows_belong_to_a_task_by_their_columns() -> None:
    assert task_of({"target": 24, "nums": [3, 8]}).name == "countdown"
    for columns in ({"target": 24}, {"target": None, "nums": [1]}, {"problem": "?"}, {}):
        assert task_of(columns).name == "custom"


def test_completions_of_several_tasks_are_checked_in_one_call() -> None:
    rows: list[Mapping[str, Any]] = [
        {"problem": "?", "answer": "0.5"},
        {"target": 24, "nums": [3, 8]},
        {"problem": "?"},
        {"target": 24, "nums": [3, 8]},
        {"problem": "?", "answer": "2"},
    ]
    answers = ["1/2", "8 * 3", "7", "3 + 8", "3"]
    texts = [f"<think></think><answer>{answer}</answer>" for answer in answers]
    verdicts = check_completions([""] * 5, texts, rows)
    assert [v.answer for v in verdicts] == answers
    assert [(v.lenient, v.known) for v in verdicts] == [
        (True, True), (True, True), (False, False), (False, True), (False, True),
    ]  # fmt: skip


def test_strict_is_the_layout_that_the_prompt_asks_for() -> None:
    text, row = "3 + 4 = 7\n#### 7", {"problem": "?", "answer": "7"}
    for layout, strict in (("hash", True), ("think", False), ("boxed", False), (None, True)):
        (verdict,) = check_completions([""], [text], [row], layout)
        assert (verdict.strict, verdict.lenient, verdict.well_formed) == (strict, True, strict)


class Parity(Task):
    """A task as somebody may add it: one class, and one line in the registry."""

    name = "parity"
    summary = "is a number even"
    columns = ("number",)

    def problem(self, row: Mapping[str, Any], where: str) -> Problem:
        columns = {"problem": f"Is {row['number']} even?", "number": row["number"]}
        return Problem(self.name, f"parity:{row['number']}", columns)

    def claims(self, columns: Mapping[str, Any]) -> bool:
        return "number" in columns

    def correct_many(self, answers: Any, rows: Any) -> list[bool | None]:
        right = [("no" if row["number"] % 2 else "yes") for row in rows]
        return [answer == gold for answer, gold in zip(answers, right, strict=True)]

    def vote_key(self, answer: str | None) -> Vote | None:
        return Vote(answer) if answer else None


def test_a_new_task_is_one_class_and_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task: Task = Parity()
    monkeypatch.setitem(TASKS, task.name, task)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"number": {n}}}\n' for n in range(40)))
    section = TaskSection(name="parity", source=str(rows))
    train, test = (task.load(section, split, None).problems for split in ("train", "test"))
    assert len(train) + len(test) == 40
    assert test
    assert task.question(train[0].columns) == train[0].columns["problem"]
    (verdict,) = check_completions([""], ["<answer>yes</answer>"], [{"number": 4}])
    assert verdict.lenient
    assert not verdict.strict


def test_only_tasks_compare_names_and_columns_of_tasks() -> None:
    sniffs = re.compile(
        r"is_countdown|[\"']nums[\"'] in |\btask(\.name|_name)? *[!=]= |== *[\"']countdown|"
        r"\.task [!=]= "
    )
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.parent.name != "tasks"
        for line in path.read_text(encoding="utf-8").splitlines()
        if sniffs.search(line)
    ]
    assert found == []


def difficulty_of(columns: Mapping[str, Any]) -> str | None:
    return task_of(columns).difficulty(columns)


def test_difficulty_in_the_words_of_the_task() -> None:
    assert difficulty_of({"target": 5, "nums": [1, 2, 3]}) == "3 numbers"
    assert difficulty_of({"problem": "x", "level": "Level 4"}) == "Level 4"
    assert difficulty_of({"problem": "x", "level": 4}) == "level 4"
    gold = "He has <<2+2=4>>4 and <<4*2=8>>8.\n#### 8"
    for answer, expected in ((gold, " 2 steps"), ("8", None)):
        problem = TASKS["gsm8k"].problem({"question": "x", "answer": answer}, "a row")
        assert problem is not None
        assert difficulty_of(problem.columns) == expected
