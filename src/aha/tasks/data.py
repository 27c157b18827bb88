"""Rows of a data set from a file or the hub, and the train and test files made of them.

The readers of local files are our own, because a message must name a bad line by its number.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aha.sections import TaskSection
from aha.types import Problem, Unreachable, UserError
from aha.visible import first_line

if TYPE_CHECKING:
    from aha.tasks.task import Task

Row = dict[str, Any]
FORMATS = (".json", ".jsonl", ".csv", ".parquet")
# Words in a row that two texts share, as in GPT-3's and open-r1's decontamination.
NGRAM = 8

_WORD = re.compile(r"\w+")
_HUB_NAME = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?"
)


@dataclass(frozen=True)
class ProblemSet:
    """Problems of one split, the number of rows that were read, and of those left out by reason.

    `first_without_gold` says where the first row without a gold answer stands.
    """

    problems: tuple[Problem, ...]
    rows: int
    without_gold: int = 0
    duplicates: int = 0
    other_split: int = 0
    first_without_gold: str = ""

    def losses(self) -> str | None:
        """One sentence on rows without a usable gold answer; None if there are none."""
        if not self.without_gold:
            return None
        return (
            f"{self.without_gold} of {self.rows} rows have no gold answer that can be read and are "
            f"left out (the first: {self.first_without_gold})"
        )

    def account(self, name: str) -> str:
        """One sentence with all counts; `name` is the split."""
        return (
            f"{name}: {len(self.problems)} problems of {self.rows} rows "
            f"({self.duplicates} duplicates, {self.without_gold} without a gold answer, "
            f"{self.other_split} of the other split)"
        )


def read_rows(source: str, columns: Mapping[str, str]) -> Iterator[tuple[str, Row]]:
    """Pairs of a row's place (for messages) and the row.

    `source` is a file with one of FORMATS, or a hub data set as owner/name, with :config and
    @split if wanted (else train). `columns` renames: our column to the set's column.
    Errors: UserError naming the source and, in a text file, the line.
    """
    try:
        path = Path(source).expanduser()
        is_file = path.suffix.lower() in FORMATS or path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, or a home that does not exist
        raise UserError(f"task.source: {source!r:.80} cannot be read: {error}.") from None
    if is_file:
        rows = _read_file(path)
    elif (hub := _HUB_NAME.fullmatch(source)) and not source.startswith("."):
        rows = _read_hub(hub["name"], hub["config"], hub["split"] or "train")
    else:
        raise UserError(
            f"task.source: {source!r} is neither a file ({', '.join(FORMATS)}) nor a hub data set "
            "(owner/name)."
        )
    for where, row in rows:
        for ours, theirs in columns.items():
            if theirs not in row:
                raise UserError(
                    f"{where}: task.columns maps {ours!r} to {theirs!r}, which is no column; this "
                    f"row has {sorted(row)}."
                )
        others = {name: value for name, value in row.items() if name not in columns.values()}
        yield where, {**others, **{ours: row[theirs] for ours, theirs in columns.items()}}


def _read_file(path: Path) -> Iterator[tuple[str, Row]]:
    if not path.is_file():
        raise UserError(f"task.source: there is no file {str(path)!r}.")
    readers = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"task.source: {str(path)!r} has none of the endings {', '.join(FORMATS)}.")
    count = 0
    try:
        for where, row in reader(path):
            if not isinstance(row, dict):
                raise UserError(f"{where}: a row must be a JSON object, not {type(row).__name__}.")
            count += 1
            yield where, row
    except UnicodeDecodeError as error:
        raise UserError(f"task.source: {str(path)!r} is not UTF-8 text: {error}.") from None
    except (OSError, csv.Error, RecursionError) as error:
        raise UserError(f"task.source: {str(path)!r}, after row {count}: {error}.") from None
    if count == 0:
        raise UserError(f"task.source: {str(path)!r} holds no rows.")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}.") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: not valid JSON: {error}.") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: the file must hold a JSON list of objects.")
    yield from _numbered(rows, str(path))


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:  # bad JSON, or a number of thousands of digits
                raise UserError(f"{where}: not valid JSON: {error}.") from None
            yield where, row


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise UserError(
                    f"{where}: more fields than the {len(reader.fieldnames or [])} columns; a text "
                    "with commas needs quotes."
                )
            yield where, row


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except arrow.ArrowInvalid as error:
        raise UserError(f"task.source: {str(path)!r} is not a Parquet file: {error}.") from None
    yield from _numbered(table.to_pylist(), str(path))


def _read_hub(name: str, config: str | None, split: str) -> Iterator[tuple[str, Row]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, config, split=split)
    except ConnectionError as error:
        raise Unreachable(f"task.source: {name!r} could not be loaded: {error}.") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"task.source: {name!r} could not be loaded: {first_line(error)}") from None
    yield from _numbered(rows, name)


def _numbered(rows: Iterable[Any], source: str) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(rows, start=1):
        yield f"{source}, row {number}", row


def overlap(
    problems: Sequence[Problem], others: Sequence[Problem], generated: bool = False
) -> list[str]:
    """The keys of `problems` that share NGRAM words in a row with one of `others`.

    A shorter text is compared as a whole, and a problem without a text (Countdown) by its key.
    `generated` says that the task of `others` makes its problems. Those of one such task are also
    compared by key, because they share sentences.
    """
    by_key = generated and len({problem.task for problem in (*problems, *others)}) == 1
    known: set[object] = {other.key for other in others}
    if not by_key:
        known.update(*map(_grams, others))
    return [
        p.key for p in problems if p.key in known or not (by_key or known.isdisjoint(_grams(p)))
    ]


def _grams(problem: Problem) -> set[object]:
    words = _WORD.findall(str(problem.columns.get("problem", "")).lower())
    size = min(NGRAM, len(words)) or 1
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def prepare(
    task: Task, section: TaskSection, folder: Path, decontaminate: Sequence[str]
) -> list[str]:
    """Write train.jsonl and test.jsonl; returns the account of what was read and left out.

    Training problems that overlap with a data set named in `decontaminate` are left out; overlap
    with the test split is only reported.
    Errors: UserError if a set cannot be read or the folder cannot be written.
    """
    train = task.load(section, "train", section.num_train)
    test = task.load(section, "test", None)
    overlaps = {"the test split": overlap(train.problems, test.problems, task.generates)}
    left_out: set[str] = set()
    for source in decontaminate:
        unmapped = section.model_copy(update={"columns": {}})
        try:
            overlaps[source] = overlap(train.problems, task.read(unmapped, source).problems)
        except UserError as error:
            fault = str(error).removeprefix("task.source: ")
            raise UserError(f"--decontaminate {source!r}: {fault}") from None
        left_out |= set(overlaps[source])
    kept = [problem for problem in train.problems if problem.key not in left_out]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, problems in (("train", kept), ("test", test.problems)):
            lines = [json.dumps(dict(p.columns), ensure_ascii=False) + "\n" for p in problems]
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output: {str(folder)!r} cannot be written: {error}.") from None
    count = len(train.problems)
    return [
        train.account("train"),
        test.account("test"),
        *(
            f"overlap with {name}: {len(keys)} of {count} training problems share "
            f"{NGRAM} words in a row ({len(keys) / count if count else 0:.2%})"
            for name, keys in overlaps.items()
        ),
        f"written: {len(kept)} training and {len(test.problems)} test problems",
    ]
