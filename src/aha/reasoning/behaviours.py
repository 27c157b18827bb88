"""Find where a text checks itself, goes back, sets subgoals or reasons backwards, by rules.

The four behaviours are those of Gandhi et al. 2025 (arXiv:2503.01307), who let a language model
find them. Rules are weaker, but the same text always gives the same answer, at no cost.
The rules are data, in `rules.yaml` beside this file. docs/reasoning.md has how often they are
right. Left out: a judgement of the check's soundness, and learned weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

from aha.visible import package_yaml

BEHAVIOURS: tuple[str, ...] = ("self_check", "backtracking", "subgoals", "backward_chaining")

# Two phrases of one behaviour are one passage, unless so much or a number is between them.
_FAR = re.compile(r"[0-9]|.{25}", re.DOTALL)
_WORD = re.compile(r"[a-z']+")
_TOKEN = re.compile(r"[^\s0-9]+")  # no cue has a blank or a digit
# Spaces within a class stay as they are, and those in a lookbehind, whose length must be fixed.
_SPACE = re.compile(r"\[[^\]]*\]|\(\?<[=!](?:\[[^\]]*\]|[^)\[])*\)| \?| ")
_BLANKS = {" ": r"\s{1,2}", " ?": r"\s{0,2}"}


@dataclass(frozen=True)
class Passage:
    """A behaviour and text[start:end], the phrase that shows it."""

    behaviour: str
    start: int
    end: int


@dataclass(frozen=True)
class Pattern:
    """A pattern without shorthand. Every text that it matches has one of its cues."""

    cues: tuple[str, ...]
    written: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        blanks = _SPACE.sub(lambda match: _BLANKS.get(match.group(), match.group()), self.written)
        return re.compile(blanks)


@dataclass(frozen=True)
class Rule:
    """One way in which texts show a behaviour.

    `task` is the one task it holds for; "" for every task. `example` is a text it is meant for.
    """

    behaviour: str
    name: str
    task: str
    example: str
    patterns: tuple[Pattern, ...]


@cache
def rules() -> tuple[Rule, ...]:
    """All rules of `rules.yaml`, read at the first call."""
    data = package_yaml("aha.reasoning", "rules.yaml")
    shorthand = {name: written.replace("\n", "") for name, written in data["shorthand"].items()}
    names = re.compile("|".join(map(re.escape, shorthand)))

    def pattern(cues: str, written: str) -> Pattern:
        whole = names.sub(lambda match: shorthand[match.group()], written.replace("\n", ""))
        return Pattern(tuple(cue.strip() for cue in cues.split("|")), whole)

    return tuple(
        Rule(
            behaviour,
            rule["name"],
            rule.get("task", ""),
            rule["example"],
            tuple(pattern(*item) for entry in rule["patterns"] for item in entry.items()),
        )
        for behaviour in BEHAVIOURS
        for rule in data[behaviour]
    )


def find_behaviours(text: str, task: str = "") -> tuple[Passage, ...]:
    """The passages that show a behaviour, in order of start; a task that has rules adds its own.

    Passages of one behaviour do not overlap; those of two may.
    """
    view, numbered = _view(text), _patterns()
    found: list[Passage] = []
    for number in sorted(_worth_a_search(view)):
        rule, pattern = numbered[number]
        if rule.task in ("", task):
            found += _matches(rule.behaviour, pattern, view)
    # Near passages of the same behaviour become one.
    last: dict[str, int] = {}
    joined: list[Passage] = []
    for one in sorted(found, key=lambda passage: (passage.start, passage.end)):
        place = last.get(one.behaviour)
        if place is not None:
            before = joined[place]
            if _FAR.search(view[before.end : one.start]) is None:
                joined[place] = replace(before, end=max(before.end, one.end))
                continue
        last[one.behaviour] = len(joined)
        joined.append(one)
    return tuple(joined)


@cache
def _patterns() -> tuple[tuple[Rule, Pattern], ...]:
    return tuple((rule, pattern) for rule in rules() for pattern in rule.patterns)


@lru_cache(maxsize=1 << 14)
def _cued_by(token: str) -> frozenset[int]:
    """The numbers of the patterns of which a token holds a cue; kept, since texts share tokens.

    Cues of two letters are whole words, since half of all words contain them.
    """
    words = _WORD.findall(token)
    return frozenset(
        number
        for number, (_, pattern) in enumerate(_patterns())
        for cue in pattern.cues
        if cue in (words if len(cue) == 2 and cue.isalpha() else token)
    )


def _worth_a_search(view: str) -> set[int]:
    """The numbers of the patterns of which the text holds a cue."""
    return set[int]().union(*map(_cued_by, set(_TOKEN.findall(view))))


def _matches(behaviour: str, pattern: Pattern, view: str) -> list[Passage]:
    # A match must not begin inside a word. This check is faster than one in the expression.
    return [
        Passage(behaviour, *match.span())
        for match in pattern.regex.finditer(view)
        if not match.start() or not view[match.start() - 1 : match.start() + 1].isalpha()
    ]


def _view(text: str) -> str:
    """The text in lower case with straight apostrophes, character for character."""
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals become two characters
        lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    return lower.replace("\u2019", "'")
