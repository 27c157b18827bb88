"""Compare two mathematical answers: fast paths for strings and numbers, then math-verify.

A short text can make math-verify (which uses sympy) run for hours or use all memory. So it runs in
worker processes that are killed at a time limit (see `aha.answers.workers`).
"""

from __future__ import annotations

import atexit
import functools
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from aha.answers.numbers import parse_quantity
from aha.answers.workers import Workers, serve

# "no_gold": the gold answer cannot be parsed, so no answer can be equal to it.
Outcome = Literal["equal", "different", "no_gold"]

MAX_CHARACTERS = 2_000
_CACHE_SIZE = 100_000

_THIN_SPACE = re.compile(r"\\[,;:!]|\{,\}")
# Space between two digits counts: `7 2` is not 72.
_SPACE = re.compile(r"(?<![0-9])(?:\s|\\ |\\quad|\\qquad)+|(?:\s|\\ |\\quad|\\qquad)+(?![0-9\s\\])")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_SIZES = re.compile(r"\\(?:left|right|big|Big|bigl|bigr|Bigl|Bigr)(?![A-Za-z])")
_BASE = re.compile(r"[0-9]_\{?[0-9]")
_BRACES = str.maketrans("", "", "{}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
# The hours, minutes and half of the day of a time. math-verify would divide hours by minutes.
_TIME = re.compile(
    r"(?<![0-9:])0?([0-9]{1,2}):([0-5][0-9])(?![0-9:])(?:(?:\s|\\text\s*\{)*([ap])\.?m\b)?"
)
_LONE_LETTER = re.compile(
    r"(?<=[0-9A-Za-z})])\s*\\(?:text|textbf|mathrm|mathbf)\s*\{\s*([A-Za-z])\s*\}"
)
# Units of one letter, such as metres and volts.
_UNIT_LETTERS = frozenset("mgshlLCFVAWJNK")
_ROOT = re.compile(
    "\u221a" + r"\s*(?:\{([^{}]*)\}|\(([^()]*)\)|([0-9]+(?:\.[0-9]+)?|[A-Za-z]|\\pi))"
)
_SYMBOLS = str.maketrans({"\u221e": "\\infty ", "\u2264": "\\le ", "\u2265": "\\ge "})
_DISPLAY_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")


class Pair(NamedTuple):
    """A gold answer and the answer to compare with it."""

    gold: str
    answer: str


class MathVerifier:
    """Compares answers in `workers` processes, with at most `timeout` seconds for each pair.

    Use `equal_many` for a batch. Results are cached. Thread-safe. `close` ends the processes.
    `killed` holds the last pairs whose process was killed or died.
    """

    def __init__(self, workers: int | None = None, timeout: float = 2.0) -> None:
        self._workers = Workers(("aha.answers.equal",), workers, timeout)
        self._cache: OrderedDict[Pair, Outcome] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def killed(self) -> deque[Any]:
        return self._workers.killed

    def equal(self, gold: str, answer: str) -> Outcome:
        """`equal_many` for one pair."""
        return self.equal_many([Pair(gold, answer)])[0]

    def equal_many(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """An outcome for each pair, in order. A comparison that takes too long is "different"."""
        with self._lock:
            slow: dict[Pair, None] = {}
            for pair in pairs:
                if pair not in self._cache:
                    outcome = fast_outcome(pair.gold, pair.answer)
                    if outcome is None:
                        slow[pair] = None
                    else:
                        self._cache[pair] = outcome
            if slow:
                found = self._workers.ask_many([Pair(*map(as_latex, pair)) for pair in slow])
                for pair, outcome in zip(slow, found, strict=True):
                    self._cache[pair] = outcome or "different"
            outcomes = [self._cache[pair] for pair in pairs]
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
            return outcomes

    def close(self) -> None:
        """End the processes; the next comparison starts new ones."""
        self._workers.close()


@functools.cache
def shared_verifier() -> MathVerifier:
    """One verifier for all rewards of the process, started when first needed."""
    verifier = MathVerifier()
    atexit.register(verifier.close)
    return verifier


def fast_outcome(gold: str, answer: str) -> Outcome | None:
    """The outcome where strings or exact numbers decide; None where algebra must."""
    if len(gold) > MAX_CHARACTERS or len(answer) > MAX_CHARACTERS or not answer.strip():
        return "different"
    if not gold.strip():
        return "no_gold"
    gold, answer = as_latex(gold), as_latex(answer)
    if normal_text(gold) == normal_text(answer):
        return "equal"
    time_of_gold, time_of_answer = _TIME.search(gold.lower()), _TIME.search(answer.lower())
    if time_of_gold and time_of_answer:
        both = zip(time_of_gold.groups(), time_of_answer.groups(), strict=True)
        if any(one and other and one != other for one, other in both):
            return "different"
    if _BASE.search(gold) or _BASE.search(answer):
        # math-verify drops the base of a numeral; only the same digits in the same base are equal.
        same = normal_text(gold).translate(_BRACES) == normal_text(answer).translate(_BRACES)
        return "equal" if same else "different"
    gold_quantity = parse_quantity(gold)
    if gold_quantity is None:
        return None
    answer_quantity = parse_quantity(answer)
    if answer_quantity is None:
        # Words are not a number, and neither is an equation with arithmetic and a name
        # (`x + 1 = 72`). math-verify would drop the words or the left side and compare the rest.
        unread = "=" in answer or _WORD.search(_TEXT.sub(r" \1 ", answer))
        return "different" if unread else None
    # Units count only where both name one.
    units = (gold_quantity.unit, answer_quantity.unit)
    if all(units) and units[0] != units[1]:
        return "different"
    # A gold answer of 40% may be answered as 40%, as 40, or as 0.4.
    as_share = units == ("%", "") and gold_quantity.value == 100 * answer_quantity.value
    return "equal" if gold_quantity.value == answer_quantity.value or as_share else "different"


def as_latex(text: str) -> str:
    """Unicode roots, infinity and comparisons as LaTeX, and a variable in `\\text{}` as itself.

    math-verify drops `\\text{}`, so that `6\\text{x}` would be 6. One letter is a variable, unless
    it is a common symbol of a unit (`6\\text{ m}`). Two letters or more are a unit.
    """
    if not text.isascii():
        text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2] or match[3]}}}", text)
        text = text.translate(_SYMBOLS)
    if "\\text" in text or "\\math" in text:
        text = _LONE_LETTER.sub(
            lambda match: match.group() if match[1] in _UNIT_LETTERS else f" {match[1]}", text
        )
    return text


def normal_text(text: str) -> str:
    """The text without space, sizes of brackets and dollars, which do not change its meaning."""
    text = _TEXT.sub(r" \1 ", text.strip().strip("$")).strip().removesuffix(".")
    text = _DISPLAY_FRACTION.sub(r"\\frac", _SIZES.sub("", text))
    return _SPACE.sub("", _THIN_SPACE.sub("", text)).replace("\u2212", "-")


def _math_verify(gold: str, answer: str) -> Outcome:
    """math-verify's result, without its own timeouts, which use signals.

    The whole text is read as LaTeX, since its other readings pick a number out of prose (`not 72`).
    """
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]
    options: dict[str, Any] = {"fallback_mode": "no_fallback", "parsing_timeout": None}
    try:
        parsed_gold = parse(f"${gold}$", config, **options)
        if not parsed_gold:
            return "no_gold"
        parsed_answer = parse(f"${answer}$", config, **options)
        if not parsed_answer:
            return "different"
        # `x < 3` may be the answer where an interval is asked for.
        options = {"allow_set_relation_comp": True, "timeout_seconds": None}
        return "equal" if verify(parsed_gold, parsed_answer, **options) else "different"
    except Exception:  # sympy raises anything on hostile text; the process is expendable
        return "different"


if __name__ == "__main__":
    serve(lambda pair: _math_verify(*pair), first=("1", "1"))
