"""Rewards for how thoughts are written: steps, reflection, repetition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from aha.answers.tags import Text, text_of
from aha.reasoning.reflection import count_phrases
from aha.rewards.base import Reward

_MARKER = re.compile(
    r"(?:^|(?<=\n))[ \t]*(?:(step[ \t]+\d+)[ \t]*[:.)]|(\d{1,3})[.)](?=\s)|([-*\u2022])(?=[ \t]))"
    r"|\b(first|second|third|next|then|finally),",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_MIN_WORDS = 2


class ReasoningStepsReward(Reward):
    """min(1, n / `wanted`) over the n distinct step markers that each have content of their own.

    Range 0 to 1. Markers: "Step 1:", numbered and bulleted lines, First, Second, Third, Next,
    Then, Finally with a comma. Content is at least two words before the next marker or line's
    end; the same content counts once. Source: open-r1's reasoning_steps_reward, as in
    deepseek_r1_zero_repro, which a list of bare markers satisfied.
    """

    name: ClassVar[str] = "reasoning_steps"

    wanted: int = Field(default=3, gt=0)

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        return [min(1.0, count_steps(text_of(c)) / self.wanted) for c in completions]


def count_steps(text: str) -> int:
    """How many distinct step markers have content of their own."""
    matches = list(_MARKER.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    markers: set[str] = set()
    contents: set[str] = set()
    for match, end in zip(matches, ends[: len(matches)], strict=True):
        line = text[match.end() : end].lstrip(" \t").split("\n", 1)[0]
        words = [word.lower() for word in _WORD.findall(line)]
        content = " ".join(words)
        # Bullets look alike; what tells them apart is their content.
        number = int(match.group(2)) if match.group(2) else match.group().lower()
        marker = content if match.group(3) else " ".join(str(number).split())
        if len(words) >= _MIN_WORDS and content not in contents and marker not in markers:
            markers.add(marker)
            contents.add(content)
    return len(markers)


class ReflectionReward(Reward):
    """`per_phrase` for each reflection phrase of the dictionary that occurs, once each, to `cap`.

    Range 0 to `cap`, which keeps repeating "wait" from beating being right. Phrases are those of
    `aha.reasoning.reflection`; case and punctuation do not matter. Source: mini-r1-zero.
    """

    name: ClassVar[str] = "reflection"

    per_phrase: float = 0.1
    cap: float = Field(default=0.5, ge=0)

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        distinct = [len(count_phrases(text_of(completion))) for completion in completions]
        return [min(self.cap, self.per_phrase * count) for count in distinct]


class RepetitionPenaltyReward(Reward):
    """(1 - distinct / all) * `max_penalty` over the n-grams of words; 0 for fewer words than n.

    Range `max_penalty` to 0. Source: open-r1's get_repetition_penalty_reward (arXiv:2502.03373).
    """

    name: ClassVar[str] = "repetition_penalty"

    n_grams: int = Field(default=3, gt=0)
    max_penalty: float = Field(default=-0.1, le=0)

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        return [self._score(text_of(completion)) for completion in completions]

    def _score(self, text: str) -> float:
        words = text.lower().split()
        grams = [tuple(words[i : i + self.n_grams]) for i in range(len(words) - self.n_grams + 1)]
        if not grams:
            return 0.0
        return (1 - len(set(grams)) / len(grams)) * self.max_penalty
