"""W&B offline and Trackio on this machine: what was logged is read back from their files."""

from __future__ import annotations

import json
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aha.observe import reporter
from aha.observe.reporter import TrackerObserver, require_services, scalars
from aha.recipe import Recipe, load_recipe
from aha.runs import RunDirectory
from aha.sections import LoggingSection
from aha.types import UserError
from begun_run import begun_run

RECORDS: list[dict[str, Any]] = [
    {"step": step, "reward": step / 4, "rewards/format/mean": 1.0, "kl": None, "sick_rows": []}
    for step in (1, 2, 3)
]


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("countdown-tiny", ["logging.project=aha-test"])


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> RunDirectory:
    return begun_run(recipe, tmp_path / "run")


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format after a head of seven bytes.

    Blocks of 32 KiB hold pieces: check sum (4 bytes), length (2), kind (1: whole, 2: first,
    3: middle, 4: last); https://github.com/google/leveldb/blob/main/doc/log_format.md.
    """
    assert data.startswith(b":W&B")
    place, record = 7, b""
    while place + 7 <= len(data):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def test_tags() -> None:
    assert scalars(RECORDS[0]) == {
        "train/reward": 0.25,
        "train/rewards/format/mean": 1.0,
        "train/rewards/format": 1.0,
    }


def test_wandb_offline_reads_back(
    run: RunDirectory, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    observer = TrackerObserver("wandb", run, recipe)
    for record in RECORDS:
        observer.on_step(record, [])
    observer.close()
    (path,) = run.path.rglob("*.wandb")
    messages, until = list[Any](), time.monotonic() + 60
    # W&B's own process writes the file, and may be a little behind.
    while not path.stat().st_size and time.monotonic() < until:
        time.sleep(0.1)
    while not any(m.HasField("exit") for m in messages) and time.monotonic() < until:
        messages = [wandb_internal_pb2.Record.FromString(r) for r in log_records(path.read_bytes())]
    rows, configured = [], ""
    for message in messages:
        configured += str(message.run.config)
        if message.history.item:
            rows.append(
                {i.key or i.nested_key[0]: json.loads(i.value_json) for i in message.history.item}
            )
    assert [(row["_step"], row["train/reward"]) for row in rows] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert rows[0]["train/rewards/format"] == 1.0
    assert "countdown-tiny" in configured
    # A run directory may be shared: the key must not be in it.
    for file in run.path.rglob("*"):
        assert not file.is_file() or b"0123456789" * 4 not in file.read_bytes(), file


def test_trackio_reads_back(
    run: RunDirectory, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed")
    import trackio.sqlite_storage

    folder = tmp_path / "trackio"
    folder.mkdir()
    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", folder)
    observer = TrackerObserver("trackio", run, recipe)
    for record in RECORDS:
        observer.on_step(record, [])
    observer.close()
    (path,) = folder.glob("*.db")
    with sqlite3.connect(path) as base:
        rows = base.execute("select step, metrics from metrics order by step").fetchall()
    assert [(step, json.loads(m)["train/reward"]) for step, m in rows] == [
        (1, 0.25),
        (2, 0.5),
        (3, 0.75),
    ]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter.importlib.util, "find_spec", lambda name: None)
    require_services(LoggingSection())
    with pytest.raises(UserError, match=r"'wandb', which is not installed; pip install"):
        require_services(LoggingSection(report_to=("wandb",)))
