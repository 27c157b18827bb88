"""Where a text checks itself, goes back, sets subgoals or reasons backwards: rules, not a model.

The four behaviours are those of Gandhi et al. 2025 (arXiv:2503.01307), who let a language model
find them. Rules are weaker and say what they saw: the same text gives the same answer for ever, at
no cost. docs/reasoning.md has how often they are right. Left out: whether a check is sound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from aha.reasoning.backtrack_rules import BACKTRACKING
from aha.reasoning.backward_rules import BACKWARD_CHAINING
from aha.reasoning.check_rules import SELF_CHECK
from aha.reasoning.rules import Pattern, Rule
from aha.reasoning.subgoal_rules import SUBGOALS

BEHAVIOURS: tuple[str, ...] = ("self_check", "backtracking", "subgoals", "backward_chaining")
RULES: tuple[Rule, ...] = (*SELF_CHECK, *BACKTRACKING, *SUBGOALS, *BACKWARD_CHAINING)

# Two phrases of one behaviour this near, with no number between them, are one turn of thought.
_NEAR = 24
_WORD = re.compile(r"[a-z']+")
_Found = tuple[str, int, int]


@dataclass(frozen=True)
class Passage:
    """A behaviour and text[start:end], the phrase that shows it."""

    behaviour: str
    start: int
    end: int


def rules_of(task: str) -> tuple[Rule, ...]:
    """The rules that hold for a task: those of every task, and its own where it has some."""
    return tuple(rule for rule in RULES if rule.task in ("", task))


def find_behaviours(text: str, task: str = "") -> tuple[Passage, ...]:
    """The passages that show a behaviour, in order of start; a task that has rules adds its own.

    Passages of one behaviour do not overlap; those of two may.
    """
    view = _view(text)
    patterns = _PATTERNS.get(task, _GENERAL)
    found: list[_Found] = []
    for number in sorted(_worth_a_search(view)):
        if (pattern := patterns.get(number)) is not None:
            found += _matches(*pattern, view)
    return tuple(Passage(*span) for span in _joined(found, view))


def _numbered(task: str) -> dict[int, tuple[str, Pattern]]:
    """The patterns that hold for a task, by their number among all, with their behaviour."""
    held = set(rules_of(task))
    return {
        number: (rule.behaviour, pattern)
        for number, (rule, pattern) in enumerate(_ALL)
        if rule in held
    }


_ALL = tuple((rule, pattern) for rule in RULES for pattern in rule.patterns)
_GENERAL = _numbered("")
_PATTERNS: Mapping[str, Mapping[int, tuple[str, Pattern]]] = {
    task: _numbered(task) for task in sorted({rule.task for rule in RULES} - {""})
}
_WORD_CUES = tuple(
    (number, cue)
    for number, (_, pattern) in enumerate(_ALL)
    for cue in pattern.cues
    if _WORD.fullmatch(cue)
)
_OTHER_CUES = tuple(
    (number, cue)
    for number, (_, pattern) in enumerate(_ALL)
    for cue in pattern.cues
    if not _WORD.fullmatch(cue)
)


@lru_cache(maxsize=1 << 14)
def _cued_by(word: str) -> frozenset[int]:
    """The patterns of which a word holds a cue. Kept, since texts share most of their words.

    Cues of two letters are whole words: as parts, they would be in half of all words.
    """
    return frozenset(
        number for number, cue in _WORD_CUES if (cue in word if len(cue) > 2 else cue == word)
    )


def _worth_a_search(view: str) -> set[int]:
    """The patterns of which the text holds a cue."""
    numbers = {number for number, cue in _OTHER_CUES if cue in view}
    return numbers.union(*map(_cued_by, set(_WORD.findall(view))))


def _matches(behaviour: str, pattern: Pattern, view: str) -> list[_Found]:
    found = []
    for match in pattern.regex.finditer(view):
        start, end = match.span()
        # No pattern begins inside a word. Here, since regexes that begin with a letter are faster.
        if start == 0 or not (view[start].isalpha() and view[start - 1].isalpha()):
            found.append((behaviour, start, end))
    return found


def _view(text: str) -> str:
    """Lower case and straight apostrophes, character for character."""
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals become two characters
        lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    return lower.replace("\u2019", "'")


def _joined(found: Iterable[_Found], view: str) -> list[_Found]:
    """Passages in order of start; near ones of the same behaviour as one."""
    last: dict[str, int] = {}
    joined: list[_Found] = []
    for behaviour, start, end in sorted(found, key=lambda span: (span[1], span[2])):
        place = last.get(behaviour)
        if place is not None:
            _, first, until = joined[place]
            between = view[until:start]
            if len(between) <= _NEAR and not any("0" <= c <= "9" for c in between):
                joined[place] = (behaviour, first, max(until, end))
                continue
        last[behaviour] = len(joined)
        joined.append((behaviour, start, end))
    return joined
