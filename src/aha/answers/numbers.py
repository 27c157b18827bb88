"""Numbers as models write them: `1,234`, `-$72.50`, `40%`, `3 1/2`, `\\frac{1}{2}`, `1e3`, `5 cm`.

Everything is exact (`fractions`), bounded in length, and refuses rather than guesses: a text
with two different numbers, such as `60% of 240 is 144`, has no value.
Only a unit may follow a number; with anything else the text has no value. Words of two letters or
more are a unit, unless they name another number (`half`, `million`) or are mathematics (`sin`,
`or`). One letter is a unit if it is a common symbol (`5 m`), else a variable (`5 x`). Letters that
touch the number are variables (`5ab`), unless they are a common unit (`5cm`). A power belongs to a
unit of two letters or more, or to metres: `12 cm^2`, `12 m^2`, not `12 s^2`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from aha.answers.expression import read_side
from aha.visible import package_yaml

MAX_CHARACTERS = 100

_WORDS = package_yaml("aha.answers", "number_words.yaml")
_CHARACTERS = str.maketrans(_WORDS["characters"])
_DENIALS = frozenset(_WORDS["denials"])
_NOT_UNITS = frozenset(_WORDS["not_units"])
_TOUCHING_UNITS = frozenset(_WORDS["touching_units"])
_SAME_UNITS: dict[str, str] = _WORDS["same_units"]
_MAX_UNIT_WORDS = 4

_MARKUP = re.compile(r"\\(?:left|right|!|,|;|:|quad|qquad)(?![A-Za-z])|\\\(|\\\)|\\\[|\\\]")
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|boxed)\s*\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_SIGNS = "$\u20ac\u00a3\u00a5"
# A sign may stand before the currency's: `-$5`.
_CURRENCY = re.compile(rf"([-+]?)\s*([{_SIGNS}])\s*")
_NAME = re.compile(r"\\?[A-Za-z][A-Za-z ]{0,40}")
_LABEL = re.compile(r"([A-Za-z]{2,}(?:[ '-][A-Za-z]+)*):\**\s+")
_PLAIN = re.compile(
    r"([-+])?\s*(\d{1,3}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+(?!\d)|\d+)?(?:\.(\d*))?"
    r"(?:(?<=[\d.])[eE]([-+]?\d{1,2})(?!\d))?"
)
_REPEATING = re.compile(r"([-+]?)\s*(\d*)\.(\d*)\\overline\s*\{\s*(\d+)\s*\}")
_FRACTION = re.compile(r"([-+]?)\s*(?:(\d+)\s+)?(\d+)\s*/\s*(\d+)")
_WORD = r"[A-Za-z][A-Za-z.]*(?:-[A-Za-z]{2,})*"
_UNIT = re.compile(
    rf"\s*([%\u00b0{_SIGNS}])\s*|(\s*)({_WORD}(?:[ \t/]+{_WORD})*)(?:\^\{{?([23])\}}?)?"
)


@dataclass(frozen=True)
class Quantity:
    """An exact value and the unit that was written after it ("" for none, "%" for per cent)."""

    value: Fraction
    unit: str


def parse_quantity(text: str) -> Quantity | None:
    """The value and unit of a text that is one number; None for anything else.

    Before the number may stand a name (`x = 5`, `Total cost: $18`) or arithmetic with this result
    (`9 * 2 = 18`).
    """
    if len(text) > MAX_CHARACTERS:
        return None
    cleaned = text.translate(_CHARACTERS).strip().strip("*`").strip()
    if cleaned[:1] == cleaned[-1:] == "$":  # delimiters of mathematics, not a currency
        cleaned = cleaned.strip("$").strip()
    cleaned = _WRAPPED.sub(r" \1", _MARKUP.sub("", cleaned))
    cleaned = cleaned.replace("\\%", "%").replace("\\$", "$").replace("^\\circ", "\u00b0")
    label = _LABEL.match(cleaned)
    if label is not None:
        if not _DENIALS.isdisjoint(re.split(r"[ '-]", label.group(1).lower())):
            return None
        cleaned = cleaned[label.end() :]
    if cleaned.count("=") != 1:
        return _quantity(cleaned)
    left, _, right = cleaned.partition("=")
    quantity = _quantity(right)
    if quantity is None or _NAME.fullmatch(left.strip()):
        return quantity
    side = read_side(left.strip())
    return quantity if side is not None and side.value == quantity.value else None


def _quantity(text: str) -> Quantity | None:
    """A number and its unit, with nothing before them."""
    text = _LATEX_FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text).strip()
    currency = _CURRENCY.match(text)
    if currency is not None:
        text = currency.group(1) + text[currency.end() :]
    forms = ((_REPEATING, _repeating), (_FRACTION, _fraction), (_PLAIN, _plain))
    for pattern, value_of in forms:
        match = pattern.match(text)
        if match is None:
            continue
        sign_before, *digits = match.groups(default="")
        value, unit = value_of(*digits), _unit(text[match.end() :])
        if value is None or unit is None:
            continue
        value = -value if sign_before == "-" else value
        if currency is None:
            return Quantity(value, unit)
        sign = currency.group(2)
        # Two currencies are no unit; any other word, as in `$5 each`, stands.
        return None if unit in _SIGNS and unit not in ("", sign) else Quantity(value, unit or sign)
    return None


def _unit(rest: str) -> str | None:
    """The unit that `rest` is; "" for nothing; None when it is something else."""
    rest = rest.rstrip().removesuffix(".")
    if not rest.strip():
        return ""
    match = _UNIT.fullmatch(rest)
    if match is None:
        return None
    sign, space, words, power = match.groups()
    if sign:
        return sign
    names = words.lower().replace("/", " ").split()
    if names in (["percent"], ["per", "cent"]):
        return "%"
    if len(names) > _MAX_UNIT_WORDS:
        return None
    if any(part.strip(".") in _NOT_UNITS for name in names for part in name.split("-")):
        return None
    # Letters that touch the number are variables (`2x`, `5ab`), unless they are a known unit.
    if not space and words.strip(".").lower() not in _TOUCHING_UNITS:
        return None
    if len(words) == 1 and words not in _WORDS["letter_units"]:
        return None
    if power and len(names[-1]) == 1 and words != "m":
        return None
    unit = " ".join(names)
    return f"{unit}^{power}" if power else _SAME_UNITS.get(unit, unit)


def _fraction(whole: str, top: str, bottom: str) -> Fraction | None:
    if int(bottom) == 0:
        return None
    return int(whole or "0") + Fraction(int(top), int(bottom))


def _repeating(whole: str, decimals: str, period: str) -> Fraction:
    # 0.1(6) = (16 - 1) / 90: nines for the digits of the period, zeros for those before it.
    top = int(whole + decimals + period) - int(whole + decimals or "0")
    return Fraction(top, (10 ** len(period) - 1) * 10 ** len(decimals))


def _plain(whole: str, decimals: str, exponent: str) -> Fraction | None:
    if not whole and not decimals:
        return None
    digits = (whole or "0").replace(",", "").replace(" ", "")
    value = Fraction(int(digits + decimals), 10 ** len(decimals))
    return value * Fraction(10) ** int(exponent or "0")
