"""When two answers to one problem are the same answer, for majority votes.

Left out: algebra. It could show that more answers are equal, but compares pairs, for seconds
each; a vote needs one form an answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from aha.answers.equal import MAX_CHARACTERS, normal_text
from aha.answers.expression import (
    ExpressionError,
    bare_equation,
    expression_side,
    other_side,
    parse_expression,
)
from aha.answers.numbers import parse_quantity
from aha.rewards.accuracy import bare, is_countdown


@dataclass(frozen=True)
class Ballot:
    """What an answer votes for: `form`, and the unit it names ("" for none).

    Answers of one form are the same answer, unless they name different units.
    """

    form: Hashable
    unit: str = ""


def ballot(answer: str | None, columns: Mapping[str, Any]) -> Ballot | None:
    """The vote of an extracted answer to the problem with these columns; None without an answer.

    Numbers by exact value ("1,000", "1000.0", "$1000"); Countdown expressions by value and the
    numbers they use, in any order; other mathematics by its text without what
    `aha.answers.equal` passes over (space, sizes of brackets, dollars).
    """
    if answer is None or not answer.strip():
        return None
    if is_countdown(columns):
        return _of_expression(answer)
    text = bare(answer)
    if len(text) > MAX_CHARACTERS:
        return Ballot(text)
    quantity = parse_quantity(text) or parse_quantity(normal_text(text))
    return Ballot(normal_text(text)) if quantity is None else Ballot(quantity.value, quantity.unit)


def _of_expression(answer: str) -> Ballot:
    """An equation votes as its expression when it is true, else for its text alone."""
    try:
        equation = bare_equation(answer)
        expression = parse_expression(expression_side(equation))
        claimed = other_side(equation)
        if not claimed or parse_expression(claimed).value == expression.value:
            return Ballot((expression.value, tuple(sorted(expression.numbers))))
    except ExpressionError:
        pass
    return Ballot("".join(answer.split()))
