"""Tasks whose problem is a text and whose gold is an answer: GSM8K, MATH, and your own.

Every problem has the columns `problem` and, if the row had them, `answer` (the gold, bare) and
`solution` (unchanged), whatever the data set calls them. Answers are compared as mathematics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

from aha.answers.equal import MAX_CHARACTERS, Pair, normal_text, shared_verifier
from aha.answers.numbers import parse_quantity
from aha.answers.tags import last_boxed, lenient_answer
from aha.sections import TaskSection
from aha.tasks.task import Columns, Task, Vote
from aha.types import Problem, UserError
from aha.visible import quoted

# Columns that evaluations group by; kept when a row has them.
_KEPT = ("level", "subject", "type", "unique_id", "id")
# GSM8K marks each computation of a gold solution so.
_COMPUTATION = "<<"


def text_key(problem: str) -> str:
    """The identity of a text problem: case and white space do not matter."""
    folded = " ".join(problem.lower().split())
    return f"text:{hashlib.sha256(folded.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def gold_answer(columns: Columns) -> str | None:
    """The gold of a row: `answer` (plain, or what follows "####"), else the box in `solution`.

    None if the row has neither.
    """
    answer = columns.get("answer")
    text = "" if answer is None else str(answer).strip()
    if text and text.lower() != "nan":  # how pandas writes a missing cell
        return text.rpartition("####")[2].strip() if "####" in text else bare(text)
    solution = columns.get("solution")
    return None if solution is None else last_boxed(str(solution))


def bare(answer: str) -> str:
    """An answer without a box around it."""
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


class TextTask(Task):
    """Base of the tasks with a text and a gold answer; each says how it reads a row."""

    def question(self, columns: Columns) -> str:
        return str(columns["problem"])

    def read_answer(self, text: str) -> str | None:
        return lenient_answer(text)

    def correct_many(
        self, answers: Sequence[str | None], rows: Sequence[Columns]
    ) -> list[bool | None]:
        golds = [gold_answer(row) for row in rows]
        pairs = [
            Pair(gold, bare(answer or ""))
            for answer, gold in zip(answers, golds, strict=True)
            if gold is not None
        ]
        outcomes = iter(shared_verifier().equal_many(pairs) if pairs else ())
        found = ["no_gold" if gold is None else next(outcomes) for gold in golds]
        return [None if outcome == "no_gold" else outcome == "equal" for outcome in found]

    def gold(self, columns: Columns) -> str | None:
        return gold_answer(columns)

    def why_wrong(self, answer: str | None, columns: Columns) -> str:
        gold = gold_answer(columns)
        if gold is None:
            return ""
        if answer is None:
            return "there is no answer"
        return f"the answer is {quoted(answer)}, not {gold}"

    def vote_key(self, answer: str | None) -> Vote | None:
        """By exact value ("1,000", "1000.0", "$1000"), else by the text without what
        `aha.answers.equal` passes over (space, sizes of brackets, dollars).

        Left out: algebra. It compares pairs, for seconds each; a vote needs one form an answer.
        """
        if answer is None or not answer.strip():
            return None
        text = bare(answer)
        if len(text) > MAX_CHARACTERS:
            return Vote(text)
        quantity = parse_quantity(text) or parse_quantity(normal_text(text))
        return Vote(normal_text(text)) if quantity is None else Vote(quantity.value, quantity.unit)

    def difficulty(self, columns: Columns) -> str | None:
        """MATH: its level. GSM8K: the computations of the gold solution."""
        level = columns.get("level")
        if level is not None:
            text = str(level)
            return text if text.lower().startswith("level") else f"level {text}"
        steps = str(columns.get("answer", "")).count(_COMPUTATION)
        return f"{steps:2d} steps" if steps else None

    def typed(self, text: str) -> Problem:
        """The question; the part after the last `####` is its gold answer."""
        question, marked, gold = text.rpartition("####")
        question, gold = (question.strip(), gold.strip()) if marked else (text, "")
        if not question:
            raise UserError(
                f"the problem {quoted(text)} has no question before ####, which announces its "
                "answer."
            )
        columns = {"problem": question, **({"answer": gold} if gold else {})}
        return Problem(self.name, text_key(question), columns)

    def written(self, columns: Columns) -> str:
        return str(columns["problem"])

    def notes(self, problem: Problem, section: TaskSection) -> tuple[str, ...]:
        if "answer" in problem.columns:
            return ()
        return ("without an answer nothing can be judged; add one as: QUESTION #### ANSWER",)

    def _made(self, problem: str, row: Columns, **golds: str) -> Problem:
        kept = {name: row[name] for name in _KEPT if row.get(name) is not None}
        return Problem(self.name, text_key(problem), {"problem": problem, **golds, **kept})


def _text(row: Columns, column: str, where: str) -> str:
    if column not in row:
        raise UserError(f"{where}: column {column!r} is missing; this row has {sorted(row)}.")
    value = row[column]
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise UserError(f"{where}: {column} is {value!r}; it must be a text that is not empty.")
    return str(value).strip()


class Gsm8k(TextTask):
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
        return self._made(problem, row, answer=gold, solution=answer)


class Math(TextTask):
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
        return self._made(problem, row, answer=gold, solution=solution) if gold else None


class NuminaMathTir(Math):
    """As MATH, from NuminaMath-TIR."""

    name = "numina-math-tir"
    summary = "NuminaMath-TIR: problem and solution (boxed)"
    columns: ClassVar[tuple[str, ...]] = ("problem", "solution")
    hub = "AI-MO/NuminaMath-TIR@train"
    hub_test = "AI-MO/NuminaMath-TIR@test"


class BespokeStratos(TextTask):
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
        return self._made(problem, row, answer=gold, solution=solution)


class Custom(TextTask):
    """`problem` alone; `answer`, `solution` and all other columns are kept for rewards."""

    name = "custom"
    summary = "your own rows: problem, and answer or solution where there is one"
    columns = ("problem",)

    def problem(self, row: Columns, where: str) -> Problem:
        problem = _text(row, "problem", where)
        golds = {n: str(row[n]) for n in ("answer", "solution") if row.get(n) is not None}
        others = {k: v for k, v in row.items() if k not in ("problem", *golds)}
        return Problem(self.name, text_key(problem), {"problem": problem, **others, **golds})
