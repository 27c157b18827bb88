"""Arithmetic that a model wrote, parsed and evaluated exactly: never `eval`, never a float.

Grammar: integers, + - * / and parentheses, with Unicode's times, division and minus signs and
full-width characters read as such. A sign may stand before a term (`-3 + 5`). Powers, floor
division, decimals and names are errors. Length, depth and digits are bounded, so hostile text costs
microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 400
MAX_DEPTH = 40
MAX_DIGITS = 12

_UNICODE_OPERATORS = str.maketrans(
    {
        "\u00d7": "*",  # multiplication sign
        "\u22c5": "*",  # dot operator
        "\u00b7": "*",  # middle dot
        "\u00f7": "/",  # division sign
        "\u2215": "/",  # division slash
        "\u2212": "-",  # minus sign
        "\u2013": "-",  # en dash
    }
    | {chr(ord(plain) + 0xFEE0): plain for plain in "0123456789+-*/()="}  # full-width
)
_LATEX_OPERATORS = {"\\times": "*", "\\cdot": "*", "\\div": "/"}
_LATEX_OPERATOR = re.compile(r"\\times|\\cdot|\\div")
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_OPERATOR = re.compile(r"[-+*/]")
_DELIMITER = re.compile(r"[$`]|\\[()\[\]]")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]*)\}")
# Markdown's asterisks around a side of an equation, or around all of it.
_EMPHASIS = re.compile(r"(^|=)\s*(\*{1,3})(?!\*)(.*?)\2\s*(?=$|=)", re.DOTALL)


class ExpressionError(ValueError):
    """The text is not an expression; the message says why."""


@dataclass(frozen=True)
class Expression:
    """An exact value and the integers that were written, in order, with repeats."""

    value: Fraction
    numbers: tuple[int, ...]


def parse_expression(text: str) -> Expression:
    """The value and numbers of an arithmetic expression.

    Errors: ExpressionError for anything outside the grammar or its bounds, and for a
    division by zero.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
    plain = _LATEX_OPERATOR.sub(lambda match: _LATEX_OPERATORS[match.group()], text)
    parser = _Parser(list(_tokens(plain.translate(_UNICODE_OPERATORS))))
    value = parser.sum(depth=0)
    if parser.position != len(parser.tokens):
        raise ExpressionError(f"{parser.tokens[parser.position]!r} is out of place")
    return Expression(value, tuple(parser.numbers))


def bare_equation(answer: str) -> str:
    """A Countdown answer without what may stand around its mathematics.

    That is `\\boxed{}`, dollars, `\\( \\)`, backticks, asterisks around a side or the whole, and
    one full stop at the end. Full-width characters become plain ones. Words stay, so that an answer
    in prose is no expression.
    """
    text = answer.strip()
    if len(text) > MAX_CHARACTERS:
        return text
    if not text.isascii():
        text = text.translate(_UNICODE_OPERATORS)
    # A space in their place: `5$5` is not 55.
    text = _DELIMITER.sub(" ", text).strip().removesuffix(".").rstrip()
    if text[:1] == "*" or text[-1:] == "*":
        text = _EMPHASIS.sub(r"\1\3", text).strip().removesuffix(".")
    if "\\" in text:
        whole = _BOXED.fullmatch(text)
        text = whole[1].strip().removesuffix(".") if whole else _BOXED.sub(r"(\1)", text)
    return text


def expression_side(text: str) -> str:
    """The side of an equation that is the expression: `65 = 55 + 10` and `55 + 10 = 65` alike.

    That is the side with an operator; the left one when both or neither have one.
    Errors: ExpressionError for more than one `=`.
    """
    sides = text.split("=")
    if len(sides) == 1:
        return text.strip()
    if len(sides) > 2:
        raise ExpressionError("more than one '='")
    left, right = (side.strip() for side in sides)
    left_plain = left.translate(_UNICODE_OPERATORS).lstrip("- ")
    right_plain = right.translate(_UNICODE_OPERATORS).lstrip("- ")
    if _OPERATOR.search(right_plain) and not _OPERATOR.search(left_plain):
        return right
    return left


def other_side(text: str) -> str:
    """What stands on the other side of the equation; "" when there is no equation."""
    side = expression_side(text)
    left, _, right = text.partition("=")
    return right.strip() if left.strip() == side else left.strip()


def _tokens(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"{text[position]!r} is not allowed")
        if len(match.group()) > MAX_DIGITS:
            raise ExpressionError(f"a number has more than {MAX_DIGITS} digits")
        yield match.group()
        position = match.end()


class _Parser:
    """Recursive descent: sum -> product -> factor -> number | ( sum )."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.numbers: list[int] = []

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while (operator := self.take("+", "-")) is not None:
            right = self.product(depth)
            value = value + right if operator == "+" else value - right
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while (operator := self.take("*", "/")) is not None:
            right = self.factor(depth)
            if operator == "/" and right == 0:
                raise ExpressionError("division by zero")
            value = value * right if operator == "*" else value / right
        return value

    def factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested deeper than {MAX_DEPTH}")
        if self.take("-") is not None:
            return -self.factor(depth + 1)
        if self.take("(") is not None:
            value = self.sum(depth + 1)
            if self.take(")") is None:
                raise ExpressionError("a parenthesis is not closed")
            return value
        return self.number()

    def number(self) -> Fraction:
        if self.position >= len(self.tokens):
            raise ExpressionError("it ends where a number is expected")
        token = self.tokens[self.position]
        if not token.isdigit():
            raise ExpressionError(f"{token!r} stands where a number is expected")
        self.position += 1
        self.numbers.append(int(token))
        return Fraction(int(token))

    def take(self, *wanted: str) -> str | None:
        if self.position < len(self.tokens) and self.tokens[self.position] in wanted:
            self.position += 1
            return self.tokens[self.position - 1]
        return None
