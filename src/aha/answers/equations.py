"""Every equation that a text writes, with its place and its truth: `39 + 5 = 44`, `<<48/2=24>>`.

Each `=` with arithmetic on a side is compared exactly. A result with decimals is true when it is
the exact one rounded or cut off at the digits written. One without decimals must be equal.
In a chain, `3 * 4 = 12 + 2 = 14`, every `=` is a step of its own. A side that goes on to another
`=` may also mean the number it begins with, as people write who go on from a result.
Left out rather than guessed: variables, units inside the arithmetic, roots, remainders, mixed
numbers, division by zero, and a sum of plain numbers and per cents that is not equal as it stands.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import pairwise

from aha.answers.expression import OPERATORS, Number, Side, read_side

# One operation on whole numbers, closed by punctuation. Nearly all equations of Countdown texts
# are such, and they need no parser.
_SIMPLE = re.compile(
    r"([0-9]{1,9}) ?([-+*/]) ?([0-9]{1,9}) ?= ?([0-9]{1,9})(?= ?(?:[;!?\n<]|[.,](?![0-9.])|\Z))"
)
_EXACT = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_BEFORE_SIMPLE = frozenset((", ", ". ", "; ", ": ", "> "))

_ARITHMETIC = frozenset("0123456789+-*/^().,$\u20ac\u00a3%=\u2248 \t")
_SEPARATOR = re.compile(r",(?![0-9]{3}(?![0-9]))|(?<![0-9]),|\.(?![0-9])")
_EQUALS = re.compile(r"={1,2}|\u2248")
_OPERATION = re.compile(r"[0-9.)%] ?[-+*/^(]")
_RELATION = re.compile("[=\u2248]")

# Each replacement is as long as what it replaces, so that positions stay those of the text.
_SIGNS = str.maketrans(OPERATORS | dict.fromkeys("\u00a0\u2009\u202f", " "))
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([^{}\\]{1,40})\}\{([^{}\\]{1,40})\}")
_LATEX_SIGNS = {"times": "*", "cdot": "*", "div": "/", "approx": "\u2248", "$": "$", "%": "%"}
_LATEX_SIGN = re.compile(r"\\(?:times|cdot|div|approx|left|right)(?![A-Za-z])|\\[$%,()\[\]]")
_LATEX_WORDS = re.compile(r"\\(?:text|mathrm)\{([^{}\\]{0,40})\}")
_LETTER_TIMES = re.compile(r"(?<=[0-9)] )[xX](?= [0-9($])|(?<=[0-9])[xX](?=[0-9])")
_PERCENT_OF = re.compile(r"(?<=%) of(?= [0-9$])")
_BOLD = re.compile(r"(?<![0-9)])(?<![0-9)] )\*\*|\*\*(?! ?[0-9(-])")

_LIST_MARK = re.compile(r"[ \t]{0,8}(?:[-*+]|\(?[0-9]{1,2}\))[ \t]{1,4}(?=[0-9($])")
# A number after such a word is only a part of what is added or multiplied.
_PART_BEFORE = re.compile(
    r"\b(?:of|times|plus|minus|over|by|root|squared|cubed|point|negative)[ \t]{0,2}\Z",
    re.IGNORECASE,
)
# A number before these is not the whole number: `3 million`, `2 remainder 1`, `2 R1`, `5 x`.
_PART_AFTER = re.compile(
    r" ?(?:hundred|thousand|million|billion|trillion|dozen|percent|per cent|remainder|rem\b|mod\b"
    r"|pi\b|squared|cubed|times\b|and a half|r ?[0-9]|[b-z]\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class WrittenStep:
    """An equation that the text wrote, text[start:end]; steps of one text never overlap."""

    start: int
    end: int
    true: bool


def written_steps(text: str) -> tuple[WrittenStep, ...]:
    """The equations of a text that can be compared, in order; in time linear in its length."""
    if "=" not in text and "\u2248" not in text and "\\approx" not in text:
        return ()
    simple = dict(_simple_steps(text))
    steps = [step for step in simple.values() if step is not None]
    if len(simple) == text.count("=") and "\u2248" not in text and "\\" not in text:
        return tuple(steps)
    plain = _plain(text)
    for start, end in _clauses(plain, simple.keys()):
        steps += _chain(plain, start, end)
    return tuple(sorted(steps, key=lambda step: step.start))


def _simple_steps(text: str) -> Iterator[tuple[int, WrittenStep | None]]:
    """The place of `=` and the step, for each simple equation; no step for a division by zero."""
    for match in _SIMPLE.finditer(text):
        start, end = match.span()
        if start > 0 and text[start - 1] != "\n" and text[start - 2 : start] not in _BEFORE_SIMPLE:
            continue
        left, sign, right, result = match.groups()
        a, b, c = int(left), int(right), int(result)
        true = a == b * c if sign == "/" else _EXACT[sign](a, b) == c
        impossible = sign == "/" and b == 0
        yield text.index("=", match.end(3)), None if impossible else WrittenStep(start, end, true)


def _plain(text: str) -> str:
    """The same text, of the same length, with operators in ASCII and markup as blanks."""

    def padded(replacement: str, match: re.Match[str]) -> str:
        return replacement.ljust(len(match[0]))

    if not text.isascii():
        text = text.translate(_SIGNS)
    if "\\" in text:
        text = _LATEX_FRACTION.sub(lambda m: padded(f"(({m[1]})/({m[2]}))", m), text)
        text = _LATEX_SIGN.sub(lambda m: padded(_LATEX_SIGNS.get(m[0][1:], ""), m), text)
        text = _LATEX_WORDS.sub(lambda m: padded(f" {m[1]}", m), text)
    if "**" in text:
        text = _BOLD.sub("  ", text)
    text = _LETTER_TIMES.sub("*", text)
    return _PERCENT_OF.sub(" * ", text)


def _clauses(text: str, done: Set[int]) -> Iterator[tuple[int, int]]:
    """Spans of nothing but arithmetic around every relation whose place is not in `done`."""
    reached = 0
    for relation in _RELATION.finditer(text):
        at = relation.start()
        if at < reached or at in done:
            continue
        start, end = at, relation.end()
        while start > reached and text[start - 1] in _ARITHMETIC:
            start -= 1
        while end < len(text) and text[end] in _ARITHMETIC:
            end += 1
        reached = end
        cuts = [start, *(m.end() for m in _SEPARATOR.finditer(text, start, end)), end]
        for first, last in pairwise(cuts):
            found = _RELATION.search(text, first, last)
            if found is None or found.start() in done:
                continue
            if _OPERATION.search(text, first, last) is not None:
                yield first, last


def _chain(text: str, start: int, end: int) -> Iterator[WrittenStep]:
    """The steps of `a = b = c` in text[start:end]."""
    if text[end - 1] in ",." and not (end < len(text) and text[end].isdigit()):
        end -= 1
    if text[end - 1] in "-=" and text[end : end + 1] == ">":
        end -= 1
    if start == 0 or text[start - 1] == "\n":
        mark = _LIST_MARK.match(text, start, end)
        start = start if mark is None else mark.end()
    relations = list(_EQUALS.finditer(text, start, end))
    edges = [start, *(edge for r in relations for edge in r.span()), end]
    spans = [_stripped(text, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    first, last = spans[-1]
    if last > first and text[last - 1] == "(":  # it opens what follows: `= 12 (since ...)`
        spans[-1] = _stripped(text, first, last - 1)
    sides = [read_side(text[a:b]) for a, b in spans]
    if not _begins(text, *spans[0]):
        sides[0] = None
    if not _ends(text, spans[-1][1]):
        sides[-1] = None
    reached: int | None = None
    for i, relation in enumerate(relations):
        left, right = sides[i], sides[i + 1]
        goes_on = i + 1 < len(relations)
        compared = _compare(left, right, goes_on, relation.group() == "\u2248")
        if compared is None or right is None:
            reached = None
            continue
        true, by_lead = compared
        first = spans[i][0] if reached is None else _stripped(text, reached, end)[0]
        reached = spans[i + 1][0] + right.lead_end if by_lead else spans[i + 1][1]
        yield WrittenStep(first, reached, true)


def _compare(
    left: Side | None, right: Side | None, goes_on: bool, about: bool
) -> tuple[bool, bool] | None:
    """True or false, and if only for the number the right side begins with; None if unsure."""
    if left is None or right is None or (left.number is not None and right.number is not None):
        return None
    if _same(left, right):
        return True, False
    if about:
        near = right.number is not None and right.number.rounds(left.value)
        return (True, False) if near else None
    lead = right.lead if goes_on and right.number is None else None
    if lead is not None and lead.stands_for(left.value):
        return True, True
    if any(side.percent and side.adds for side in (left, right)):
        return None
    # A rounded number inside the next expression: neither equal nor a fault.
    rounded = right.number is None and right.decimals
    if rounded and abs(left.value - right.value) * 100 <= abs(left.value):
        return None
    return False, False


def _same(left: Side, right: Side) -> bool:
    if left.value == right.value:
        return True
    number = right.number
    if number is None:
        return left.number is not None and left.number.stands_for(right.value)
    if number.stands_for(left.value):
        return True
    # `20 / 50 * 100 = 40%`: the per cent were reckoned as plain numbers.
    points = Number(number.value * 100, number.decimals - 2, percent=False)
    return number.percent and not left.percent and points.stands_for(left.value)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without blanks at its ends."""
    while start < end and text[start] in " \t":
        start += 1
    while end > start and text[end - 1] in " \t":
        end -= 1
    return start, end


def _begins(text: str, start: int, end: int) -> bool:
    """True if a side that starts there is whole, not the rest of `2x + 3` or of `half of 6 + 1`."""
    before = text[start - 1] if start else "\n"
    if before.isalnum() or before in "_\\}]|\u221a^'":
        return False
    if before == ":" and text[start - 2 : start - 1].isdigit():
        return False
    near = text[max(0, start - 12) : start]
    if text[start:end][:1] in ("*", "/", "^", ")"):
        return False
    if text[start:end][:1] in ("+", "-"):
        last = near.rstrip(" \t")[-1:]
        return last in ("", "\n", ",", ".", ";", ":", ">", "?", "!", "=", "{", '"', "(", "<")
    return _PART_BEFORE.search(near) is None


def _ends(text: str, end: int) -> bool:
    """True if a side that ends there is whole, not the beginning of `5x` or of `3 million`."""
    after = text[end : end + 1]
    if after.isalnum() or (after and after in "_\\{^\u221a"):
        return False
    if after == ":" and text[end + 1 : end + 2].isdigit():
        return False
    return _PART_AFTER.match(text, end) is None
