"""Tasks whose problem is a text and whose gold is an answer: GSM8K, MATH, and your own.

Every problem has the columns `problem` and, if the row had them, `answer` (the gold, bare) and
`solution` (unchanged), whatever the data set calls them.
"""

from __future__ import annotations

from typing import ClassVar

from aha.answers.numbers import parse_quantity
from aha.answers.tags import last_boxed
from aha.tasks.task import Columns, Task, text_key
from aha.types import Problem, UserError

# Columns that evaluations group by; kept when a row has them.
_KEPT = ("level", "subject", "type", "unique_id", "id")


def _made(task: str, problem: str, row: Columns, **golds: str) -> Problem:
    kept = {name: row[name] for name in _KEPT if row.get(name) is not None}
    return Problem(task, text_key(problem), {"problem": problem, **golds, **kept})


def _text(row: Columns, column: str, where: str) -> str:
    if column not in row:
        raise UserError(f"{where}: column {column!r} is missing; this row has {sorted(row)}.")
    value = row[column]
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise UserError(f"{where}: {column} is {value!r}; it must be a text that is not empty.")
    return str(value).strip()


class Gsm8k(Task):
    """`question` and `answer` ("... #### 72", or the number alone)."""

    name = "gsm8k"
    summary = "grade-school word problems; question and answer"
    columns = ("question", "answer")
    hub = "openai/gsm8k:main@train"
    hub_test = "openai/gsm8k:main@test"
    rules = "gsm8k"
    harness_metrics = ("gsm8k_strict_match", "gsm8k_flexible_extract")

    def problem(self, row: Columns, where: str) -> Problem | None:
        problem, answer = _text(row, "question", where), _text(row, "answer", where)
        gold = answer.rpartition("####")[2].strip()
        if parse_quantity(gold) is None:
            return None
        return _made(self.name, problem, row, answer=gold, solution=answer)


class Math(Task):
    """`problem` and `answer`, or `solution` with a box."""

    name = "math"
    summary = "MATH, MATH-500, AIME: problem, and solution (boxed) or answer"
    columns: ClassVar[tuple[str, ...]] = ("problem", "solution", "answer")
    rules = "math"
    hub = "DigitalLearningGmbH/MATH-lighteval@train"
    hub_test = "HuggingFaceH4/MATH-500@test"

    def problem(self, row: Columns, where: str) -> Problem | None:
        problem = _text(row, "problem", where)
        if row.get("answer") is None and row.get("solution") is None:
            raise UserError(
                f"{where}: column 'solution' (with a boxed answer) or 'answer' is missing; this "
                f"row has {sorted(row)}."
            )
        solution = str(row.get("solution") or "")
        given = "" if row.get("answer") is None else str(row["answer"]).strip()
        gold = given or last_boxed(solution)
        return _made(self.name, problem, row, answer=gold, solution=solution) if gold else None


class NuminaMathTir(Math):
    """As MATH, from NuminaMath-TIR."""

    name = "numina-math-tir"
    summary = "NuminaMath-TIR: problem and solution (boxed)"
    columns: ClassVar[tuple[str, ...]] = ("problem", "solution")
    hub = "AI-MO/NuminaMath-TIR@train"
    hub_test = "AI-MO/NuminaMath-TIR@test"


class BespokeStratos(Task):
    """`conversations` [{from, value}]: the user's turn, and the box in the assistant's."""

    name = "bespoke-stratos"
    summary = "Bespoke-Stratos-17k: conversations, the assistant's answer boxed"
    columns = ("conversations",)
    hub = "bespokelabs/Bespoke-Stratos-17k@train"

    def problem(self, row: Columns, where: str) -> Problem | None:
        turns = row.get("conversations")
        if turns is None:
            raise UserError(
                f"{where}: column 'conversations' is missing; this row has {sorted(row)}."
            )
        try:
            said = {turn["from"]: str(turn["value"]) for turn in turns}
        except (TypeError, KeyError):
            raise UserError(
                f"{where}: conversations must be a list of {{from, value}}, not {turns!r:.80}."
            ) from None
        problem = said.get("user") or said.get("human")
        solution = said.get("assistant") or said.get("gpt") or ""
        gold = last_boxed(solution)
        if not problem or not gold:
            return None
        return _made(self.name, problem, row, answer=gold, solution=solution)


class Custom(Task):
    """`problem` alone; `answer`, `solution` and all other columns are kept for rewards."""

    name = "custom"
    summary = "your own rows: problem, and answer or solution where there is one"
    columns = ("problem",)

    def problem(self, row: Columns, where: str) -> Problem:
        problem = _text(row, "problem", where)
        golds = {n: str(row[n]) for n in ("answer", "solution") if row.get(n) is not None}
        others = {k: v for k, v in row.items() if k not in ("problem", *golds)}
        return Problem(self.name, text_key(problem), {"problem": problem, **others, **golds})
