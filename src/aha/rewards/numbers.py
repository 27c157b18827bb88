"""Numbers as models write them: `1,234`, `$72.50`, `-3`, `40%`, `3 1/2`, `\\frac{1}{2}`.

Everything is exact (`fractions`), bounded in length, and refuses rather than guesses: a text
with two different numbers, such as `60% of 240 is 144`, has no value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 100

_CHARACTERS = str.maketrans(
    {
        "\u2212": "-",  # minus sign
        "\u2013": "-",  # en dash
        "\u2014": "-",  # em dash
        "\uff0d": "-",  # full-width hyphen
        "\u00a0": " ",  # no-break space
        "\u202f": " ",  # narrow no-break space
        "\u2009": " ",  # thin space
        "\uff0c": ",",  # full-width comma
        "\uff05": "%",  # full-width per cent
    }
)
_MARKUP = re.compile(r"\\(?:left|right|!|,|;|:|quad|qquad)(?![A-Za-z])|\\\(|\\\)|\\\[|\\\]")
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|boxed)\s*\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
# A sign may stand before the currency's: `-$5`.
_CURRENCY = re.compile(r"(?<![0-9])[$\u20ac\u00a3\u00a5]")
_NAME = re.compile(r"\\?[A-Za-z][A-Za-z ]{0,40}")
_PLAIN = re.compile(r"([-+])?\s*(\d{1,3}(?:,\d{3})+|\d+)?(?:\.(\d*))?")
_SLASH = re.compile(r"([-+]?)\s*(\d+)\s*/\s*(\d+)")
_MIXED = re.compile(r"([-+]?)\s*(\d+)\s+(\d+)\s*/\s*(\d+)")
_UNIT = re.compile(r"(%|\u00b0)|(\s*)([A-Za-z][A-Za-z.]*(?:[ \t/]+[A-Za-z][A-Za-z.]*)*)")
# Letters after a number that are mathematics or a scale, not a unit: the value is another.
# fmt: off
_NOT_UNITS = frozenset((
    "pi", "e", "i", "x", "y", "z", "n", "k", "a", "b", "c", "d", "sqrt", "sin", "cos", "tan",
    "cot", "sec", "csc", "log", "ln", "exp", "mod", "choose", "times", "half", "halves",
    "thirds", "quarters", "squared", "cubed", "hundred", "thousand", "million", "billion",
    "trillion", "dozen", "dozens", "thousands", "millions", "billions", "or", "and", "to",
    "over", "minus", "plus",
    "not", "no", "is", "wrong", "isn", "less", "more", "than", "by", "below", "above", "base",
    "divided", "factorial", "remainder", "mod", "percent", "tenths", "tenth", "hundredths",
    "hundredth", "thousandths", "thousandth", "zero", "one", "two", "three", "four", "five",
    "six", "seven", "eight", "nine", "ten", "alpha", "beta", "gamma", "delta", "theta", "phi",
    "lambda", "omega", "if", "but", "maybe", "approximately", "about",
))
_TOUCHING_UNITS = frozenset((
    "cm", "mm", "km", "kg", "mg", "ml", "ft", "lb", "lbs", "oz", "hr", "hrs", "min", "mins",
    "sec", "secs", "mph", "am", "pm", "km/h", "th", "st", "nd", "rd",
))
_LETTER_UNITS = frozenset("mgshlLCF")
_SAME_UNITS = {"dollars": "$", "dollar": "$", "degrees": "\u00b0", "degree": "\u00b0"}
_MAX_UNIT_WORDS = 4
# fmt: on


@dataclass(frozen=True)
class Quantity:
    """An exact value and the unit that was written after it ("" for none, "%" for per cent)."""

    value: Fraction
    unit: str


def parse_quantity(text: str) -> Quantity | None:
    """The value and unit of a text that is one number; None for anything else.

    Read: thousands separators, a currency sign, Unicode minus, a trailing full stop, a mixed
    number, a simple LaTeX fraction, `x = 5`, words of a unit.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    cleaned = text.translate(_CHARACTERS).strip().strip("*`").strip()
    if cleaned.count("$") > 1:  # delimiters of mathematics, not a currency
        cleaned = cleaned.strip("$").strip()
    cleaned = _WRAPPED.sub(r" \1", _MARKUP.sub("", cleaned))
    cleaned = cleaned.replace("\\%", "%").replace("\\$", "$").replace("^\\circ", "\u00b0")
    if cleaned.count("=") == 1:
        name, _, cleaned = cleaned.partition("=")
        if not _NAME.fullmatch(name.strip()):
            return None
    cleaned = _LATEX_FRACTION.sub(_as_slash, cleaned).strip()
    currency = _CURRENCY.match(cleaned)
    cleaned = _CURRENCY.sub("", cleaned, count=1).strip()
    for pattern, value_of in ((_MIXED, _mixed), (_SLASH, _slash), (_PLAIN, _plain)):
        match = pattern.match(cleaned)
        if match is None:
            continue
        value, unit = value_of(match), _unit(cleaned[match.end() :])
        if value is not None and unit is not None:
            return Quantity(value, unit or (currency.group() if currency else ""))
    return None


def parse_number(text: str) -> Fraction | None:
    """The value of `parse_quantity`, whatever its unit."""
    quantity = parse_quantity(text)
    return None if quantity is None else quantity.value


def _unit(rest: str) -> str | None:
    """The unit that `rest` is; "" for nothing; None when it is something else."""
    rest = rest.rstrip().removesuffix(".")
    if not rest.strip():
        return ""
    match = _UNIT.fullmatch(rest.strip() if rest.strip() in ("%", "\u00b0") else rest)
    if match is None:
        return None
    sign, space, words = match.groups()
    if sign:
        return sign
    names = words.lower().replace("/", " ").split()
    if names in (["percent"], ["per", "cent"]):
        return "%"
    if len(names) > _MAX_UNIT_WORDS or any(name.strip(".") in _NOT_UNITS for name in names):
        return None
    # Letters that touch the number are variables (`2x`, `5ab`), unless they are a known unit.
    if not space and words.strip(".").lower() not in _TOUCHING_UNITS:
        return None
    if len(words) == 1 and words not in _LETTER_UNITS:
        return None
    return _SAME_UNITS.get(" ".join(names), " ".join(names))


def _as_slash(match: re.Match[str]) -> str:
    top, bottom = match.group(1) or match.group(3), match.group(2) or match.group(4)
    return f" {top}/{bottom}"


def _mixed(match: re.Match[str]) -> Fraction | None:
    sign, whole, top, bottom = match.groups()
    if int(bottom) == 0:
        return None
    value = int(whole) + Fraction(int(top), int(bottom))
    return -value if sign == "-" else value


def _slash(match: re.Match[str]) -> Fraction | None:
    sign, top, bottom = match.groups()
    if int(bottom) == 0:
        return None
    value = Fraction(int(top), int(bottom))
    return -value if sign == "-" else value


def _plain(match: re.Match[str]) -> Fraction | None:
    sign, whole, decimals = match.groups()
    if not whole and not decimals:
        return None
    digits = (whole or "0").replace(",", "")
    value = Fraction(int(digits + (decimals or "")), 10 ** len(decimals or ""))
    return -value if sign == "-" else value
