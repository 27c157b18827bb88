"""Rewards for length, in tokens: never in characters, which a tokenizer does not bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from aha.rewards.base import Reward, column
from aha.rewards.parse import Text


class LengthPenaltyReward(Reward):
    """0 up to `start` of `max_length` tokens, then down linearly to `-penalty` at `max_length`.

    Range -penalty to 0. `max_length` is the recipe's max_completion_length unless given.
    Needs completion_ids. Source: MiniR1, whose code counted characters.
    """

    name: ClassVar[str] = "length_penalty"

    max_length: int | None = Field(default=None, gt=0)
    start: float = Field(default=0.8, ge=0, lt=1)
    penalty: float = Field(default=0.5, ge=0)

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        if self.max_length is None:
            raise ValueError("reward 'length_penalty' needs the option max_length.")
        completion_ids = column(columns, "completion_ids", self.name)
        return [self._score(len(ids), self.max_length) for ids in completion_ids]

    def _score(self, tokens: int, max_length: int) -> float:
        begin = self.start * max_length
        excess = (tokens - begin) / (max_length - begin)
        return -self.penalty * min(1.0, max(0.0, excess))
