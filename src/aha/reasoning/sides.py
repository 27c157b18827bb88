"""One side of an equation as a model writes it: `$1,200 / 4`, `2.5 * 3`, `20%`, `2(3 + 4)`, `2^3`.

What arithmetic means is `aha.answers.expression`'s; here the rest is rewritten to it. Left out, so
that a side has no value: variables, units between numbers, roots, powers of brackets or with an
exponent over 20, and an implied product beside a division (`6/2(1+2)`), which people read in two
ways.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from aha.answers.expression import ExpressionError, parse_expression

MAX_CHARACTERS = 200
MAX_EXPONENT = 20

_NUMBER_PATTERN = (
    r"(?:(?P<whole>[0-9]{1,3}(?:,[0-9]{3}){1,4}(?![0-9])|[0-9]{1,15})(?:\.(?P<part>[0-9]{1,11}))?"
    r"|\.(?P<only>[0-9]{1,11}))(?P<percent> ?%)?"
)
_NUMBER = re.compile(_NUMBER_PATTERN)
_SIGNED_NUMBER = re.compile(rf"(?P<sign>[-+] ?)?{_NUMBER_PATTERN}")
_CURRENCY = re.compile("[$\u20ac\u00a3]")
_POWER = re.compile(
    r"(?<![0-9.,)])([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(?:\^|\*\*) ?([0-9]{1,2})(?![0-9.,^])(?! ?\*\*)"
)
_IMPLIED_PRODUCT = re.compile(r"(?<=[0-9)])\(|(?<=\))(?=[0-9])")


@dataclass(frozen=True)
class Number:
    """A number as written: its value, a per cent as hundredths, and the decimals of that value."""

    value: Fraction
    decimals: int
    percent: bool

    def stands_for(self, exact: Fraction) -> bool:
        """Whether it is `exact`, or `exact` rounded or cut off at the decimals that are written.

        A number without decimals is only itself.
        """
        if self.value == exact:
            return True
        return self.decimals > 0 and self.rounds(exact)

    def rounds(self, exact: Fraction) -> bool:
        """Whether `exact` rounded or cut off at the digits written is this number."""
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


@lru_cache(maxsize=1 << 12)
def read_side(text: str) -> Side | None:
    """What a side is worth; None for anything that is not arithmetic or out of bounds.

    Results are kept, since the completions of a problem share most of their arithmetic.
    """
    if not text or len(text) > MAX_CHARACTERS:
        return None
    first = _CURRENCY.sub(" ", text)
    lead_at = len(first) - len(first.lstrip())
    match = _SIGNED_NUMBER.match(first, lead_at)
    lead = None if match is None else _number(match)
    if match is not None and lead is not None and not first[match.end() :].strip():
        return Side(
            lead.value, lead, lead, match.end(), lead.decimals > 0, lead.percent, adds=False
        )
    value = _value(_CURRENCY.sub("", text))
    if value is None:
        return None
    return Side(
        value,
        None,
        lead,
        0 if match is None else match.end(),
        decimals="." in text,
        percent="%" in text,
        adds="+" in text or "-" in text[1:],
    )


def _value(text: str) -> Fraction | None:
    text = _POWER.sub(_product, text)
    if _IMPLIED_PRODUCT.search(text):
        if "/" in text:
            return None
        text = _IMPLIED_PRODUCT.sub(lambda match: "*" + match.group(), text)
    try:
        return parse_expression(_NUMBER.sub(_as_integers, text)).value
    except ExpressionError:
        return None


def _number(match: re.Match[str]) -> Number:
    """The number of a match of `_SIGNED_NUMBER`."""
    whole, part = match["whole"], match["part"] or match["only"] or ""
    digits = int((whole or "").replace(",", "") + part)
    decimals = len(part) + (2 if match["percent"] else 0)
    value = Fraction(digits, 10**decimals)
    negative = (match["sign"] or "").startswith("-")
    return Number(-value if negative else value, decimals, match["percent"] is not None)


def _as_integers(match: re.Match[str]) -> str:
    """A match of `_NUMBER` in the grammar of expressions: `2.5` is `(25/10)`."""
    whole, part = match["whole"], match["part"] or match["only"] or ""
    zeros = len(part) + (2 if match["percent"] else 0)
    digits = (whole or "").replace(",", "") + part
    return f"({digits}/1{'0' * zeros})" if zeros else digits


def _product(match: re.Match[str]) -> str:
    base, exponent = match.group(1), int(match.group(2))
    if exponent > MAX_EXPONENT:
        return match.group()  # no grammar reads it, so the side has no value
    return f"({'*'.join([base] * exponent)})" if exponent else "(1)"
