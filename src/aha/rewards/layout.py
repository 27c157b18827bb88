"""Rewards for layout: the think and answer tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from aha.rewards.base import Reward
from aha.rewards.parse import Text, has_all_tags, strict_answer, with_opened_think


class FormatReward(Reward):
    """`full` for one think block then one answer block and nothing else, `partial` for all four
    tags in a wrong order or number, 0 otherwise.

    Range 0 to `full`. A prompt that already opened `<think>` counts as opened. Source: DeepSeek-R1
    (arXiv:2501.12948) section 2.2.2; MiniR1 is `full=0.5, partial=0.1`.
    """

    name: ClassVar[str] = "format"

    full: float = 1.0
    partial: float = 0.0

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        texts = (with_opened_think(p, c) for p, c in zip(prompts, completions, strict=True))
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> float:
        if strict_answer(text) is not None:
            return self.full
        return self.partial if has_all_tags(text) else 0.0
