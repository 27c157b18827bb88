"""Countdown: reach a target from given numbers, each used exactly once, with + - * /.

Problems are generated, or read from rows with `target` and `nums`, the columns of
Jiayi-Pan/Countdown-Tasks-3to4 (TinyZero). A generated problem always has a solution, because its
target is the value of an expression that was made first. Answers are checked with exact
fractions, never with `eval`.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

from aha.answers.expression import ExpressionError, bare_equation, parse_equation
from aha.answers.tags import answer_block
from aha.sections import TaskSection
from aha.tasks.task import Columns, Split, Task, Vote, distinct, split_of
from aha.types import Problem, UserError
from aha.visible import quoted

_MOST_NUMBERS = 8  # as task.sizes
_MOST_SEARCHED = 4  # 20 ms; with five numbers the search for a solution takes half a second

_PUNCTUATION = re.compile(r"[\[\](){}'\",;:?!]|\.(?![0-9])")
_ARROW = re.compile("=>|->|\u2192|=")
_NUMBER = "(?:0|[1-9][0-9]{0,5})"
_NUMBERS = f"{_NUMBER}(?: (?:and )?{_NUMBER})*"
_TARGET_FIRST = re.compile(
    f"(?:make |reach |get |target )?({_NUMBER}) "
    f"(?:from|with|using|out of|nums|numbers|=) ({_NUMBERS})"
)
_NUMBERS_FIRST = re.compile(
    f"(?:from |with |using |nums |numbers )?({_NUMBERS}) "
    f"(?:make|makes|reach|get|to|for|target|=) ({_NUMBER})"
)


@dataclass(frozen=True)
class Step:
    """One operation `left operator right = value`, in whole non-negative numbers."""

    left: int
    operator: str
    right: int
    value: int


def combine(a: int, b: int, max_value: int) -> list[Step]:
    """All steps from two numbers to a whole number in 0..max_value, larger operand first."""
    high, low = max(a, b), min(a, b)
    steps = [
        Step(high, "+", low, high + low),
        Step(high, "-", low, high - low),
        Step(high, "*", low, high * low),
    ]
    if low != 0 and high % low == 0:
        steps.append(Step(high, "/", low, high // low))
    return [step for step in steps if step.value <= max_value]


def random_steps(nums: Sequence[int], max_value: int, rng: random.Random) -> list[Step] | None:
    """Combine two random numbers by a random operator until one is left; None at a dead end."""
    pool = list(nums)
    steps: list[Step] = []
    while len(pool) > 1:
        rng.shuffle(pool)
        choices = combine(pool.pop(), pool.pop(), max_value)
        if not choices:
            return None
        steps.append(rng.choice(choices))
        pool.append(steps[-1].value)
    return steps


def make_problem(nums: Sequence[int], target: int) -> Problem:
    """A problem; the order of the numbers is not part of its key."""
    key = f"{Countdown.name}:{','.join(str(n) for n in sorted(nums))}={target}"
    return Problem(Countdown.name, key, {"target": target, "nums": list(nums)})


def whole(value: Any) -> int:
    """The integer in a column: 3, 3.0 or "3". Errors: ValueError for anything else."""
    try:
        number = int(value)
        if not isinstance(value, bool) and (isinstance(value, str) or number == value):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"a Countdown number is {value!r}; it must be an integer.")


def fault(answer: str | None, target: Any, nums: Sequence[Any]) -> tuple[bool, str]:
    """True if the answer is an arithmetic expression, and its fault in words ("": it is right).

    An equation such as `65 = 55 + 10` counts as its expression; its other side must be the target.
    Errors: ValueError if the target or a number is not an integer.
    """
    if answer is None:
        return False, "there is no answer block"
    try:
        equation = parse_equation(bare_equation(answer))
    except ExpressionError as error:
        return False, f"not an expression: {error}"
    expression = equation.expression
    if Counter(expression.numbers) != Counter(whole(n) for n in nums):
        return True, f"it uses {list(expression.numbers)}, not each of {list(nums)} exactly once"
    if expression.value != whole(target):
        return True, f"it is {expression.value}, not {target}"
    if equation.claimed and equation.claimed_value != whole(target):
        return True, f"the other side of the equation is not {target}"
    return True, ""


def has_solution(nums: Sequence[int], target: int) -> bool | None:
    """True if + - * / reach the target with each number once; None for more than 4 numbers."""
    if len(nums) > _MOST_SEARCHED:
        return None
    pools = {tuple(sorted(Fraction(n) for n in nums))}
    for _ in nums[1:]:
        combined: set[tuple[Fraction, ...]] = set()
        for pool in pools:
            for i, j in combinations(range(len(pool)), 2):
                rest = [value for k, value in enumerate(pool) if k not in (i, j)]
                low, high = pool[i], pool[j]
                results = {low + high, high - low, low - high, low * high}
                results |= {a / b for a, b in ((low, high), (high, low)) if b != 0}
                combined |= {tuple(sorted([*rest, result])) for result in results}
        pools = combined
    return (Fraction(target),) in pools


class Countdown(Task):
    """Problems have the columns `target`, an integer, and `nums`, a list of integers."""

    name = "countdown"
    summary = "reach a target from 3 or 4 numbers; generated, or rows with target and nums"
    columns = ("target", "nums")
    generates = True
    searches = True
    needs_tags = True
    example = "15 from 3 13 5"
    rules = "countdown"

    def problem(self, row: Columns, where: str) -> Problem:
        for column in self.columns:
            if column not in row:
                raise UserError(
                    f"{where}: column {column!r} is missing; a Countdown row needs target (an "
                    f"integer) and nums (a list of integers), and this one has {sorted(row)}."
                )
        target, nums = row["target"], row["nums"]
        try:
            target = whole(target)
        except ValueError:
            raise UserError(f"{where}: target is {target!r}; it must be an integer.") from None
        if isinstance(nums, str):  # CSV holds a list as text, such as [44, 19, 35]
            nums = nums.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
        with contextlib.suppress(TypeError, ValueError):
            if nums := [whole(n) for n in nums]:
                return make_problem(nums, target)
        raise UserError(f"{where}: nums is {row['nums']!r}; it must be a list of integers.")

    def claims(self, columns: Columns) -> bool:
        return columns.get("target") is not None and columns.get("nums") is not None

    def generate(self, section: TaskSection, split: Split, seed: int) -> Iterator[Problem]:
        """As `Task.generate`, all solvable."""
        rng = random.Random(f"{self.name}:{split}:{seed}")

        def draw() -> Problem | None:
            size = rng.choice(section.sizes)
            nums = [rng.randint(section.number_min, section.number_max) for _ in range(size)]
            steps = random_steps(nums, section.max_value, rng)
            if not steps or not section.target_min <= steps[-1].value <= section.target_max:
                return None
            return make_problem(nums, steps[-1].value)

        return distinct(draw, split)

    def ranges(self, section: TaskSection) -> str:
        return (
            f"sizes {list(section.sizes)}, numbers {section.number_min} to {section.number_max}, "
            f"targets {section.target_min} to {section.target_max}, results up to "
            f"{section.max_value}"
        )

    def question(self, columns: Columns) -> str:
        return (
            f"Using the numbers {list(columns['nums'])}, create an equation that equals "
            f"{columns['target']}. You can use basic arithmetic operations (+, -, *, /) and each "
            "number must be used exactly once. Give the expression as the final answer, for "
            "example (1 + 2) / 3."
        )

    def compact_question(self, columns: Columns) -> str:
        return f"Make {columns['target']} from {' '.join(str(n) for n in columns['nums'])} ."

    def read_answer(self, text: str) -> str | None:
        return answer_block(text)

    def correct_many(
        self, answers: Sequence[str | None], rows: Sequence[Columns]
    ) -> list[bool | None]:
        return [not self.why_wrong(a, row) for a, row in zip(answers, rows, strict=True)]

    def gold(self, columns: Columns) -> str:
        return str(columns["target"])

    def why_wrong(self, answer: str | None, columns: Columns) -> str:
        return fault(answer, columns["target"], columns["nums"])[1]

    def vote_key(self, answer: str | None) -> Vote | None:
        """By value and numbers in any order. An equation that is false votes as its text."""
        if answer is None or not answer.strip():
            return None
        with contextlib.suppress(ExpressionError):
            equation = parse_equation(bare_equation(answer))
            expression = equation.expression
            if not equation.claimed or equation.claimed_value == expression.value:
                return Vote((expression.value, tuple(sorted(expression.numbers))))
        return Vote("".join(answer.split()))

    def difficulty(self, columns: Columns) -> str:
        return f"{len(columns['nums'])} numbers"

    def typed(self, text: str) -> Problem:
        """2 to 8 numbers and the target, such as `15 from 3 13 5` or `3 13 5 = 15`."""
        text = " ".join(text.split())
        plain = " ".join(_ARROW.sub(" = ", _PUNCTUATION.sub(" ", text.lower())).split())
        if (found := _TARGET_FIRST.fullmatch(plain)) is not None:
            target, numbers = found.groups()
        elif (found := _NUMBERS_FIRST.fullmatch(plain)) is not None:
            numbers, target = found.groups()
        else:
            raise UserError(
                f"the problem {quoted(text)} is no Countdown problem; write the target and its "
                "numbers, such as 15 from 3 13 5."
            )
        nums = [int(number) for number in numbers.replace("and ", "").split()]
        if not 2 <= len(nums) <= _MOST_NUMBERS:
            counted = "one number" if len(nums) == 1 else f"{len(nums)} numbers"
            raise UserError(
                f"the problem {quoted(text)} has {counted} to make {target} from; allowed are 2 to "
                f"{_MOST_NUMBERS}."
            )
        return make_problem(nums, int(target))

    def written(self, columns: Columns) -> str:
        return f"{columns['target']} from {' '.join(str(n) for n in columns['nums'])}"

    def notes(self, problem: Problem, section: TaskSection) -> tuple[str, ...]:
        """No solution, unlike the training problems, or maybe one of them."""
        nums, target = problem.columns["nums"], problem.columns["target"]
        found = []
        if has_solution(nums, target) is False:
            found.append("this problem has no solution")
        if section.source is not None:
            return tuple(found)
        alike = (
            len(nums) in section.sizes
            and all(section.number_min <= n <= section.number_max for n in nums)
            and section.target_min <= target <= section.target_max
        )
        if not alike:
            sizes = " or ".join(str(size) for size in sorted(set(section.sizes)))
            found.append(
                f"training problems have {sizes} numbers from {section.number_min} to "
                f"{section.number_max} and targets from {section.target_min} to "
                f"{section.target_max}; this one is unlike them"
            )
        elif not found and split_of(problem.key) == "train":
            found.append("this problem may have been trained on; held-out ones never were")
        return tuple(found)

    def pool(self, columns: Columns) -> tuple[int, ...]:
        return tuple(columns["nums"])
