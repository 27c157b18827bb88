"""Problems of a recipe's task, split, deduplicated and in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from aha.recipe import TaskSection
from aha.tasks import countdown
from aha.tasks.rows import read_rows
from aha.tasks.splits import Split, deduplicate, split_of
from aha.types import Problem, UserError

# Held-out problems come from one stream for all recipes and seeds, so accuracies compare.
_TEST_SEED = 0


def load_problems(task: TaskSection, split: Split, limit: int) -> list[Problem]:
    """Up to `limit` distinct problems of one split.

    Errors: UserError when the source cannot be read or leaves nothing for the split.
    """
    problems = list(islice(_stream(task, split), limit))
    if not problems:
        raise UserError(f"task: {task.source or task.name} has no problem in the {split} split.")
    return problems


def _stream(task: TaskSection, split: Split) -> Iterator[Problem]:
    if task.source is None:
        seed = task.data_seed if split == "train" else _TEST_SEED
        return countdown.generate(countdown_ranges(task), split, seed)
    rows = (countdown.from_row(row, where) for where, row in read_rows(task.source))
    return (problem for problem in deduplicate(rows) if split_of(problem.key) == split)


def countdown_ranges(task: TaskSection) -> countdown.CountdownRanges:
    """The generator's ranges as the recipe gives them."""
    return countdown.CountdownRanges(
        sizes=task.sizes,
        number_min=task.number_min,
        number_max=task.number_max,
        target_min=task.target_min,
        target_max=task.target_max,
        max_value=task.max_value,
    )
