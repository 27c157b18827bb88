"""Word problems in one to three steps, made from templates (`word_problems.yaml`).

A problem's key is its text with numbers but without names and things. So no test problem stands in
the training set under other names.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from operator import add, floordiv, mul, sub
from typing import Any

from aha.sections import TaskSection
from aha.tasks.task import Columns, Split, Task, distinct
from aha.types import Problem, UserError
from aha.visible import package_yaml

_OPERATORS = {"+": add, "-": sub, "*": mul, "/": floordiv}


def work_out(formulas: Sequence[str], numbers: dict[str, int], max_value: int) -> list[str] | None:
    """Formulas such as `x = a + b` as lines `3 + 4 = 7`; their results are added to `numbers`.

    None if a result is not a whole number from 1 to `max_value`.
    """
    lines = []
    for formula in formulas:
        name, _, left, operator, right = formula.split()
        a, b = (numbers[term] if term.isalpha() else int(term) for term in (left, right))
        if operator == "/" and (b == 0 or a % b):
            return None
        value = _OPERATORS[operator](a, b)
        if not 1 <= value <= max_value:
            return None
        numbers[name] = value
        lines.append(f"{a} {operator} {b} = {value}")
    return lines


class WordProblems(Task):
    """Problems have the columns `problem`, `answer`, `solution`, `steps` and `form`.

    `form` is the text with its numbers, but without the names and the things.
    """

    name = "word-problems"
    summary = "stories that ask for a number, in 1 to 3 steps; generated"
    columns = ("problem", "answer", "solution", "steps", "form")
    generates = True
    own_keys = ("steps",)
    rules = "gsm8k"
    example = "Omar has 3 pens and buys 4 more. How many pens does he have? #### 7"

    def problem(self, row: Columns, where: str) -> Problem:
        for column in self.columns:
            if row.get(column) is None:
                raise UserError(
                    f"{where}: column {column!r} is missing; rows of this task have "
                    f"{', '.join(self.columns)}. Take task.name custom for rows of your own."
                )
        columns = {column: row[column] for column in self.columns}
        return Problem(self.name, f"{self.name}:{row['form']}", columns)

    def claims(self, columns: Columns) -> bool:
        return all(columns.get(column) is not None for column in ("problem", "steps", "form"))

    def generate(self, section: TaskSection, split: Split, seed: int) -> Iterator[Problem]:
        rng = random.Random(f"{self.name}:{split}:{seed}")
        stories: Mapping[str, Any] = package_yaml("aha.tasks", "word_problems.yaml")
        # First the number of steps: each is as frequent, whatever the number of its templates.
        by_steps = {
            count: [story for story in stories["templates"] if len(story["steps"]) == count]
            for count in section.steps
        }

        def draw() -> Problem | None:
            story = rng.choice(by_steps[rng.choice(section.steps)])
            numbers = {x: rng.randint(section.number_min, section.number_max) for x in "abcd"}
            given = work_out(story.get("given", ()), numbers, section.max_value)
            if given is None:
                return None
            lines = work_out(story["steps"], numbers, section.max_value)
            if lines is None:
                return None
            name, friend = rng.sample(stories["names"], 2)
            items, others = rng.sample(stories["items"], 2)
            words = {"name": name, "friend": friend, "items": items, "others": others}
            blanks = {word: f"{{{word}}}" for word in words}
            answer = lines[-1].rpartition(" ")[2]
            row = {
                "problem": story["text"].format(**words, **numbers),
                "answer": answer,
                "solution": "\n".join([*lines, f"#### {answer}"]),
                "steps": len(lines),
                "form": story["text"].format(**blanks, **numbers),
            }
            return self.problem(row, "generated")

        return distinct(draw, split)

    def ranges(self, section: TaskSection) -> str:
        return (
            f"steps {list(section.steps)}, numbers {section.number_min} to {section.number_max}, "
            f"results up to {section.max_value}"
        )

    def difficulty(self, columns: Columns) -> str:
        return f"{columns['steps']} steps"
