"""Rows of a data set from a file or the hub: JSON, JSONL, CSV, Parquet, `owner/name`.

The local readers are our own, because a bad line must be named by its number.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aha.types import Unreachable, UserError

Row = dict[str, Any]
FORMATS = (".json", ".jsonl", ".csv", ".parquet")


_HUB_NAME = re.compile(
    r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?"
)


def read_rows(source: str) -> Iterator[tuple[str, Row]]:
    """Pairs of where a row stands (for messages) and the row.

    `source` is a file with one of FORMATS, or a hub data set as owner/name, with :config and
    @split where wanted (train when not).
    Errors: UserError naming the source and, in a text file, the line.
    """
    try:
        path = Path(source).expanduser()
        is_file = path.suffix.lower() in FORMATS or path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, or a home that does not exist
        raise UserError(f"task.source: {source!r:.80} cannot be read: {error}.") from None
    if is_file:
        yield from _read_file(path)
    elif (hub := _HUB_NAME.fullmatch(source)) and not source.startswith("."):
        yield from _read_hub(hub["name"], hub["config"], hub["split"] or "train")
    else:
        raise UserError(
            f"task.source: {source!r} is neither a file ({', '.join(FORMATS)}) nor a hub data set "
            "(owner/name)."
        )


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
            count += 1
            yield where, row
    except UnicodeDecodeError as error:
        raise UserError(f"task.source: {str(path)!r} is not UTF-8 text: {error}.") from None
    except (OSError, csv.Error, RecursionError) as error:
        raise UserError(f"task.source: {str(path)!r}, after row {count}: {error}.") from None
    if count == 0:
        raise UserError(f"task.source: {str(path)!r} holds no rows.")


def _json(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}.") from None
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}.") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: the file must hold a JSON list of objects.")
    for index, row in enumerate(rows):
        yield _object(row, f"{path}, row {index + 1}")


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                yield _object(json.loads(line), where)
            except ValueError as error:  # bad JSON, or a number of thousands of digits
                raise UserError(f"{where}: not valid JSON: {error}.") from None


def _object(row: Any, where: str) -> tuple[str, Row]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be a JSON object, not {type(row).__name__}.")
    return where, row


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise UserError(
                    f"{where}: more fields than the {len(reader.fieldnames or [])} columns; a text "
                    "with commas needs quotes."
                )
            yield where, dict(row)


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
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
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"task.source: {name!r} could not be loaded: {first_line}") from None
    yield from _numbered(rows, name)


def _numbered(rows: Iterable[Any], source: str) -> Iterator[tuple[str, Row]]:
    for index, row in enumerate(rows):
        yield f"{source}, row {index + 1}", dict(row)
