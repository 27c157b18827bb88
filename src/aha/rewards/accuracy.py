"""Is the answer right: the reward, and the verdict that evaluation shares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from aha.rewards.base import Reward
from aha.rewards.countdown import check_answer
from aha.rewards.parse import Text, lenient_answer, strict_answer, with_opened_think


def is_correct(answer: str | None, columns: Mapping[str, Any]) -> bool:
    """Whether an extracted answer is right for one row's gold columns.

    Errors: ValueError when the row has no gold that is known here.
    """
    if "target" in columns and "nums" in columns:
        return check_answer(answer, columns["target"], columns["nums"]) is True
    raise ValueError(
        f"accuracy needs the columns target and nums (Countdown); this row has {sorted(columns)}."
    )


@dataclass(frozen=True)
class Verdict:
    """One completion judged: `strict` asks for the exact layout too, `lenient` does not."""

    strict: bool
    lenient: bool
    well_formed: bool
    answer: str | None


def judge(prompt: Text, completion: Text, columns: Mapping[str, Any]) -> Verdict:
    """The verdict that every accuracy and format rate is counted from."""
    text = with_opened_think(prompt, completion)
    strict, lenient = strict_answer(text), lenient_answer(text)
    return Verdict(
        strict=strict is not None and is_correct(strict, columns),
        lenient=is_correct(lenient, columns),
        well_formed=strict is not None,
        answer=lenient,
    )


class AccuracyReward(Reward):
    """1 when the last answer block is right, else 0.

    Countdown: an expression that uses each of `nums` exactly once and equals `target`.
    Source: DeepSeek-R1 (arXiv:2501.12948) section 2.2.2.
    """

    name: ClassVar[str] = "accuracy"

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        golds = {k: v for k, v in columns.items() if isinstance(v, list) and len(v) == len(prompts)}
        scores: list[float | None] = []
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            answer = lenient_answer(with_opened_think(prompt, completion))
            scores.append(float(is_correct(answer, {k: v[row] for k, v in golds.items()})))
        return scores
