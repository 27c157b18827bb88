"""The texts that the embedded models are taught: random search, one try after another.

A trace makes one try after another, never the same twice. After each it compares the result with
the target. A success ends the search. A failure also ends it with probability
`stop_after_failure`, and the trace answers with its last, wrong try. Otherwise it says "Wait," and
tries again. So the base model is taught to write sums, to compare and to give up early. It is never
taught that trying again pays. RL discovers that.

A try combines three numbers (Countdown), or puts a number in for x (modular equations). Each
tokenizer has one token for each integer 0 to 199, symbol and word. Left out: digits as tokens. A
model this small checked its own sums wrongly with digit tokens and then never learned to try again
(docs/log.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from aha.sections import TaskSection
from aha.tasks import Task
from aha.tasks.countdown import Countdown, Step, combine
from aha.tasks.modular import Modular
from aha.tasks.prompts import THINK
from aha.tasks.task import Columns
from aha.tiny import MODULAR_NAME, TINY_NAME, weights_path

# The problems that the embedded models can read and write: every value has a token.
TINY_RANGES = TaskSection(
    sizes=(3,), number_min=1, number_max=20, target_min=1, target_max=100, max_value=199
)
MODULAR_RANGES = TaskSection(name="modular", number_min=7, number_max=13, max_value=199)


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
    """One try: its steps, the last of which gives what is compared with the target; its answer."""

    steps: tuple[Step, ...]
    answer: str


@dataclass(frozen=True)
class Lesson:
    """The lesson of an embedded model: a task's problems, and the tries of one.

    `cycles`: steps and the highest learning rate of each cycle of its pre-training. `words` are in
    its tokenizer beside those of the first model.
    """

    task: Task
    ranges: TaskSection
    attempts: Callable[[Columns], list[Attempt]]
    traces: TraceSettings
    cycles: tuple[tuple[int, float], ...]
    words: tuple[str, ...] = ()


def countdown_attempts(columns: Columns) -> list[Attempt]:
    """Every distinct way to combine three numbers within the vocabulary."""
    nums, max_value = columns["nums"], TINY_RANGES.max_value
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


def modular_attempts(columns: Columns) -> list[Attempt]:
    """Every x from 0 to m - 1, multiplied, added to and taken modulo m."""
    a, b, m = columns["a"], columns["b"], columns["m"]
    found = []
    for x in range(m):
        product, total = a * x, a * x + b
        steps = (
            Step(a, "*", x, product),
            Step(product, "+", b, total),
            Step(total, "-", total // m * m, total % m),
        )
        found.append(Attempt(steps, str(x)))
    return found


LESSONS = {
    # 96 % of the sums are true after the first cycle, 99 % after the two warm restarts.
    TINY_NAME: Lesson(
        Countdown(),
        TINY_RANGES,
        countdown_attempts,
        TraceSettings(),
        ((2_000, 3e-3), (1_000, 1.5e-3), (1_000, 1.5e-3)),
    ),
    # No try is guided: a model could learn solutions by heart.
    MODULAR_NAME: Lesson(
        Modular(),
        MODULAR_RANGES,
        modular_attempts,
        TraceSettings(guided_share=0.0),
        ((1_500, 3e-3), (1_000, 1.5e-3)),
        ("Solve", "x", "mod"),
    ),
}


def prompt_text(lesson: Lesson, columns: Columns) -> str:
    """The compact prompt; it already opens the think block."""
    return f"{lesson.task.compact_question(columns)} {THINK}"


def shuffled(columns: Columns, rng: random.Random) -> Columns:
    """The columns with given numbers in a random order."""
    if "nums" not in columns:
        return columns
    nums = list(columns["nums"])
    rng.shuffle(nums)
    return {**columns, "nums": nums}


def completion_text(
    lesson: Lesson, columns: Columns, settings: TraceSettings, rng: random.Random
) -> str:
    """One trace for a problem, without the end token."""
    attempts, target = lesson.attempts(columns), columns["target"]
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
            return f"{thoughts} </think> <answer> {attempt.answer} </answer>"


def tiny_tokenizer(words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """The first model's tokenizer, perhaps with more words; decoding joins tokens with spaces."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(weights_path())
    if words:
        file = json.loads(tokenizer.backend_tokenizer.to_str())
        vocabulary = file["model"]["vocab"]
        vocabulary |= {word: len(vocabulary) + place for place, word in enumerate(words)}
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(file))
    return tokenizer
