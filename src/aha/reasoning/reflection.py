"""Reflection phrases in a text: phrases, not words; case and punctuation folded.

The dictionary is mini-r1-zero's, whose code matched word by word and so never found a phrase.
Left out: any judgement of whether a phrase is used in earnest; that is asked of results.
"""

from __future__ import annotations

import re
from collections import Counter

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

# Longest first, so that "but wait" is one phrase and not also "wait".
_PATTERN = re.compile(
    r"(?<![a-z])(?:" + "|".join(sorted(PHRASES, key=len, reverse=True)) + r")(?![a-z])"
)
_SEPARATORS = re.compile(r"[^a-z0-9]+")


def fold(text: str) -> str:
    """Lower case, with every run of other characters than letters and digits as one space."""
    return _SEPARATORS.sub(" ", text.lower())


def count_phrases(text: str) -> Counter[str]:
    """How often each reflection phrase occurs; overlapping phrases count as the longest."""
    return Counter(_PATTERN.findall(fold(text)))


def reflection_count(text: str) -> int:
    """How many reflection phrases a text has."""
    return sum(count_phrases(text).values())
