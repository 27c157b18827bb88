"""A run that is killed again and again ends as one that never was."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from processes import finish, start, until_step

pytestmark = pytest.mark.slow

KILLS = 50
RECORDS = (
    "metrics.jsonl",
    "samples.jsonl",
    "alerts.jsonl",
    "eval-before.jsonl",
    "eval-after.jsonl",
)
TIMES = ("time/", "memory/", "machine/")


def records(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in rows]


def kill_at_a_random_moment(run: Path, arguments: list[str], dice: random.Random) -> str:
    """Start or resume, wait until it trains, then kill; where it was, or "" when it had ended."""
    process = start(*arguments, cwd=run.parent)
    if not until_step(process):
        return ""
    in_checkpoint = dice.random() < 0.4
    until = time.monotonic() + dice.uniform(0.0, 0.5)
    seen = False
    while process.poll() is None:
        seen = any((run / "checkpoints").glob(".step-*.tmp"))
        if (in_checkpoint and seen) or (not in_checkpoint and time.monotonic() > until):
            break
    process.kill()
    process.communicate()
    return "checkpoint" if any((run / "checkpoints").glob(".step-*.tmp")) else "elsewhere"


def test_fifty_kills_change_nothing(recipe_file: Path, tmp_path: Path) -> None:
    code, output = finish("train", recipe_file, "--output", "whole", cwd=tmp_path)
    assert code == 0, output
    dice, where, number = random.Random(7), [], 0
    while len(where) < KILLS:
        run = tmp_path / f"killed-{number}"
        arguments = ["train", str(recipe_file), "--output", run.name]
        if (run / "recipe.yaml").exists():
            arguments = ["train", "--resume", run.name]
        place = kill_at_a_random_moment(run, arguments, dice)
        if place:
            where.append(place)
        else:
            number += 1
    finished = []
    for run in sorted(tmp_path.glob("killed-*")):
        if (run / "recipe.yaml").exists():
            code, output = finish("train", "--resume", run.name, cwd=tmp_path)
            assert code == 0, output
            finished.append(run)
    assert where.count("checkpoint") >= 5
    whole = tmp_path / "whole"
    for run in finished:
        for name in RECORDS:
            assert records(run / name) == records(whole / name), (run, name)
        assert (run / "eval.json").read_text() == (whole / "eval.json").read_text()
        for checkpoint in sorted((whole / "checkpoints").iterdir()):
            weights = checkpoint / "model.safetensors"
            mine = run / "checkpoints" / checkpoint.name / "model.safetensors"
            assert mine.read_bytes() == weights.read_bytes()
        texts = sorted(path.name for path in (whole / "samples").iterdir())
        assert sorted(path.name for path in (run / "samples").iterdir()) == texts
