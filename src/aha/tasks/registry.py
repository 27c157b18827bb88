"""What each task is: where its rows are, how one becomes a problem, how it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aha.tasks import countdown, texts
from aha.types import Problem

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TaskSpec:
    """A task by name.

    `hub` and `hub_test` are the sets that are read when the recipe names no file, written
    owner/name:config@split; none: there is no such set. `columns` are the columns that
    `make` reads; it returns None for a row without a gold answer.
    """

    name: str
    summary: str
    columns: tuple[str, ...]
    make: Callable[[Row, str], Problem | None]
    question: Callable[[Row], str]
    hub: str | None = None
    hub_test: str | None = None


def _countdown_question(columns: Row) -> str:
    return (
        f"Using the numbers {list(columns['nums'])}, create an equation that equals "
        f"{columns['target']}. You can use basic arithmetic operations (+, -, *, /) and each "
        "number must be used exactly once. Give the expression as the final answer, for example "
        "(1 + 2) / 3."
    )


TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "countdown",
            "reach a target from 3 or 4 numbers; generated, or rows with target and nums",
            ("target", "nums"),
            countdown.from_row,
            _countdown_question,
        ),
        TaskSpec(
            "gsm8k",
            "grade-school word problems; question and answer",
            ("question", "answer"),
            texts.gsm8k_problem,
            texts.text_question,
            hub="openai/gsm8k:main@train",
            hub_test="openai/gsm8k:main@test",
        ),
        TaskSpec(
            "math",
            "MATH, MATH-500, AIME: problem, and solution (boxed) or answer",
            ("problem", "solution", "answer"),
            texts.math_problem,
            texts.text_question,
            hub="DigitalLearningGmbH/MATH-lighteval@train",
            hub_test="HuggingFaceH4/MATH-500@test",
        ),
        TaskSpec(
            "numina-math-tir",
            "NuminaMath-TIR: problem and solution (boxed)",
            ("problem", "solution"),
            texts.math_problem,
            texts.text_question,
            hub="AI-MO/NuminaMath-TIR@train",
            hub_test="AI-MO/NuminaMath-TIR@test",
        ),
        TaskSpec(
            "bespoke-stratos",
            "Bespoke-Stratos-17k: conversations, the assistant's answer boxed",
            ("conversations",),
            texts.stratos_problem,
            texts.text_question,
            hub="bespokelabs/Bespoke-Stratos-17k@train",
        ),
        TaskSpec(
            "custom",
            "your own rows: problem, and answer or solution where there is one",
            ("problem",),
            texts.custom_problem,
            texts.text_question,
        ),
    )
}
