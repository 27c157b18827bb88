"""Problems of a recipe's task: split, deduplicated, without test problems, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from aha.sections import TaskSection
from aha.tasks import countdown
from aha.tasks.registry import TASKS
from aha.tasks.rows import read_rows
from aha.tasks.splits import Split, split_of
from aha.types import Problem, UserError

# Held-out problems come from one stream for all recipes and seeds, so accuracies compare.
_TEST_SEED = 0
_GENERATED_TRAIN = 10_000


@dataclass(frozen=True)
class ProblemSet:
    """Problems of one split, and what was left out on the way.

    `rows` were read; `without_gold`, `duplicates` and `other_split` were dropped, the last
    because they belong to the other split. `first_without_gold` says where the first such row
    stands. Generated problems count only themselves.
    """

    problems: tuple[Problem, ...]
    rows: int
    without_gold: int = 0
    duplicates: int = 0
    other_split: int = 0
    first_without_gold: str = ""

    def losses(self) -> str | None:
        """One sentence on rows without a usable gold answer; None when there are none."""
        if not self.without_gold:
            return None
        return (
            f"{self.without_gold} of {self.rows} rows have no gold answer that can be read and are "
            f"left out (the first: {self.first_without_gold})"
        )


def load_problems(task: TaskSection, split: Split, limit: int | None) -> ProblemSet:
    """Up to `limit` distinct problems of one split; none: all, or 10,000 generated.

    With a set of its own for the test split, that is the test split, and what it holds is never
    trained on. With one set for both, the content of a problem decides.
    Errors: UserError when the source cannot be read or leaves nothing for the split.
    """
    if task.source is None and task.name == countdown.NAME:
        seed = task.data_seed if split == "train" else _TEST_SEED
        stream = countdown.generate(countdown_ranges(task), split, seed)
        problems = tuple(islice(stream, limit or _GENERATED_TRAIN))
        return ProblemSet(problems, rows=len(problems))
    found = _read_split(task, split, limit)
    if not found.problems:
        source = task.source or TASKS[task.name].hub or task.name
        losses = found.losses()
        raise UserError(
            f"task: {source} leaves no problem for the {split} split of {found.rows} rows"
            + (f"; {losses}." if losses else ".")
        )
    return found


def load_all(task: TaskSection, source: str) -> ProblemSet:
    """Every problem of one set, whatever its split. Errors: UserError as `load_problems`."""
    return _collect(task, source, lambda _: True, None)


def _read_split(task: TaskSection, split: Split, limit: int | None) -> ProblemSet:
    source, test_source = _sources(task)
    if split == "test" and test_source is not None:
        return _collect(task, test_source, lambda _: True, limit)
    if test_source is not None:
        held_out = {problem.key for problem in load_all(task, test_source).problems}
        return _collect(task, source, lambda problem: problem.key not in held_out, limit)
    return _collect(task, source, lambda problem: split_of(problem.key) == split, limit)


def _sources(task: TaskSection) -> tuple[str, str | None]:
    spec = TASKS[task.name]
    if task.source is not None:
        return task.source, task.test_source
    if spec.hub is None:
        raise UserError(f"task.source is missing; task {task.name!r} has no set of its own.")
    return spec.hub, task.test_source or spec.hub_test


def _collect(
    task: TaskSection, source: str, belongs: Callable[[Problem], bool], limit: int | None
) -> ProblemSet:
    problems: dict[str, Problem] = {}
    rows = without_gold = duplicates = other_split = 0
    first_without_gold = ""
    for where, problem in _problems(task, source):
        rows += 1
        if problem is None:
            without_gold += 1
            first_without_gold = first_without_gold or where
        elif not belongs(problem):
            other_split += 1
        elif problem.key in problems:
            duplicates += 1
        else:
            problems[problem.key] = problem
            if len(problems) == limit:
                break
    return ProblemSet(
        tuple(problems.values()), rows, without_gold, duplicates, other_split, first_without_gold
    )


def _problems(task: TaskSection, source: str) -> Iterator[tuple[str, Problem | None]]:
    spec = TASKS[task.name]
    for where, row in read_rows(source):
        for ours, theirs in task.columns.items():
            if theirs not in row:
                raise UserError(
                    f"{where}: task.columns maps {ours!r} to {theirs!r}, which is no column; this "
                    f"row has {sorted(row)}."
                )
        mapped = {ours: row[theirs] for ours, theirs in task.columns.items()}
        taken = set(task.columns.values())
        others = {name: value for name, value in row.items() if name not in taken}
        yield where, spec.make({**others, **mapped}, where)


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
