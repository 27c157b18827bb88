"""The problem to play: typed by a person, or one that was held out from training.

The task reads what is typed, by its own small grammar; the length is bounded here. Nothing is
guessed: a text that cannot be read is a sentence that says how to write it.
"""

from __future__ import annotations

from aha.sections import TaskSection
from aha.tasks import TASKS
from aha.types import Problem, UserError

# Longer than any problem of GSM8K or MATH; a prompt is read in one piece.
MAX_CHARACTERS = 2_000


def typed_problem(text: str, task: TaskSection) -> Problem:
    """The problem that a person wrote, such as `15 from 3 13 5`, or QUESTION #### ANSWER.

    Errors: UserError naming the text and what is allowed.
    """
    text = text.strip()
    if not text:
        raise UserError("the problem is empty; type one.")
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            f"the problem has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read."
        )
    return TASKS[task.name].typed(text)


def written(problem: Problem) -> str:
    """The problem as a person would type it."""
    return TASKS[problem.task].written(problem.columns)


def notes(problem: Problem, task: TaskSection) -> tuple[str, ...]:
    """What a player should know of a typed problem before judging a model by it."""
    return TASKS[problem.task].notes(problem, task)
