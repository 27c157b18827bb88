from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet

from aha.sections import TaskSection
from aha.tasks import TASKS, load_problems
from aha.types import UserError

ROWS = [{"target": 10 + i, "nums": [i, 10, 7]} for i in range(1, 60)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".parquet"])
def test_every_format_gives_the_same_problems(tmp_path: Path, ending: str) -> None:
    source = str(write(tmp_path / f"rows{ending}", ROWS))
    train = load_problems(TaskSection(source=source), "train", 1_000).problems
    test = load_problems(TaskSection(source=source), "test", 1_000).problems
    assert len(train) + len(test) == len(ROWS)
    assert len(test) > 0
    rows = {p.key: dict(p.columns) for p in train + test}
    assert sorted(rows.values(), key=lambda r: r["target"]) == ROWS


def test_duplicates_are_dropped_whatever_their_order(tmp_path: Path) -> None:
    rows = [*ROWS, {"target": 11, "nums": [7, 10, 1]}, ROWS[5]]
    source = str(write(tmp_path / "rows.jsonl", rows))
    problems = TASKS["countdown"].read(TaskSection(), source).problems
    assert len(problems) == len(ROWS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"target": 1, "nums": [1]}\n{"target": 2,\n', ["line 2", "not valid JSON"]),
        ('{"target": 1}\n', ["line 1", "'nums' is missing", "['target']"]),
        ('{"target": "x", "nums": [1]}\n', ["line 1", "target is 'x'"]),
        ('{"target": 1, "nums": [1.5]}\n', ["line 1", "nums is [1.5]"]),
        ("[1, 2]\n", ["line 1", "JSON object"]),
        ("", ["holds no rows"]),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_problems(TaskSection(source=str(path)), "train", 10)
    assert all(word in str(caught.value) for word in words)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    for source in (str(tmp_path / "none.json"), "nowhere", str(tmp_path)):
        with pytest.raises(UserError, match=r"task\.source"):
            load_problems(TaskSection(source=source), "train", 10)


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"rows{ending}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(TASKS["countdown"].read(TaskSection(), str(path)).problems) == len(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "target,nums\n1,2,3\n", ["line 2", "more fields than the 2 columns"]),
        ("a.csv", f"target,nums\n1,{'9' * 200_000}\n", ["field larger"]),
        ("a.jsonl", '{"target": ' + "9" * 5_000 + "}\n", ["line 1", "not valid JSON"]),
        ("a.json", "[" * 100_000, ["a.json"]),
        ("a.json", b"\xff\xfe", ["not UTF-8"]),
    ],
)
def test_a_strange_file_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, words: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        TASKS["countdown"].read(TaskSection(), str(path))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("source", ["~no-such-user/x.json", "x" * 5_000])
def test_a_strange_name_is_one_sentence(source: str) -> None:
    with pytest.raises(UserError, match=r"task\.source"):
        TASKS["countdown"].read(TaskSection(), source)
