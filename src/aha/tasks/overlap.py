"""Do two sets of problems share text: word n-grams, as in GPT-3's and open-r1's decontamination."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aha.types import Problem

NGRAM = 8
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """Problems of the first set that share an n-gram (or, when shorter, their whole text)."""

    keys: tuple[str, ...]
    of: int

    @property
    def share(self) -> float:
        return len(self.keys) / self.of if self.of else 0.0


def overlap(problems: Sequence[Problem], others: Iterable[Problem], n: int = NGRAM) -> Overlap:
    """Which of `problems` share an n-gram of words with any of `others`.

    Problems without a text (Countdown) are compared by their keys.
    """
    known: set[object] = set()
    for other in others:
        known.add(other.key)
        known |= _grams(other, n)
    shared = [p.key for p in problems if p.key in known or not known.isdisjoint(_grams(p, n))]
    return Overlap(tuple(shared), len(problems))


def _grams(problem: Problem, n: int) -> set[object]:
    words = _WORD.findall(str(problem.columns.get("problem", "")).lower())
    if not words:
        return set()
    size = min(n, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
