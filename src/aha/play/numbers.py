"""Which of a Countdown problem's numbers a text has used: try by try, equation by equation.

A number may be used when it is given or was reached before in the same try, each once. Left out:
equations with other than whole numbers on the side that is worked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from aha.answers.expression import (
    ExpressionError,
    expression_side,
    other_side,
    parse_expression,
)

_OPERATORS = tuple("+-*/\u00d7\u00f7\u2212")


@dataclass(frozen=True)
class Uses:
    """After an equation: which given numbers its try has used, and what is wrong with its own."""

    used: tuple[bool, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class _Number:
    """A number that may be used, and the places of the given ones that it is made of."""

    value: Fraction
    made_of: frozenset[int]


class Tries:
    """Follows a text through its tries. An equation for which a number is missing, but which could
    begin anew, begins a new try."""

    def __init__(self, nums: Sequence[int]) -> None:
        self._given = tuple(
            _Number(Fraction(n), frozenset({place})) for place, n in enumerate(nums)
        )
        self.begin()

    def begin(self) -> None:
        """A new try: all given numbers are there again."""
        self._pool = list(self._given)
        self._used: frozenset[int] = frozenset()
        self._last: Fraction | None = None

    def follow(self, equation: str, goes_on: bool) -> Uses | None:
        """The next equation; `goes_on` when it begins with the result of the one before.

        None when its numbers cannot be read.
        """
        if goes_on and self._last is not None and equation.startswith(_OPERATORS):
            equation = f"{self._last} {equation}"
        try:
            expression = parse_expression(expression_side(equation))
        except ExpressionError:
            return None
        if len(expression.numbers) < 2:
            return None
        taken, missing = _take(self._pool, expression.numbers)
        if missing:
            anew, missing_anew = _take(self._given, expression.numbers)
            if not missing_anew:
                self.begin()
                taken, missing = anew, []
        for number in taken:
            self._pool.remove(number)
        made_of = frozenset().union(*(number.made_of for number in taken))
        self._last = _result(equation, expression.value)
        self._pool.append(_Number(self._last, made_of))
        self._used |= made_of
        return Uses(
            tuple(place in self._used for place in range(len(self._given))),
            tuple(self._fault(number) for number in missing),
        )

    def _fault(self, number: int) -> str:
        given = any(one.value == number for one in self._given)
        return f"{number} is used up" if given else f"{number} is not there"


def _take(pool: Sequence[_Number], numbers: Sequence[int]) -> tuple[list[_Number], list[int]]:
    """The members of the pool that are those numbers, the newest first, and what is missing."""
    left, taken, missing = list(pool), [], []
    for number in numbers:
        found = next((one for one in reversed(left) if one.value == number), None)
        if found is None:
            missing.append(number)
        else:
            left.remove(found)
            taken.append(found)
    return taken, missing


def _result(equation: str, value: Fraction) -> Fraction:
    """What the text goes on from: what it says is reached, be it true or not."""
    try:
        return parse_expression(other_side(equation)).value
    except ExpressionError:
        return value
