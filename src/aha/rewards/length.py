"""Rewards for length, in tokens: never in characters, which a tokenizer does not bound.

All need `completion_ids`. A `max_length` of none is filled in from the recipe's
max_completion_length.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from pydantic import Field

from aha.rewards.accuracy import correctness
from aha.rewards.reward import Reward, Row


class _LimitReward(Reward):
    """Base of the rewards that look at nothing but the length and a limit."""

    needs = ("completion_ids",)
    max_length: int | None = Field(default=None, gt=0)

    def score(self, row: Row) -> float:
        if self.max_length is None:
            raise ValueError(f"reward {self.name!r} needs the option max_length.")
        return self._score(row.tokens, self.max_length)

    @abstractmethod
    def _score(self, tokens: int, max_length: int) -> float: ...


class LengthPenaltyReward(_LimitReward):
    """0 up to `start` of `max_length` tokens, then down linearly to `-penalty` at `max_length`.

    Range -penalty to 0. Source: MiniR1, whose code counted characters.
    """

    name = "length_penalty"
    start: float = Field(default=0.8, ge=0, lt=1)
    penalty: float = Field(default=0.5, ge=0)

    def _score(self, tokens: int, max_length: int) -> float:
        begin = self.start * max_length
        return -self.penalty * min(1.0, max(0.0, (tokens - begin) / (max_length - begin)))


class SoftOverlongReward(_LimitReward):
    """0 up to `max_length - cache` tokens, then down linearly to -1 at `max_length`.

    Range -1 to 0; `cache` is a fifth of `max_length` unless given. Source: DAPO
    (arXiv:2503.14476) equation 13.
    """

    name = "soft_overlong"
    cache: int | None = Field(default=None, gt=0)

    def _score(self, tokens: int, max_length: int) -> float:
        cache = min(self.cache or max(1, max_length // 5), max_length)
        return -min(1.0, max(0.0, (tokens - (max_length - cache)) / cache))


class EosReward(_LimitReward):
    """`value` for ending by itself, which is in fewer than `max_length` tokens; else 0.

    Source: wished for in MiniR1's notes.
    """

    name = "eos"
    value: float = 1.0

    def _score(self, tokens: int, max_length: int) -> float:
        return self.value if tokens < max_length else 0.0


class LengthReward(Reward):
    """min(1, tokens / `scale`): longer is better, whatever is said.

    Range 0 to 1. It can be had by rambling: give it a small weight. Source: mini-r1-zero, which
    had no cap and counted characters.
    """

    name = "length"
    needs = ("completion_ids",)
    scale: int = Field(default=5_000, gt=0)

    def score(self, row: Row) -> float:
        return min(1.0, row.tokens / self.scale)


class CosineReward(Reward):
    """Right answers are better short, wrong ones less bad long, along a half cosine in length.

    With p = min(1, tokens / `max_length`) and w = (1 + cos(pi p)) / 2: right gives
    min_value_correct + w (max_value_correct - min_value_correct), 1.0 down to 0.8; wrong gives
    max_value_wrong + w (min_value_wrong - max_value_wrong), -0.5 up to -0.1. None where the row
    has no usable gold. Needs what `accuracy` needs. Source: open-r1's
    get_cosine_scaled_reward; deepseek_r1_zero_repro never told it what was right.
    """

    name = "cosine"
    needs = ("completion_ids",)
    min_value_wrong: float = -0.5
    max_value_wrong: float = -0.1
    min_value_correct: float = 0.8
    max_value_correct: float = 1.0
    max_length: int = Field(default=1_000, gt=0)

    def score_batch(self, rows: Sequence[Row]) -> list[float | None]:
        values: list[float | None] = []
        for right, row in zip(correctness(rows), rows, strict=True):
            long, short = self.max_value_wrong, self.min_value_wrong
            if right:
                long, short = self.min_value_correct, self.max_value_correct
            weight = 0.5 * (1 + math.cos(math.pi * min(1.0, row.tokens / self.max_length)))
            values.append(None if right is None else long + weight * (short - long))
        return values
