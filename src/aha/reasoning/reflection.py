"""Count reflection phrases in a text, whatever their case and punctuation.

The dictionary is mini-r1-zero's, whose code matched word by word and so never found a phrase.
Training counts this dictionary only, so that runs compare. With a task's name a longer dictionary
is counted. Left out: the context of a phrase, which `aha.reasoning.behaviours` reads.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

PHRASES = (
    "wait",
    "possible",
    "perhaps",
    "check",
    "maybe",
    "let me",
    "would be",
    "but the",
    "wait but",
    "check if",
    "but how",
    "wait no",
    "but wait",
    "let me check",
    "let me think",
    "but let me",
)
# Counted for every task, but only when a task is named.
EXTENDED_PHRASES = (
    "hold on",
    "actually",
    "on second thought",
    "let me recheck",
    "let me redo",
    "let me recompute",
    "let me recalculate",
    "let me reconsider",
    "let me rethink",
    "let me re",
    "let me try",
    "double check",
    "recheck",
    "that s not right",
    "that is not right",
    "that can t be right",
    "doesn t work",
    "does not work",
    "try again",
    "another approach",
    "another way",
    "alternatively",
    "oops",
    "hmm",
)
TASK_PHRASES: Mapping[str, tuple[str, ...]] = {
    "countdown": (
        "too high",
        "too low",
        "too big",
        "too small",
        "too large",
        "not quite",
        "off by",
        "try something else",
    ),
    "gsm8k": ("does that make sense", "makes sense", "re read", "plugging back", "is correct"),
    "math": ("does that make sense", "makes sense", "re read", "plugging back", "is correct"),
}

_SEPARATORS = re.compile(r"[^a-z0-9]+")


def _any_of(phrases: Iterable[str]) -> re.Pattern[str]:
    """A pattern of lower-case text in which any run of other characters is a space.

    It has one branch for each first letter, so that the search is fast: it skips to those letters.
    In a branch the longest comes first, so that "wait but" is one phrase and not also "wait".
    """
    branches: dict[str, list[str]] = defaultdict(list)
    for phrase in sorted(phrases, key=len, reverse=True):
        branches[phrase[0]].append(phrase[1:].replace(" ", _SEPARATORS.pattern))
    return re.compile(
        "|".join(
            f"{first}(?<![a-z]{first})(?:{'|'.join(rest)})(?![a-z])"
            for first, rest in branches.items()
        )
    )


_DICTIONARY = _any_of(PHRASES)
_OF_ANY_TASK = _any_of((*PHRASES, *EXTENDED_PHRASES))
_OF_TASK = {
    task: _any_of((*PHRASES, *EXTENDED_PHRASES, *own)) for task, own in TASK_PHRASES.items()
}


def fold(text: str) -> str:
    """Lower case, with one space for every run of characters other than letters and digits."""
    return _SEPARATORS.sub(" ", text.lower())


def count_phrases(text: str, task: str = "") -> Counter[str]:
    """How often each reflection phrase occurs; overlapping phrases count as the longest.

    Without a task it counts mini-r1-zero's dictionary. With one it also counts `EXTENDED_PHRASES`
    and the task's own phrases in `TASK_PHRASES`.
    """
    pattern = _OF_TASK.get(task, _OF_ANY_TASK) if task else _DICTIONARY
    return Counter(fold(phrase) for phrase in pattern.findall(text.lower()))


def reflection_count(text: str) -> int:
    """The number of phrases of mini-r1-zero's dictionary in a text, as training records it."""
    return len(_DICTIONARY.findall(text.lower()))
