"""Rewards for a right answer: exact for Countdown, by equality for mathematics, or by letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aha.answers.tags import Text, answer_block, with_opened_thoughts
from aha.rewards.reward import Reward, column
from aha.tasks import check_completions
from aha.tasks.countdown import fault
from aha.tasks.text import gold_answer


def correctness(
    prompts: Sequence[Text], completions: Sequence[Text], columns: Mapping[str, Any]
) -> list[bool | None]:
    """True for each completion that is right, in the lenient reading; None without usable gold."""
    verdicts = check_completions(prompts, completions, _rows(columns, len(completions)))
    return [verdict.lenient if verdict.known else None for verdict in verdicts]


def _rows(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Columns of a batch as one mapping a row; a value that is not one per row is left out."""
    usable = {
        name: values
        for name, values in columns.items()
        if hasattr(values, "__len__") and not isinstance(values, str) and len(values) == count
    }
    return [{name: values[row] for name, values in usable.items()} for row in range(count)]


class AccuracyReward(Reward):
    """1 when the answer is right, else 0; None when the row's gold is missing or unreadable.

    Lenient reading (see `aha.answers.tags`). Countdown (`target`, `nums`): an expression that uses
    each number exactly once and equals the target. Otherwise (`answer` or `solution`):
    mathematical equality. Source: DeepSeek-R1 (arXiv:2501.12948) section 2.2.2; open-r1.
    """

    name = "accuracy"

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        correct = correctness(prompts, completions, columns)
        return [None if right is None else float(right) for right in correct]


class CorrectnessReward(Reward):
    """`value` when the last answer block equals the gold as a string, spaces at its ends aside;
    else 0; None where the row has no gold.

    Strict on purpose: "$72" is not "72". Columns: answer (plain or "... #### 72") or solution
    (boxed). Source: the GRPO lab's correctness_reward_func.
    """

    name = "correctness"
    value: float = 2.0

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        golds = [gold_answer(row) for row in _rows(columns, len(completions))]
        answers = [
            answer_block(with_opened_thoughts(p, c))
            for p, c in zip(prompts, completions, strict=True)
        ]
        return [
            None if gold is None else (self.value if answer == gold else 0.0)
            for answer, gold in zip(answers, golds, strict=True)
        ]


class EquationReward(Reward):
    """`correct` for an expression that uses each given number exactly once and equals the
    target, `valid` for an expression that misses either, 0 otherwise.

    Range 0 to `correct`; reads the last answer block. Columns: target, nums. Source: MiniR1 and
    TinyZero, with their faults mended: exact fractions instead of `eval`, integers only
    (`1.5*2` does not use 1, 5 and 2), and `65 = 55 + 10` is read.
    """

    name = "equation"
    correct: float = 2.0
    valid: float = 0.1

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        targets = column(columns, "target", self.name)
        nums = column(columns, "nums", self.name)
        values: list[float | None] = []
        for p, c, target, numbers in zip(prompts, completions, targets, nums, strict=True):
            answer = answer_block(with_opened_thoughts(p, c))
            is_expression, wrong = fault(answer, target, numbers)
            value = self.valid if wrong else self.correct
            values.append(value if is_expression else 0.0)
        return values
