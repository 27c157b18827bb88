"""Count reflection phrases in a text, whatever their case and punctuation.

The dictionary is mini-r1-zero's, whose code matched word by word and so never found a phrase.
Training counts only this one, so that runs compare. With a task's name a longer one is counted.
Left out: the context of a phrase, which `aha.reasoning.behaviours` reads.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

from aha.visible import package_yaml

_DATA = package_yaml("aha.reasoning", "phrases.yaml")
PHRASES: tuple[str, ...] = tuple(_DATA["dictionary"])
EXTENDED_PHRASES: tuple[str, ...] = tuple(_DATA["extended"])
TASK_PHRASES: Mapping[str, Sequence[str]] = _DATA["tasks"]

_SEPARATORS = re.compile(r"[^a-z0-9]+")


@cache
def _pattern(task: str) -> re.Pattern[str]:
    """A pattern of the phrases in lower-case text, where any run of other characters is a space.

    It has one branch for each first letter, so that the search is fast: it skips to those letters.
    In a branch the longest comes first, so that "wait but" is one phrase and not also "wait".
    """
    phrases = (*PHRASES, *EXTENDED_PHRASES, *TASK_PHRASES.get(task, ())) if task else PHRASES
    branches: dict[str, list[str]] = defaultdict(list)
    for phrase in sorted(phrases, key=len, reverse=True):
        branches[phrase[0]].append(phrase[1:].replace(" ", _SEPARATORS.pattern))
    return re.compile(
        "|".join(
            f"{first}(?<![a-z]{first})(?:{'|'.join(rest)})(?![a-z])"
            for first, rest in branches.items()
        )
    )


def fold(text: str) -> str:
    """Lower case, with one space for every run of characters other than letters and digits."""
    return _SEPARATORS.sub(" ", text.lower())


def count_phrases(text: str, task: str = "") -> Counter[str]:
    """How often each reflection phrase occurs; overlapping phrases count as the longest.

    With a task, `EXTENDED_PHRASES` and the task's `TASK_PHRASES` count too.
    """
    return Counter(fold(phrase) for phrase in _pattern(task).findall(text.lower()))


def reflection_count(text: str) -> int:
    """The number of phrases of mini-r1-zero's dictionary in a text, as training records it."""
    return len(_pattern("").findall(text.lower()))
