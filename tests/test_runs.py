from __future__ import annotations

from pathlib import Path

import pytest

from aha.recipe import load_recipe
from aha.runs import RunDirectory, latest_run
from aha.types import UserError


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(load_recipe("countdown-tiny"), tmp_path / "runs" / "one")


def test_rewind_forgets_what_came_after(run: RunDirectory) -> None:
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
        run.append_samples([{"step": step}, {"step": step}])
        (run.samples / f"step_{step:05d}.txt").write_text("x")
    run.rewind(2)
    assert [record["step"] for record in run.metrics()] == [1, 2]
    assert len(run.read_lines("samples.jsonl")) == 4
    assert sorted(p.name for p in run.samples.iterdir()) == ["step_00001.txt", "step_00002.txt"]


def test_a_torn_last_line_is_not_a_record(run: RunDirectory) -> None:
    run.append_metrics({"step": 1})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 2, "rew')
    assert [record["step"] for record in run.metrics()] == [1]
    run.rewind(1)
    run.append_metrics({"step": 2})
    assert [record["step"] for record in run.metrics()] == [1, 2]


def test_a_number_that_json_does_not_know_is_refused(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="JSON"):
        run.append_metrics({"step": 1, "loss": float("nan")})


def test_latest_run_is_the_one_last_begun(tmp_path: Path, run: RunDirectory) -> None:
    assert latest_run(tmp_path / "runs") == run.path
    with pytest.raises(UserError, match="no run under"):
        latest_run(tmp_path / "elsewhere")


def test_an_existing_run_is_not_overwritten(run: RunDirectory) -> None:
    with pytest.raises(UserError, match="already holds a run"):
        RunDirectory.create(load_recipe("countdown-tiny"), run.path)


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        RunDirectory.create(load_recipe("countdown-tiny"), tmp_path / "file" / "run")


def test_the_recipe_reads_back(run: RunDirectory) -> None:
    assert run.recipe() == load_recipe("countdown-tiny")
