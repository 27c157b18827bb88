"""The texts that the embedded model is taught: random search over Countdown.

A trace tries one combination of the numbers after another, never the same twice. After
each it compares the result with the target. A success ends the search. A failure also ends it
with probability `stop_after_failure`, and the trace answers with its last, wrong expression.
Otherwise it says "Wait," and tries again. So the base model is taught to write sums, to compare
and to give up early. It is never taught that trying again pays. RL discovers that.

The tokenizer (`weights/tokenizer.json`) has one token for each integer 0 to 199, symbol and word.
Left out: digits as tokens. A model this small checked its own sums wrongly with digit tokens and
then never learned to try again (docs/log.md).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from transformers import PreTrainedTokenizerFast

from aha.sections import TaskSection
from aha.tasks.countdown import Countdown, Step, combine
from aha.tasks.prompts import THINK
from aha.tasks.task import Columns
from aha.tiny import weights_path

# The problems that the embedded model can read and write: every value has a token.
TINY_RANGES = TaskSection(
    sizes=(3,), number_min=1, number_max=20, target_min=1, target_max=100, max_value=199
)


@dataclass(frozen=True)
class TraceSettings:
    """The settings of the search.

    `guided_share` is the chance that a try is drawn from those that reach the target, not from all.
    """

    stop_after_failure: float = 0.6
    guided_share: float = 0.05
    max_tries: int = 12


@dataclass(frozen=True)
class Attempt:
    """One way to combine three numbers: two steps and the expression they make."""

    steps: tuple[Step, Step]
    expression: str


def all_attempts(nums: Sequence[int], max_value: int) -> list[Attempt]:
    """Every distinct way to combine three numbers within 0..max_value."""
    found: dict[str, Attempt] = {}
    for i, j in combinations(range(3), 2):
        third = nums[3 - i - j]
        for first in combine(nums[i], nums[j], max_value):
            inner = f"( {first.left} {first.operator} {first.right} )"
            # The larger operand stands first; on a tie the first step's result does.
            sides = (inner, third) if first.value >= third else (third, inner)
            for second in combine(first.value, third, max_value):
                expression = f"{sides[0]} {second.operator} {sides[1]}"
                found.setdefault(expression, Attempt((first, second), expression))
    return list(found.values())


def prompt_text(nums: Sequence[int], target: int) -> str:
    """The compact prompt; it already opens the think block."""
    return f"{Countdown().compact_question({'nums': nums, 'target': target})} {THINK}"


def completion_text(columns: Columns, settings: TraceSettings, rng: random.Random) -> str:
    """One trace for a problem's `nums` and `target`, without the end token."""
    attempts, target = all_attempts(columns["nums"], TINY_RANGES.max_value), columns["target"]
    rng.shuffle(attempts)
    hits = [attempt for attempt in attempts if attempt.steps[-1].value == target]
    parts: list[str] = []
    while True:
        guided = bool(hits) and rng.random() < settings.guided_share
        attempt = hits[-1] if guided else attempts.pop()
        solved = attempt.steps[-1].value == target
        sums = " , ".join(f"{s.left} {s.operator} {s.right} = {s.value}" for s in attempt.steps)
        parts.append(f"{sums} , {'yes' if solved else f'not {target}'} .")
        exhausted = not attempts or len(parts) >= settings.max_tries
        if solved or exhausted or rng.random() < settings.stop_after_failure:
            thoughts = " Wait, ".join(parts)
            return f"{thoughts} </think> <answer> {attempt.expression} </answer>"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The shipped tokenizer; decoding joins tokens with single spaces."""
    return PreTrainedTokenizerFast.from_pretrained(weights_path())
