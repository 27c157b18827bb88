"""Rewards for the form of a text: its tags, its steps, its phrases of reflection, repetition."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from aha.answers.tags import TAGS, answer_block, strict_answer, text_of
from aha.reasoning.reflection import count_phrases
from aha.rewards.reward import Reward, Row

_REASONING = TAGS["reasoning"]
_CLOSING_ANSWER = "</answer>"
_SOFT_MIDDLE = re.compile(r"</reasoning>\s*<answer>")
_STRICT = re.compile(r"<reasoning>\n.*\n</reasoning>\n<answer>\n.*\n</answer>\n?", re.DOTALL)
_INTEGER = re.compile(r"[-\u2212]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")

# The start of a step: "Step 1:", "2.", a bullet, or "First," and the like.
_MARKER = re.compile(
    r"(?:^|(?<=\n))[ \t]*(?:(step[ \t]+\d+)[ \t]*[:.)]|(\d{1,3})[.)](?=\s)|([-*\u2022])(?=[ \t]))"
    r"|\b(first|second|third|next|then|finally),",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_MIN_WORDS = 2  # of a step's content


class FormatReward(Reward):
    """`full` for one block of thoughts, then one answer block, and nothing else but white space;
    `partial` for all four tags in a wrong order or number; 0 otherwise.

    Range 0 to `full`; `tags` is think or reasoning. A prompt that already opened the thoughts
    counts as opened. Source: DeepSeek-R1 (arXiv:2501.12948) section 2.2.2; MiniR1 is
    `full=0.5, partial=0.1`.
    """

    name = "format"
    full: float = 1.0
    partial: float = 0.0
    tags: Literal["think", "reasoning"] = "think"

    def score(self, row: Row) -> float:
        if strict_answer(row.text, self.tags) is not None:
            return self.full
        return self.partial if all(tag in row.text for tag in TAGS[self.tags]) else 0.0


class HashFormatReward(Reward):
    """`value` for exactly one `#### NUMBER`, with nothing after it but white space; else 0.

    The layout of GSM8K's gold solutions (Cobbe et al. 2021, arXiv:2110.14168).
    """

    name = "hash_format"
    value: float = 1.0

    def score(self, row: Row) -> float:
        return self.value if strict_answer(row.text, "hash") is not None else 0.0


class XmlCountReward(Reward):
    """0.125 for each of the four reasoning and answer tags that stands exactly once, on a line of
    its own, less 0.001 for each character after the closing answer tag; at least 0.

    Range 0 to 0.5. White space around them is not counted. Source: the GRPO lab's
    xmlcount_reward_func (W. Brown's GRPO demo).
    """

    name = "xmlcount"

    def score(self, row: Row) -> float:
        text = row.text
        lines = [line.strip() for line in text.split("\n")]
        value = sum(0.125 for tag in _REASONING if text.count(tag) == lines.count(tag) == 1)
        trailing = text.rpartition(_CLOSING_ANSWER)[2].strip() if _CLOSING_ANSWER in text else ""
        return max(0.0, value - 0.001 * len(trailing))


class SoftFormatReward(Reward):
    """0.5 for a reasoning block followed by an answer block, anywhere and across lines; else 0.

    Source: the GRPO lab's soft_format_reward_func, whose pattern did not cross lines.
    """

    name = "soft_format"

    def score(self, row: Row) -> float:
        text = row.text
        begin = text.find(_REASONING[0])
        middle = _SOFT_MIDDLE.search(text, begin) if begin >= 0 else None
        closed = middle is not None and text.find(_CLOSING_ANSWER, middle.end()) >= 0
        return 0.5 if closed else 0.0


class StrictFormatReward(Reward):
    """0.5 for the reasoning and answer tags on lines of their own and nothing else; else 0.

    Source: the GRPO lab's strict_format_reward_func, whose pattern did not cross lines and
    accepted a second answer.
    """

    name = "strict_format"

    def score(self, row: Row) -> float:
        # First the count of tags, which is linear; then the pattern has one way to match.
        if strict_answer(row.text, "reasoning") is None:
            return 0.0
        return 0.5 if _STRICT.fullmatch(row.text) else 0.0


class IntReward(Reward):
    """0.5 when the last answer block is an integer, thousands separators allowed; else 0.

    Source: the GRPO lab's int_reward_func, which refused negative numbers.
    """

    name = "int"

    def score(self, row: Row) -> float:
        answer = answer_block(row.text)
        return 0.5 if answer is not None and _INTEGER.fullmatch(answer) else 0.0


class ReasoningStepsReward(Reward):
    """min(1, n / `wanted`) over the n distinct step markers that each have content of their own.

    Range 0 to 1. Markers: "Step 1:", numbered and bulleted lines, First, Second, Third, Next,
    Then, Finally with a comma. Content is at least two words before the next marker or line's
    end; the same content counts once. Source: open-r1's reasoning_steps_reward, as in
    deepseek_r1_zero_repro, which a list of bare markers satisfied.
    """

    name = "reasoning_steps"
    wanted: int = Field(default=3, gt=0)

    def score(self, row: Row) -> float:
        return min(1.0, count_steps(text_of(row.completion)) / self.wanted)


def count_steps(text: str) -> int:
    """The number of distinct step markers that have content of their own."""
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

    name = "reflection"
    per_phrase: float = 0.1
    cap: float = Field(default=0.5, ge=0)

    def score(self, row: Row) -> float:
        return min(self.cap, self.per_phrase * len(count_phrases(text_of(row.completion))))


class RepetitionPenaltyReward(Reward):
    """(1 - distinct / all) * `max_penalty` over the n-grams of words; 0 for fewer words than n.

    Range `max_penalty` to 0. Source: open-r1's get_repetition_penalty_reward (arXiv:2502.03373).
    """

    name = "repetition_penalty"
    n_grams: int = Field(default=3, gt=0)
    max_penalty: float = Field(default=-0.1, le=0)

    def score(self, row: Row) -> float:
        words = text_of(row.completion).lower().split()
        grams = [tuple(words[i : i + self.n_grams]) for i in range(len(words) - self.n_grams + 1)]
        if not grams:
            return 0.0
        return (1 - len(set(grams)) / len(grams)) * self.max_penalty
