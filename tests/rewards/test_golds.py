"""Every gold answer scores full marks in the asked format, and a wrong number never does.

On the excerpts in tests/data, and on the whole sets when AHA_DATA names a folder with
gsm8k/train.jsonl, gsm8k/test.jsonl, math500/test.jsonl and aime24/test.jsonl.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aha.rewards import load_reward
from aha.sections import TaskSection
from aha.tasks import TASKS, check_completions
from aha.types import Problem

DATA = Path(__file__).parents[1] / "data"
WHOLE = os.environ.get("AHA_DATA")


def problems(task: str, path: Path) -> list[Problem]:
    return list(TASKS[task].read(TaskSection(name=task), str(path)).problems)


def wrong(gold: str) -> str:
    """A number that is not the gold: one more, where the gold is a number."""
    digits = gold.replace(",", "")
    return str(int(digits) + 1) if digits.lstrip("-").isdigit() else "-987654321"


LAYOUTS = [
    (" <think>", "</think> <answer>{}</answer>"),
    ("", "<reasoning>\nx\n</reasoning>\n<answer>\n{}\n</answer>\n"),
]


def check(found: list[Problem]) -> None:
    golds = [problem.columns["answer"] for problem in found]
    for opened, tags in LAYOUTS:
        prompts = [f"{problem.columns['problem']}{opened}" for problem in found]
        rows = [problem.columns for problem in found]
        right = check_completions(prompts, [tags.format(gold) for gold in golds], rows)
        assert [p.key for p, v in zip(found, right, strict=True) if not v.strict] == []
        false = check_completions(prompts, [tags.format(wrong(gold)) for gold in golds], rows)
        assert [p.key for p, v in zip(found, false, strict=True) if v.lenient] == []


EXCERPTS = [("gsm8k", "gsm8k.jsonl"), ("math", "math500.jsonl"), ("math", "aime24.jsonl")]


@pytest.mark.parametrize(("task", "name"), EXCERPTS)
def test_golds_of_the_excerpts(task: str, name: str) -> None:
    found = problems(task, DATA / name)
    assert len(found) >= 10
    check(found)


@pytest.mark.parametrize(("task", "name"), EXCERPTS)
def test_raw_golds_are_read_by_the_reward(task: str, name: str) -> None:
    """As TRL would pass them: the column as it stands in the set."""
    found = problems(task, DATA / name)
    solutions = [p.columns.get("solution") or f"\\boxed{{{p.columns['answer']}}}" for p in found]
    column = "answer" if task == "gsm8k" else "solution"
    completions = [f"<think></think><answer>{p.columns['answer']}</answer>" for p in found]
    values = load_reward("accuracy")(
        prompts=[""] * len(found), completions=completions, **{column: solutions}
    )
    assert values == [1.0] * len(found)


@pytest.mark.skipif(WHOLE is None, reason="AHA_DATA names no folder with the whole sets")
@pytest.mark.parametrize(
    ("task", "name"),
    [("gsm8k", "gsm8k/train.jsonl"), ("gsm8k", "gsm8k/test.jsonl"),
     ("math", "math500/test.jsonl"), ("math", "aime24/test.jsonl")],
)  # fmt: skip
def test_golds_of_the_whole_sets(task: str, name: str) -> None:
    assert WHOLE is not None
    check(problems(task, Path(WHOLE) / name))
