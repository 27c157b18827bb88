"""Tasks whose problem is a text and whose gold is an answer: GSM8K, MATH, and your own.

Every problem has the columns `problem` and, where the row had one, `answer` (the gold, bare) and
`solution` (as it came), whatever the set calls them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from aha.answers.numbers import parse_number
from aha.answers.tags import last_boxed
from aha.types import Problem, UserError

# Columns that evaluations group by; kept when a row has them.
_KEPT = ("level", "subject", "type", "unique_id", "id")


def text_key(problem: str) -> str:
    """The identity of a text problem: case and white space do not matter."""
    folded = " ".join(problem.lower().split())
    return f"text:{hashlib.sha256(folded.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def gsm8k_problem(row: Mapping[str, Any], where: str) -> Problem | None:
    """From `question` and `answer` ("... #### 72", or the number alone); None without a gold."""
    problem, answer = _text(row, "question", where), _text(row, "answer", where)
    gold = answer.rpartition("####")[2].strip()
    if parse_number(gold) is None:
        return None
    return _problem("gsm8k", problem, row, answer=gold, solution=answer)


def math_problem(row: Mapping[str, Any], where: str) -> Problem | None:
    """From `problem` and `answer`, or `solution` with a box; None without a gold."""
    problem = _text(row, "problem", where)
    if row.get("answer") is None and row.get("solution") is None:
        raise UserError(
            f"{where}: column 'solution' (with a boxed answer) or 'answer' is missing; this row "
            f"has {sorted(row)}."
        )
    solution = str(row.get("solution") or "")
    given = "" if row.get("answer") is None else str(row["answer"]).strip()
    gold = given or last_boxed(solution)
    return _problem("math", problem, row, answer=gold, solution=solution) if gold else None


def stratos_problem(row: Mapping[str, Any], where: str) -> Problem | None:
    """From `conversations` [{from, value}]: the user's turn, and the box in the assistant's."""
    turns = row.get("conversations")
    if turns is None:
        raise UserError(f"{where}: column 'conversations' is missing; this row has {sorted(row)}.")
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
    return _problem("bespoke-stratos", problem, row, answer=gold, solution=solution)


def custom_problem(row: Mapping[str, Any], where: str) -> Problem:
    """From `problem` alone; `answer` and `solution` are kept when there are any."""
    problem = _text(row, "problem", where)
    known = {name: str(row[name]) for name in ("answer", "solution") if row.get(name) is not None}
    others = {k: v for k, v in row.items() if k not in ("problem", *known)}
    return Problem("custom", text_key(problem), {"problem": problem, **others, **known})


def text_question(columns: Mapping[str, Any]) -> str:
    """The problem as it stands in the set."""
    return str(columns["problem"])


def _problem(task: str, problem: str, row: Mapping[str, Any], **golds: str) -> Problem:
    kept = {name: row[name] for name in _KEPT if row.get(name) is not None}
    return Problem(task, text_key(problem), {"problem": problem, **golds, **kept})


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise UserError(f"{where}: column {column!r} is missing; this row has {sorted(row)}.")
    value = row[column]
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise UserError(f"{where}: {column} is {value!r}; it must be a text that is not empty.")
    return str(value).strip()
