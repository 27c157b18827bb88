"""Arithmetic that a model wrote, parsed and evaluated exactly: never `eval`, never a float.

One parser reads two grammars. `parse_expression` reads answers of Countdown: integers, + - * / and
parentheses, with a minus sign before a term (`-3 + 5`). Decimals, powers and names are errors.
`read_side` reads prose as well: `$1,200 / 4`, `2.5 * 3`, `20%`, `2(3 + 4)`, `2^3`. Both read
Unicode and LaTeX signs. Length, depth and digits are bounded, so hostile text costs microseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_CHARACTERS = 400
MAX_SIDE_CHARACTERS = 200
MAX_DEPTH = 40
MAX_DIGITS = 12
MAX_EXPONENT = 20

# One character for one character, so that positions stay those of the text.
OPERATORS = {
    "\u00d7": "*",  # multiplication sign
    "\u22c5": "*",  # dot operator
    "\u00b7": "*",  # middle dot
    "\u00f7": "/",  # division sign
    "\u2215": "/",  # division slash
    "\u2212": "-",  # minus sign
    "\u2013": "-",  # en dash
}
OPERATORS |= {chr(ord(plain) + 0xFEE0): plain for plain in "0123456789+-*/()="}  # full-width
_UNICODE_OPERATORS = str.maketrans(OPERATORS)
_LATEX_OPERATOR = re.compile(r"\\(times|cdot|div)")
_OPERATOR = re.compile(r"[-+*/]")

# A token of each grammar, or a character that the grammar does not have.
_STRICT_TOKEN = re.compile(r"\s*(?:(?P<whole>[0-9]+)|(?P<sign>[-+*/()])|(?P<other>\S))")
_PROSE_TOKEN = re.compile(
    r"""[\s$\u20ac\u00a3\u00a5]*
    (?: (?: (?P<whole> [0-9]{1,3} (?:,[0-9]{3}){1,4} (?![0-9]) | [0-9]{1,15} )
            (?: \. (?P<part>[0-9]{1,11}) )?
          | \. (?P<only>[0-9]{1,11}) )
        (?P<percent>[ ]?%)?
      | (?P<sign> \*\* | [-+*/()^] )
      | (?P<other> [^\s$\u20ac\u00a3\u00a5] ) )""",
    re.VERBOSE,
)

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


@dataclass(frozen=True)
class Equation:
    """An expression, the text of the other side ("" without one), and that side's value, if any."""

    expression: Expression
    claimed: str
    claimed_value: Fraction | None


@dataclass(frozen=True)
class Number:
    """A number as written: its value, a per cent as hundredths, and the decimals of that value."""

    value: Fraction
    decimals: int
    percent: bool

    def stands_for(self, exact: Fraction) -> bool:
        """True if it is `exact`, or has decimals and is `exact` rounded or cut off at them."""
        return self.value == exact or (self.decimals > 0 and self.rounds(exact))

    def rounds(self, exact: Fraction) -> bool:
        """True if `exact`, rounded or cut off at the digits written, is this number."""
        scaled, written = abs(exact) * 10**self.decimals, abs(self.value) * 10**self.decimals
        same_sign = exact * self.value >= 0
        return same_sign and written in (scaled // 1, (scaled + Fraction(1, 2)) // 1)


@dataclass(frozen=True)
class Side:
    """A side's exact value; `number` when it is one number and no expression.

    `lead` is the number it begins with and `lead_end` where that ends, counted from the side's
    start: in `3 * 4 = 12 + 2 = 14` the middle side goes on from 12. `decimals` and `percent`: such
    numbers are in it; `adds`: it has a sum or a difference.
    """

    value: Fraction
    number: Number | None
    lead: Number | None
    lead_end: int
    decimals: bool
    percent: bool
    adds: bool


def parse_expression(text: str) -> Expression:
    """The value and numbers of an arithmetic expression of integers. Errors: ExpressionError."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS} characters")
    tokens = _tokens(text, _STRICT_TOKEN)
    value = _Parser(tokens).value()
    return Expression(value, tuple(int(token.text) for token in tokens if token.number is not None))


def parse_equation(text: str) -> Equation:
    """The expression of `65 = 55 + 10`, `55 + 10 = 65` or `55 + 10`, and what it claims to be.

    The expression is the side with an operator; the left one when both or neither have one.
    Errors: ExpressionError where that side is no expression, and for more than one `=`.
    """
    side, *others = [part.strip() for part in text.split("=")]
    if len(others) > 1:
        raise ExpressionError("more than one '='")
    claimed = others[0] if others else ""
    if _has_operator(claimed) and not _has_operator(side):
        side, claimed = claimed, side
    expression = parse_expression(side)
    try:
        return Equation(expression, claimed, parse_expression(claimed).value)
    except ExpressionError:
        return Equation(expression, claimed, None)


@lru_cache(maxsize=1 << 12)  # the completions of a problem share most of their arithmetic
def read_side(text: str) -> Side | None:
    """The value of one side of an equation in prose; None for anything else or out of bounds.

    Left out: variables, units between numbers, roots, powers of brackets or with an exponent over
    20, and a product without a sign beside a division (`6/2(1+2)`), which people read in two ways.
    """
    if not text or len(text) > MAX_SIDE_CHARACTERS:
        return None
    try:
        tokens = _tokens(text, _PROSE_TOKEN)
        first = 1 if tokens and tokens[0].text in ("+", "-") else 0
        lead = tokens[first].number if len(tokens) > first else None
        if lead is not None and tokens[0].text == "-":
            lead = Number(-lead.value, lead.decimals, lead.percent)
        if lead is not None and len(tokens) == 1 + first:
            value, number = lead.value, lead
        else:
            value, number = _Parser(tokens, prose=True).value(), None
    except ExpressionError:
        return None
    numbers = [token.number for token in tokens if token.number is not None]
    return Side(
        value,
        number,
        lead,
        lead_end=0 if lead is None else tokens[first].end,
        decimals=any(written.decimals > 2 * written.percent for written in numbers),
        percent=any(written.percent for written in numbers),
        adds=number is None and any(token.text in ("+", "-") for token in tokens[1:]),
    )


def bare_equation(answer: str) -> str:
    """A Countdown answer without the marks that may stand around its mathematics.

    The marks are `\\boxed{}`, dollars, `\\( \\)`, backticks, asterisks around a side or the whole,
    and one full stop at the end. Full-width characters become plain ones. Words stay, so that an
    answer in prose is no expression.
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


def _has_operator(side: str) -> bool:
    """True if the side of an equation has an operator beside a minus sign that it begins with."""
    return _OPERATOR.search(side.translate(_UNICODE_OPERATORS).lstrip("- ")) is not None


@dataclass(frozen=True)
class _Token:
    """A number (`number` is its value) or a sign, at text[start:end]."""

    text: str
    start: int
    end: int
    number: Number | None


def _tokens(text: str, grammar: re.Pattern[str]) -> list[_Token]:
    if not text.isascii():
        text = text.translate(_UNICODE_OPERATORS)
    if "\\" in text:
        # Padded to the same length, so that positions stay those of the text.
        text = _LATEX_OPERATOR.sub(
            lambda match: ("/" if match[1] == "div" else "*").ljust(len(match[0])), text
        )
    tokens = []
    for match in grammar.finditer(text):
        found = match.groupdict()
        if found["other"]:
            raise ExpressionError(f"{found['other']!r} is not allowed")
        if found["sign"]:
            tokens.append(_Token(found["sign"], match.start("sign"), match.end(), None))
            continue
        whole, part = found["whole"] or "", found.get("part") or found.get("only") or ""
        percent = found.get("percent") is not None
        decimals = len(part) + 2 * percent
        digits = whole.replace(",", "") + part
        start = match.start("whole") if whole else match.start("only") - 1
        number = Number(Fraction(int(digits), 10**decimals), decimals, percent)
        tokens.append(_Token(text[start : match.end()], start, match.end(), number))
    return tokens


@dataclass
class _Parser:
    """Recursive descent: sum -> product -> factor -> number | ( sum )."""

    tokens: list[_Token]
    prose: bool = False
    position: int = 0

    def value(self) -> Fraction:
        value = self.sum(depth=0)
        if self.position != len(self.tokens):
            raise ExpressionError(f"{self.tokens[self.position].text!r} is out of place")
        return value

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while (operator := self.take("+", "-")) is not None:
            right = self.product(depth)
            value = value + right if operator == "+" else value - right
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while True:
            if self.take("*") is not None:
                value *= self.factor(depth)
            elif self.take("/") is not None:
                right = self.factor(depth)
                if right == 0:
                    raise ExpressionError("division by zero")
                value /= right
            elif self.prose and self.at_product_without_sign():
                value *= self.factor(depth)
            else:
                return value

    def at_product_without_sign(self) -> bool:
        """True at `(` after a number or bracket that touches it, and at a number after `)`."""
        if self.position >= len(self.tokens):
            return False
        last, token = self.tokens[self.position - 1], self.tokens[self.position]
        if last.end != token.start:
            return False
        if token.text == "(":
            found = last.text[-1] in "0123456789)"
        else:
            found = last.text == ")" and token.text[0] in "0123456789"
        if found and any(token.text == "/" for token in self.tokens):
            raise ExpressionError("a product without a sign beside a division")
        return found

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
        base = self.number()
        if not self.prose or self.take("^", "**") is None:
            return base.value
        exponent = self.number()
        if base.percent or exponent.decimals or exponent.value > MAX_EXPONENT:
            raise ExpressionError("a power that is not read")
        return base.value ** int(exponent.value)

    def number(self) -> Number:
        if self.position >= len(self.tokens):
            raise ExpressionError("it ends where a number is expected")
        token = self.tokens[self.position]
        if token.number is None:
            raise ExpressionError(f"{token.text!r} stands where a number is expected")
        if sum(c.isdigit() for c in token.text) > MAX_DIGITS:
            raise ExpressionError(f"a number has more than {MAX_DIGITS} digits")
        self.position += 1
        return token.number

    def take(self, *wanted: str) -> str | None:
        if self.position < len(self.tokens) and self.tokens[self.position].text in wanted:
            self.position += 1
            return self.tokens[self.position - 1].text
        return None
