"""Countdown problems that a person types: a small grammar, and a search for a solution.

A text that the grammar does not read is an error that shows the form. Nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

from aha.sections import TaskSection
from aha.tasks.task import split_of
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


def read_typed(text: str) -> tuple[list[int], int]:
    """The 2 to 8 numbers and the target in a text such as `15 from 3 13 5` or `3 13 5 = 15`.

    Errors: UserError naming the text and the form.
    """
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
    return nums, int(target)


def typed_notes(problem: Problem, section: TaskSection) -> tuple[str, ...]:
    """Notes for a player: no solution, unlike the training problems, or maybe one of them."""
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


def has_solution(nums: Sequence[int], target: int) -> bool | None:
    """True if + - * / reach the target with each number once; None for more than 4 numbers."""
    if len(nums) > _MOST_SEARCHED:
        return None
    return _reaches(tuple(sorted(Fraction(n) for n in nums)), Fraction(target), set())


def _reaches(
    pool: tuple[Fraction, ...], target: Fraction, failed: set[tuple[Fraction, ...]]
) -> bool:
    if len(pool) == 1:
        return pool[0] == target
    if pool in failed:
        return False
    for i, j in combinations(range(len(pool)), 2):
        rest = [value for k, value in enumerate(pool) if k not in (i, j)]
        low, high = pool[i], pool[j]
        results = {low + high, high - low, low - high, low * high}
        results |= {a / b for a, b in ((low, high), (high, low)) if b != 0}
        if any(_reaches(tuple(sorted([*rest, r])), target, failed) for r in results):
            return True
    failed.add(pool)
    return False
