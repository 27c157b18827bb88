"""Rewards for layout: which tags, in which order, on which lines."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from aha.answers.tags import (
    LAYOUTS,
    REASONING,
    Text,
    answer_block,
    has_all_tags,
    strict_answer,
    with_opened_thoughts,
)
from aha.rewards.base import Reward

_CLOSING_ANSWER = "</answer>"
_SOFT_MIDDLE = re.compile(r"</reasoning>\s*<answer>")
_STRICT = re.compile(r"<reasoning>\n.*\n</reasoning>\n<answer>\n.*\n</answer>\n?", re.DOTALL)
_INTEGER = re.compile(r"[-\u2212]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")


class _TextReward(Reward):
    """Base of the rewards that look at one text, with an opening tag that the prompt wrote."""

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        pairs = zip(prompts, completions, strict=True)
        return [self._score(with_opened_thoughts(p, c)) for p, c in pairs]

    @abstractmethod
    def _score(self, text: str) -> float: ...


class FormatReward(_TextReward):
    """`full` for one block of thoughts, then one answer block, and nothing else but white space;
    `partial` for all four tags in a wrong order or number; 0 otherwise.

    Range 0 to `full`; `tags` is think or reasoning. A prompt that already opened the thoughts
    counts as opened. Source: DeepSeek-R1 (arXiv:2501.12948) section 2.2.2; MiniR1 is
    `full=0.5, partial=0.1`.
    """

    name: ClassVar[str] = "format"

    full: float = 1.0
    partial: float = 0.0
    tags: Literal["think", "reasoning"] = "think"

    def _score(self, text: str) -> float:
        layout = LAYOUTS[self.tags]
        if strict_answer(text, [layout]) is not None:
            return self.full
        return self.partial if has_all_tags(text, layout) else 0.0


class XmlCountReward(_TextReward):
    """0.125 for each of the four reasoning and answer tags that stands exactly once, on a line of
    its own, less 0.001 for each character after the closing answer tag; at least 0.

    Range 0 to 0.5. White space around them is not counted. Source: the GRPO lab's
    xmlcount_reward_func (W. Brown's GRPO demo).
    """

    name: ClassVar[str] = "xmlcount"

    def _score(self, text: str) -> float:
        lines = [line.strip() for line in text.split("\n")]
        value = sum(
            0.125 for tag in REASONING.tags if text.count(tag) == 1 and lines.count(tag) == 1
        )
        trailing = text.rpartition(_CLOSING_ANSWER)[2].strip() if _CLOSING_ANSWER in text else ""
        return max(0.0, value - 0.001 * len(trailing))


class SoftFormatReward(_TextReward):
    """0.5 for a reasoning block followed by an answer block, anywhere and across lines; else 0.

    Source: the GRPO lab's soft_format_reward_func, whose pattern did not cross lines.
    """

    name: ClassVar[str] = "soft_format"

    def _score(self, text: str) -> float:
        begin = text.find(REASONING.tags[0])
        middle = _SOFT_MIDDLE.search(text, begin) if begin >= 0 else None
        closed = middle is not None and text.find(_CLOSING_ANSWER, middle.end()) >= 0
        return 0.5 if closed else 0.0


class StrictFormatReward(_TextReward):
    """0.5 for the reasoning and answer tags on lines of their own and nothing else; else 0.

    Source: the GRPO lab's strict_format_reward_func, whose pattern did not cross lines and
    accepted a second answer.
    """

    name: ClassVar[str] = "strict_format"

    def _score(self, text: str) -> float:
        # First the count of tags, which is linear; then the pattern has one way to match.
        if strict_answer(text, [REASONING]) is None:
            return 0.0
        return 0.5 if _STRICT.fullmatch(text) else 0.0


class IntReward(_TextReward):
    """0.5 when the last answer block is an integer, thousands separators allowed; else 0.

    Source: the GRPO lab's int_reward_func, which refused negative numbers.
    """

    name: ClassVar[str] = "int"

    def _score(self, text: str) -> float:
        answer = answer_block(text)
        return 0.5 if answer is not None and _INTEGER.fullmatch(answer) else 0.0
