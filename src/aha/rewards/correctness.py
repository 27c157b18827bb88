"""The GRPO lab's own accuracy: the answer must be the gold, letter by letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from aha.answers.tags import Text, answer_block, with_opened_thoughts
from aha.rewards.accuracy import gold_answer, rows_of
from aha.rewards.base import Reward


class CorrectnessReward(Reward):
    """`value` when the last answer block equals the gold as a string, spaces at its ends aside;
    else 0; None where the row has no gold.

    Strict on purpose: "$72" is not "72". Columns: answer (plain or "... #### 72") or solution
    (boxed). Source: the GRPO lab's correctness_reward_func.
    """

    name: ClassVar[str] = "correctness"

    value: float = 2.0

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        golds = [gold_answer(row) for row in rows_of(columns, len(completions))]
        answers = [
            answer_block(with_opened_thoughts(p, c))
            for p, c in zip(prompts, completions, strict=True)
        ]
        return [
            None if gold is None else (self.value if answer == gold else 0.0)
            for answer, gold in zip(answers, golds, strict=True)
        ]
