"""Disks and folders that fail, and runs that meet: with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from processes import finish, start, until_step

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB; a checkpoint asks for 32 beside its tensors."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    filler, free = disk / "filler", os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with contextlib.suppress(OSError):
        filler.write_bytes(b"x" * free)
    return filler


def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint(
    small_disk: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = small_disk / "run"
    process = start("train", recipe_file, "--output", run, cwd=tmp_path)
    assert until_step(process, 5)
    filler = fill(small_disk)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert "could not be written" in output or "a checkpoint needs" in output
    assert not list((run / "checkpoints").glob(".step-*.tmp"))
    filler.unlink()
    code, output = finish("train", "--resume", run, cwd=tmp_path)
    assert code == 0, output
    assert "from the checkpoint of step" in output
    code, output = finish("train", recipe_file, "--output", "whole", cwd=tmp_path)
    assert code == 0, output
    last = "checkpoints/step-000150/model.safetensors"
    assert (run / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


def test_a_disk_that_is_full_while_records_are_written(
    small_disk: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = small_disk / "run"
    recipe = yaml.safe_load(recipe_file.read_text())
    recipe["train"] |= {"save_steps": 150}
    recipe["logging"]["samples_steps"] = 1
    recipe_file.write_text(yaml.safe_dump(recipe))
    process = start("train", recipe_file, "--output", run, cwd=tmp_path)
    assert until_step(process, 3)
    fill(small_disk)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert "No space left on device" in output


def test_an_output_that_is_read_only(recipe_file: Path, tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, output = finish("train", recipe_file, "--output", small_disk / "run", cwd=tmp_path)
    assert code == 2
    assert "cannot be written" in output
    assert "Traceback" not in output


def test_two_processes_on_one_run(recipe_file: Path, tmp_path: Path) -> None:
    first = start("train", recipe_file, "--output", "run", cwd=tmp_path)
    assert until_step(first)
    code, output = finish("train", "--resume", "run", cwd=tmp_path)
    assert code == 2
    assert "in use by another process" in output
    code, output = finish("train", recipe_file, "--output", "run", cwd=tmp_path)
    assert code == 2
    assert "already holds a run" in output
    first.communicate(timeout=300)
    assert first.returncode == 0
    steps = [
        json.loads(x)["step"] for x in (tmp_path / "run/metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert steps == list(range(1, 151))


def test_a_lock_does_not_outlive_its_process(recipe_file: Path, tmp_path: Path) -> None:
    process = start("train", recipe_file, "--output", "run", cwd=tmp_path)
    assert until_step(process, 5)
    process.kill()
    process.communicate()
    time.sleep(0.1)
    code, output = finish("train", "--resume", "run", cwd=tmp_path)
    assert code == 0, output
