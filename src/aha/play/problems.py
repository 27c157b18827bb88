"""The problem to play: typed by a person, or one that was held out from training.

What is typed is read by a small grammar and bounded in length. Left out: any guess at what was
meant; a text that is not read is a sentence that says how to write it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

from aha.sections import TaskSection
from aha.tasks import countdown
from aha.tasks.splits import split_of
from aha.tasks.texts import text_key
from aha.types import Problem, UserError
from aha.visible import quoted

# Longer than any problem of GSM8K or MATH; a prompt is read in one piece.
MAX_CHARACTERS = 2_000
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


def typed_problem(text: str, task: TaskSection) -> Problem:
    """The problem that a person wrote.

    Countdown: the target and its 2 to 8 numbers, as `15 from 3 13 5` or `3 13 5 = 15`. Other
    tasks: the question; what follows the last `####` is its gold answer.
    Errors: UserError naming the text and what is allowed.
    """
    text = " ".join(text.split()) if task.name == countdown.NAME else text.strip()
    if not text:
        raise UserError("the problem is empty; type one.")
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            f"the problem has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read."
        )
    return _countdown(text) if task.name == countdown.NAME else _text(text, task.name)


def _countdown(text: str) -> Problem:
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
    return countdown.make_problem(nums, int(target))


def _text(text: str, task: str) -> Problem:
    question, marked, gold = text.rpartition("####")
    question, gold = (question.strip(), gold.strip()) if marked else (text, "")
    if not question:
        raise UserError(
            f"the problem {quoted(text)} has no question before ####, which announces its answer."
        )
    columns = {"problem": question, **({"answer": gold} if gold else {})}
    return Problem(task, text_key(question), columns)


def written(problem: Problem) -> str:
    """The problem as a person would type it."""
    columns = problem.columns
    if problem.task == countdown.NAME:
        return f"{columns['target']} from {' '.join(str(n) for n in columns['nums'])}"
    return str(columns["problem"])


def notes(problem: Problem, task: TaskSection) -> tuple[str, ...]:
    """What a player should know of a typed problem before judging a model by it."""
    if problem.task != countdown.NAME:
        return () if "answer" in problem.columns else (
            "without an answer nothing can be judged; add one as: QUESTION #### ANSWER",
        )  # fmt: skip
    nums, target = problem.columns["nums"], problem.columns["target"]
    found = []
    if has_solution(nums, target) is False:
        found.append("this problem has no solution")
    if task.source is None and not _within(nums, target, task):
        found.append(
            f"training problems have {_either(task.sizes)} numbers from {task.number_min} to "
            f"{task.number_max} and targets from {task.target_min} to {task.target_max}; this one "
            "is unlike them"
        )
    elif task.source is None and not found and split_of(problem.key) == "train":
        found.append("this problem may have been trained on; held-out ones never were")
    return tuple(found)


def has_solution(nums: Sequence[int], target: int) -> bool | None:
    """Whether + - * / reach the target with each number once; None for more than 4 numbers."""
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


def _within(nums: Sequence[int], target: int, task: TaskSection) -> bool:
    return (
        len(nums) in task.sizes
        and all(task.number_min <= n <= task.number_max for n in nums)
        and task.target_min <= target <= task.target_max
    )


def _either(sizes: Sequence[int]) -> str:
    return " or ".join(str(size) for size in sorted(set(sizes)))
