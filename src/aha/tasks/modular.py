"""Modular equations: find x with a * x + b = target modulo m.

`m` does not share a factor with `a`, so there is exactly one solution from 0 to m - 1. Every
operation stays within whole numbers: the remainder of 17 modulo 7 is written as 17 - 14 = 3.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence

from aha.answers.tags import answer_block
from aha.sections import TaskSection
from aha.tasks.countdown import whole
from aha.tasks.task import Columns, Split, Task, Vote, distinct
from aha.types import Problem, UserError
from aha.visible import quoted

_TYPED = re.compile(r"(?:solve )?(\d{1,6}) ?\* ?x ?\+ ?(\d{1,6}) ?= ?(\d{1,6}) ?mod ?(\d{1,6})\.?")


def solution(columns: Columns) -> int:
    """The x from 0 to m - 1."""
    m = columns["m"]
    return int((columns["target"] - columns["b"]) * pow(columns["a"], -1, m) % m)


class Modular(Task):
    """Problems have the whole numbers `a`, `b`, `target` and `m` as columns."""

    name = "modular"
    summary = "find x with a * x + b = target modulo m; generated"
    columns = ("a", "b", "target", "m")
    generates = True
    searches = True
    example = "5 * x + 2 = 4 mod 7"
    rules = "countdown"

    def problem(self, row: Columns, where: str) -> Problem:
        try:
            a, b, target, m = (whole(row.get(column)) for column in self.columns)
        except ValueError:
            raise UserError(
                f"{where}: a row of this task has whole numbers a, b, target and m; this one has "
                f"{quoted({column: row.get(column) for column in self.columns})}."
            ) from None
        if not (m > 1 and 0 < a < m and 0 <= b < m and 0 <= target < m and math.gcd(a, m) == 1):
            raise UserError(
                f"{where}: a is {a}, b {b}, target {target}, m {m}; a must be 1 to m - 1 and share "
                "no factor with m, b and target 0 to m - 1."
            )
        columns = {"a": a, "b": b, "target": target, "m": m}
        return Problem(self.name, f"{self.name}:{a},{b},{target},{m}", columns)

    def claims(self, columns: Columns) -> bool:
        return all(columns.get(column) is not None for column in self.columns)

    def generate(self, section: TaskSection, split: Split, seed: int) -> Iterator[Problem]:
        """As `Task.generate`; `number_min` and `number_max` bound m."""
        rng = random.Random(f"{self.name}:{split}:{seed}")

        def draw() -> Problem | None:
            m = rng.randint(max(2, section.number_min), section.number_max)
            a, b, target = rng.randrange(m), rng.randrange(m), rng.randrange(m)
            if math.gcd(a, m) != 1 or a * (m - 1) + b > section.max_value:
                return None
            return self.problem({"a": a, "b": b, "target": target, "m": m}, "generated")

        return distinct(draw, split)

    def ranges(self, section: TaskSection) -> str:
        return (
            f"moduli {section.number_min} to {section.number_max}, values up to {section.max_value}"
        )

    def question(self, columns: Columns) -> str:
        return (
            f"For which whole number x from 0 to {columns['m'] - 1} does {columns['a']} * x + "
            f"{columns['b']} leave the remainder {columns['target']} when it is divided by "
            f"{columns['m']}?"
        )

    def compact_question(self, columns: Columns) -> str:
        return f"Solve {self.written(columns)} ."

    def read_answer(self, text: str) -> str | None:
        return answer_block(text) or super().read_answer(text)

    def correct_many(
        self, answers: Sequence[str | None], rows: Sequence[Columns]
    ) -> list[bool | None]:
        return [not self.why_wrong(a, row) for a, row in zip(answers, rows, strict=True)]

    def gold(self, columns: Columns) -> str:
        return str(solution(columns))

    def why_wrong(self, answer: str | None, columns: Columns) -> str:
        if answer is None:
            return "there is no answer"
        gold = self.gold(columns)
        found = answer.strip()
        return "" if found == gold else f"the answer is {quoted(found)}, not {gold}"

    def vote_key(self, answer: str | None) -> Vote | None:
        return Vote(answer.strip()) if answer is not None and answer.strip() else None

    def difficulty(self, columns: Columns) -> str:
        return f"modulus {columns['m']:2d}"

    def typed(self, text: str) -> Problem:
        found = _TYPED.fullmatch(" ".join(text.lower().split()))
        if found is None:
            raise UserError(
                f"the problem {quoted(text)} is no modular equation; write one such as "
                f"{self.example}."
            )
        row = dict(zip(self.columns, map(int, found.groups()), strict=True))
        return self.problem(row, f"the problem {quoted(text)}")

    def written(self, columns: Columns) -> str:
        return "{a} * x + {b} = {target} mod {m}".format(**columns)

    def notes(self, problem: Problem, section: TaskSection) -> tuple[str, ...]:
        return ()
