"""Countdown: reach a target from given numbers, each used exactly once, with + - * /.

Problems are generated (always solvable, because the target is the value of an expression
that was built first) or loaded from rows with `target` and `nums`, the columns of
Jiayi-Pan/Countdown-Tasks-3to4 (TinyZero).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aha.tasks.splits import Split, split_of
from aha.types import Problem, UserError

NAME = "countdown"
OPERATORS = ("+", "-", "*", "/")

# How many fruitless draws in a row mean that the ranges leave nothing (new) to draw.
_MAX_FRUITLESS_DRAWS = 20_000


@dataclass(frozen=True)
class CountdownRanges:
    """What the generator may draw; all bounds inclusive.

    `max_value` bounds every intermediate result, so that a model with one token per
    integer can write each step.
    """

    sizes: tuple[int, ...] = (3, 4)
    number_min: int = 1
    number_max: int = 99
    target_min: int = 1
    target_max: int = 99
    max_value: int = 9_999


@dataclass(frozen=True)
class Step:
    """One sum `left operator right = value`, in whole non-negative numbers."""

    left: int
    operator: str
    right: int
    value: int


def problem_key(nums: Sequence[int], target: int) -> str:
    """The identity of a problem: order of the numbers does not matter."""
    return f"{NAME}:{','.join(str(n) for n in sorted(nums))}={target}"


def make_problem(nums: Sequence[int], target: int) -> Problem:
    return Problem(NAME, problem_key(nums, target), {"target": target, "nums": list(nums)})


def combine(a: int, b: int, max_value: int) -> list[Step]:
    """All steps from two numbers to a whole number in 0..max_value, larger operand first."""
    high, low = max(a, b), min(a, b)
    steps = [Step(high, "+", low, high + low), Step(high, "-", low, high - low)]
    steps.append(Step(high, "*", low, high * low))
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


def generate(ranges: CountdownRanges, split: Split, seed: int) -> Iterator[Problem]:
    """Distinct solvable problems of one split, without end or until the ranges are used up.

    Errors: UserError when the ranges allow no problem at all.
    """
    rng = random.Random(f"{NAME}:{split}:{seed}")
    seen: set[str] = set()
    fruitless = 0
    while fruitless < _MAX_FRUITLESS_DRAWS:
        problem = _draw(ranges, rng)
        if problem is None or problem.key in seen or split_of(problem.key) != split:
            fruitless += 1
            continue
        fruitless = 0
        seen.add(problem.key)
        yield problem
    if not seen:
        raise UserError(
            f"task: no solvable Countdown problem found with sizes {list(ranges.sizes)}, numbers "
            f"{ranges.number_min} to {ranges.number_max} and targets {ranges.target_min} to "
            f"{ranges.target_max}; widen the ranges."
        )


def _draw(ranges: CountdownRanges, rng: random.Random) -> Problem | None:
    nums = [
        rng.randint(ranges.number_min, ranges.number_max) for _ in range(rng.choice(ranges.sizes))
    ]
    steps = random_steps(nums, ranges.max_value, rng)
    if not steps:
        return None
    target = steps[-1].value
    if not ranges.target_min <= target <= ranges.target_max:
        return None
    return make_problem(nums, target)


def from_row(row: Mapping[str, Any], where: str) -> Problem:
    """A problem from a `target`/`nums` row.

    Errors: UserError naming `where`, the column and the value.
    """
    for column in ("target", "nums"):
        if column not in row:
            raise UserError(
                f"{where}: column {column!r} is missing; a Countdown row needs target (an "
                f"integer) and nums (a list of integers), and this one has {sorted(row)}."
            )
    target, nums = _integer(row["target"]), _integer_list(row["nums"])
    if target is None:
        raise UserError(f"{where}: target is {row['target']!r}; it must be an integer.")
    if nums is None or not nums:
        raise UserError(f"{where}: nums is {row['nums']!r}; it must be a list of integers.")
    return make_problem(nums, target)


def _integer(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return None


def _integer_list(value: Any) -> list[int] | None:
    """A list of integers, also from numpy arrays and from CSV text such as `[44, 19, 35]`."""
    if isinstance(value, str):
        value = value.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return None
    numbers = [_integer(item) for item in value]
    return None if any(n is None for n in numbers) else [n for n in numbers if n is not None]
