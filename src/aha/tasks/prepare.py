"""Train and test files of a recipe's task, with an account of what was left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aha.sections import TaskSection
from aha.tasks.load import ProblemSet, load_all, load_problems
from aha.tasks.overlap import NGRAM, Overlap, overlap
from aha.types import Problem, UserError


@dataclass(frozen=True)
class Prepared:
    """What was written, and how much the training problems overlap with others."""

    train: ProblemSet
    test: ProblemSet
    overlaps: dict[str, Overlap]
    written: int

    def lines(self) -> list[str]:
        """The account, a sentence a line."""
        lines = [_account("train", self.train), _account("test", self.test)]
        for name, found in self.overlaps.items():
            lines.append(
                f"overlap with {name}: {len(found.keys)} of {found.of} training problems share "
                f"{NGRAM} words in a row ({found.share:.2%})"
            )
        lines.append(
            f"written: {self.written} training and {len(self.test.problems)} test problems"
        )
        return lines


def prepare(task: TaskSection, folder: Path, decontaminate: Sequence[str]) -> Prepared:
    """Write train.jsonl and test.jsonl; training problems that overlap with a set named in
    `decontaminate` are left out, overlap with the test split is only reported.

    Errors: UserError when a set cannot be read or the folder cannot be written.
    """
    train = load_problems(task, "train", task.num_train)
    test = load_problems(task, "test", None)
    overlaps = {"the test split": overlap(train.problems, test.problems)}
    left_out: set[str] = set()
    for source in decontaminate:
        unmapped = task.model_copy(update={"columns": {}})
        try:
            found = overlap(train.problems, load_all(unmapped, source).problems)
        except UserError as error:
            fault = str(error).removeprefix("task.source: ")
            raise UserError(f"--decontaminate {source!r}: {fault}") from None
        overlaps[source] = found
        left_out |= set(found.keys)
    kept = [problem for problem in train.problems if problem.key not in left_out]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "train.jsonl", kept)
        _write(folder / "test.jsonl", test.problems)
    except OSError as error:
        raise UserError(f"--output: {str(folder)!r} cannot be written: {error}.") from None
    return Prepared(train, test, overlaps, len(kept))


def _account(name: str, found: ProblemSet) -> str:
    return (
        f"{name}: {len(found.problems)} problems of {found.rows} rows "
        f"({found.duplicates} duplicates, {found.without_gold} without a gold answer, "
        f"{found.other_split} of the other split)"
    )


def _write(path: Path, problems: Sequence[Problem]) -> None:
    lines = [json.dumps(dict(p.columns), ensure_ascii=False) + "\n" for p in problems]
    path.write_text("".join(lines), encoding="utf-8")
