"""Is the answer right: the reward, and the verdict that evaluation shares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from aha.answers.equal import Pair, shared_verifier
from aha.answers.tags import (
    Text,
    answer_block,
    last_boxed,
    lenient_answer,
    strict_answer,
    with_opened_thoughts,
)
from aha.rewards.base import Reward
from aha.rewards.countdown import check_answer


def gold_answer(columns: Mapping[str, Any]) -> str | None:
    """The gold of a row: `answer` (plain, or what follows "####"), else the box in `solution`.

    None when the row has neither.
    """
    answer = columns.get("answer")
    text = "" if answer is None else str(answer).strip()
    if text and text.lower() != "nan":  # how pandas writes a missing cell
        if "####" in text:
            return text.rpartition("####")[2].strip()
        boxed = last_boxed(text)
        return text.strip() if boxed is None else boxed
    solution = columns.get("solution")
    return None if solution is None else last_boxed(str(solution))


def read_answer(text: str, columns: Mapping[str, Any]) -> str | None:
    """The lenient reading for this row: Countdown asks for the answer block, mathematics takes
    a box or "####" where there is no block."""
    return answer_block(text) if is_countdown(columns) else lenient_answer(text)


def is_countdown(columns: Mapping[str, Any]) -> bool:
    return columns.get("target") is not None and columns.get("nums") is not None


def correct_many(
    answers: Sequence[str | None], rows: Sequence[Mapping[str, Any]]
) -> list[bool | None]:
    """Whether each extracted answer is right for its row; None where the row has no usable gold.

    Countdown exactly; everything else by `aha.answers.equal`, all at once.
    """
    results: list[bool | None] = [None] * len(answers)
    pairs: dict[int, Pair] = {}
    for index, (answer, columns) in enumerate(zip(answers, rows, strict=True)):
        if is_countdown(columns):
            results[index] = check_answer(answer, columns["target"], columns["nums"]) is True
            continue
        gold = gold_answer(columns)
        if gold is not None:
            pairs[index] = Pair(gold, bare(answer or ""))
    outcomes = shared_verifier().equal_many(list(pairs.values())) if pairs else []
    for index, outcome in zip(pairs, outcomes, strict=True):
        results[index] = None if outcome == "no_gold" else outcome == "equal"
    return results


def bare(answer: str) -> str:
    """An answer without a box around it."""
    boxed = last_boxed(answer)
    return answer if boxed is None else boxed


@dataclass(frozen=True)
class Verdict:
    """One completion judged: `strict` asks for the exact layout too, `lenient` does not.

    `known` is False where the row has no usable gold; both readings are False then.
    """

    strict: bool
    lenient: bool
    well_formed: bool
    answer: str | None
    known: bool = True


def judge_many(
    prompts: Sequence[Text], completions: Sequence[Text], rows: Sequence[Mapping[str, Any]]
) -> list[Verdict]:
    """The verdicts that every accuracy and format rate is counted from."""
    texts = [with_opened_thoughts(p, c) for p, c in zip(prompts, completions, strict=True)]
    answers = [read_answer(text, columns) for text, columns in zip(texts, rows, strict=True)]
    layouts = [strict_answer(text) for text in texts]
    # In the exact layout both readings find the same answer, so one comparison serves both.
    correct = correct_many(answers, rows)
    return [
        Verdict(
            strict=right is True and layout is not None,
            lenient=right is True,
            well_formed=layout is not None,
            answer=answer,
            known=right is not None,
        )
        for answer, layout, right in zip(answers, layouts, correct, strict=True)
    ]


def judge(prompt: Text, completion: Text, columns: Mapping[str, Any]) -> Verdict:
    """`judge_many` for one completion."""
    return judge_many([prompt], [completion], [columns])[0]


def rows_of(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Columns of a batch as one mapping a row; what is not one value a row is left out."""
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

    name: ClassVar[str] = "accuracy"

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        correct = correctness(prompts, completions, columns)
        return [None if right is None else float(right) for right in correct]


def correctness(
    prompts: Sequence[Text], completions: Sequence[Text], columns: Mapping[str, Any]
) -> list[bool | None]:
    """Whether each completion is right, in the lenient reading; None without a usable gold."""
    rows = rows_of(columns, len(completions))
    texts = [with_opened_thoughts(p, c) for p, c in zip(prompts, completions, strict=True)]
    answers = [read_answer(text, row) for text, row in zip(texts, rows, strict=True)]
    return correct_many(answers, rows)
