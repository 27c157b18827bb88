"""Rewards for Countdown: is the answer an expression, does it use the numbers, is it right.

Source: TinyZero and MiniR1, with their faults mended: exact rational arithmetic instead of
`eval`, integers only (`1.5*2` does not use 1, 5 and 2), and `65 = 55 + 10` is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from aha.answers.expression import (
    Expression,
    ExpressionError,
    bare_equation,
    expression_side,
    other_side,
    parse_expression,
)
from aha.answers.tags import Text, answer_block, with_opened_thoughts
from aha.rewards.base import Reward, column


def check_answer(answer: str | None, target: int, nums: Sequence[int]) -> bool | None:
    """Whether an answer reaches the target with each number exactly once.

    None when the answer is no arithmetic expression at all.
    """
    if answer is None:
        return None
    try:
        expression, claimed = _read(answer)
    except ExpressionError:
        return None
    return _miss(expression, claimed, target, nums) is None


def whole(value: Any) -> int:
    """A column's value as an integer. Errors: ValueError for anything else."""
    if isinstance(value, str):
        return int(value)
    if isinstance(value, bool) or value != int(value):
        raise ValueError(f"a Countdown number is {value!r}; it must be an integer.")
    return int(value)


def _read(answer: str) -> tuple[Expression, str]:
    """The expression of an answer, and the other side of its equation ("" without one)."""
    equation = bare_equation(answer)
    return parse_expression(expression_side(equation)), other_side(equation)


def _claims_target(claimed: str, target: int) -> bool:
    """Whether the other side of an equation, when there is one, is the target."""
    if not claimed:
        return True
    try:
        return parse_expression(claimed).value == whole(target)
    except ExpressionError:
        return False


def why_not(answer: str | None, target: int, nums: Sequence[int]) -> str | None:
    """What is wrong with an answer, in words; None when it is right."""
    if answer is None:
        return "there is no answer block"
    try:
        expression, claimed = _read(answer)
    except ExpressionError as error:
        return f"not an expression: {error}"
    return _miss(expression, claimed, target, nums)


def _miss(expression: Expression, claimed: str, target: int, nums: Sequence[int]) -> str | None:
    """How an expression misses the numbers or the target; None when it does not."""
    if not _uses_each_once(expression, nums):
        return f"it uses {list(expression.numbers)}, not each of {list(nums)} exactly once"
    if expression.value != whole(target):
        return f"it is {expression.value}, not {target}"
    if not _claims_target(claimed, target):
        return f"the other side of the equation is not {target}"
    return None


def _uses_each_once(expression: Expression, nums: Sequence[int]) -> bool:
    return Counter(expression.numbers) == Counter(whole(n) for n in nums)


class EquationReward(Reward):
    """`correct` for an expression that uses each given number exactly once and equals the
    target, `valid` for an expression that misses either, 0 otherwise.

    Range 0 to `correct`; reads the last answer block. Columns: target, nums. Source: MiniR1.
    """

    name: ClassVar[str] = "equation"

    correct: float = 2.0
    valid: float = 0.1

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        targets = column(columns, "target", self.name)
        nums = column(columns, "nums", self.name)
        rows = zip(prompts, completions, targets, nums, strict=True)
        return [
            self._score(check_answer(answer_block(with_opened_thoughts(p, c)), target, numbers))
            for p, c, target, numbers in rows
        ]

    def _score(self, checked: bool | None) -> float:
        if checked is None:
            return 0.0
        return self.correct if checked else self.valid
