from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aha.recipe import load_recipe
from aha.runs import LATEST, RunDirectory, found_run, write_lines
from aha.types import RunFailure, UserError
from begun_run import begun_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return begun_run(load_recipe("countdown-tiny"), tmp_path / "runs" / "one")


def test_rewind_forgets_what_came_after(run: RunDirectory) -> None:
    at: dict[int, dict[str, int]] = {}
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
        run.append_samples([{"step": step}, {"step": step}])
        (run.samples / f"step_{step:05d}.txt").write_text("x")
        at[step] = run.record_bytes()
    assert run.rewind(2, at[2]) == 1
    assert [record["step"] for record in run.metrics()] == [1, 2]
    assert len(run.read_lines("samples.jsonl")) == 4
    assert sorted(p.name for p in run.samples.iterdir()) == ["step_00001.txt", "step_00002.txt"]


def test_rewind_keeps_what_aha_eval_wrote(run: RunDirectory) -> None:
    names = ["step-000002-20260101-120000-000000-test.jsonl", "mine.jsonl"]
    for name in [*names, "step-000001.jsonl", "step-000003.jsonl"]:
        run.write_lines(f"evals/{name}", [{"key": "one"}])
    assert [step for step, _ in run.evaluations()] == [1, 3]
    run.append_metrics({"step": 1})
    run.rewind(1, run.record_bytes())
    assert sorted(p.name for p in run.evals.iterdir()) == sorted([*names, "step-000001.jsonl"])


def test_a_torn_last_line_is_not_a_record(run: RunDirectory) -> None:
    run.append_metrics({"step": 1})
    whole = run.record_bytes()
    with run.metrics_file.open("a") as file:
        file.write('{"step": 2, "rew')
    assert [record["step"] for record in run.metrics()] == [1]
    run.rewind(1, whole)
    run.append_metrics({"step": 2})
    assert [record["step"] for record in run.metrics()] == [1, 2]


def test_a_record_that_lost_lines_is_not_taken_for_whole(run: RunDirectory) -> None:
    run.append_metrics({"step": 1})
    whole = run.record_bytes()
    run.metrics_file.write_text("")
    with pytest.raises(RunFailure, match=r"metrics.jsonl is shorter than at step 1"):
        run.rewind(1, whole)


def test_a_run_belongs_to_one_process(run: RunDirectory) -> None:
    code = (
        "import sys; from pathlib import Path; from aha.runs import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked(): print('got it')"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with run.locked():
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "is in use by another process" in other.stderr
    assert "got it" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_number_that_json_does_not_know_is_refused(run: RunDirectory) -> None:
    with pytest.raises(ValueError, match="JSON"):
        run.append_metrics({"step": 1, "loss": float("nan")})


def test_lines_are_written_whole_and_read_back(run: RunDirectory, tmp_path: Path) -> None:
    records = [{"text": "caf\u00e9\u2028\n"}, {"text": ""}]
    write_lines(run.path / "evals" / "one.jsonl", records)
    assert run.read_lines("evals/one.jsonl") == records
    with pytest.raises(ValueError, match="JSON"):
        write_lines(run.path / "evals" / "one.jsonl", [{"x": float("inf")}])
    assert run.read_lines("evals/one.jsonl") == records


def test_latest_run_is_the_one_last_begun(tmp_path: Path, run: RunDirectory) -> None:
    assert found_run(LATEST, tmp_path / "runs") == run.path
    with pytest.raises(UserError, match="no run under"):
        found_run(LATEST, tmp_path / "elsewhere")


def test_an_existing_run_is_not_overwritten(run: RunDirectory) -> None:
    with pytest.raises(UserError, match="already holds a run"):
        begun_run(load_recipe("countdown-tiny"), run.path)


def refused(path: Path, recorded: bool = False) -> None:
    def begin() -> None:
        with RunDirectory.begun(load_recipe("countdown-tiny"), path) as run:
            run.write_lines("evals/one.jsonl", [])
            if recorded:
                run.append_metrics({"step": 1})
            raise UserError("no")

    with pytest.raises(UserError, match="no"):
        begin()


def test_a_refused_start_leaves_nothing(tmp_path: Path) -> None:
    refused(tmp_path / "runs" / "one")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_start_keeps_what_was_there(tmp_path: Path, run: RunDirectory) -> None:
    (tmp_path / "mine" / "samples").mkdir(parents=True)
    (tmp_path / "mine" / "samples" / "notes.txt").write_text("x")
    refused(tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").rglob("*")] == ["samples", "notes.txt"]
    refused(run.path.parent / "two")
    assert list(run.path.parent.iterdir()) == [run.path]


def test_a_run_that_has_recorded_a_step_is_not_removed(tmp_path: Path) -> None:
    refused(tmp_path / "one", recorded=True)
    assert RunDirectory.open(tmp_path / "one").metrics() == [{"step": 1}]


def test_a_run_that_was_there_is_not_removed(run: RunDirectory) -> None:
    for _ in range(2):
        with (
            pytest.raises(UserError, match="already holds a run"),
            RunDirectory.begun(run.recipe(), run.path),
        ):
            pass
    assert run.recipe() == load_recipe("countdown-tiny")


def test_a_begun_run_is_held(tmp_path: Path) -> None:
    with (
        RunDirectory.begun(load_recipe("countdown-tiny"), tmp_path / "one") as run,
        pytest.raises(UserError, match="in use by another process"),
        RunDirectory.begun(run.recipe(), run.path),
    ):
        pass
    assert run.recipe() == load_recipe("countdown-tiny")


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        begun_run(load_recipe("countdown-tiny"), tmp_path / "file" / "run")


def test_the_recipe_reads_back(run: RunDirectory) -> None:
    assert run.recipe() == load_recipe("countdown-tiny")


def test_the_recipes_of_a_changed_run_are_kept_with_their_last_steps(run: RunDirectory) -> None:
    recipes = [load_recipe("countdown-tiny", [f"grpo.beta={beta}"]) for beta in (0.1, 0.2, 0.3)]
    original, at = run.recipe(), dict[int, dict[str, int]]()
    for step in range(1, 6):
        run.append_metrics({"step": step})
        at[step] = run.record_bytes()
        if step == 2:
            run.change_recipe(recipes[0], 2)
            # Changed again before any step: the first two steps' recipe stays theirs.
            run.change_recipe(recipes[1], 2)
        if step == 4:
            run.change_recipe(recipes[2], 4)
    assert run.earlier_recipes() == [(2, original), (4, recipes[1])]
    # Step 3 is the last that counts now, and the rest is done again with the newest recipe.
    run.rewind(3, at[3])
    assert run.earlier_recipes() == [(2, original), (3, recipes[1])]
    run.rewind(2, at[2])
    assert run.earlier_recipes() == [(2, original)]
    run.rewind(1, at[1])
    assert run.earlier_recipes() == [(1, original)]


def test_names_that_no_folder_can_have(tmp_path: Path) -> None:
    for way in (RunDirectory.open, RunDirectory.require_new):
        with pytest.raises(UserError, match="too long"):
            way(tmp_path / ("x" * 300))


def test_damage_is_named_with_its_line(run: RunDirectory) -> None:
    run.append_metrics({"step": 1})
    with run.metrics_file.open("a") as file:
        file.write("{\n")
    with pytest.raises(RunFailure, match=r"metrics.jsonl, line 2, is damaged"):
        run.metrics()
    run.eval_file.write_text("{")
    with pytest.raises(RunFailure, match=r"eval.json is damaged"):
        run.evaluation()


def test_a_last_line_that_ends_inside_a_character_is_not_a_record(run: RunDirectory) -> None:
    run.append_samples([{"text": "\u00e9"}])
    with run.samples_file.open("ab") as file:
        file.write(b'{"text": "\xc3')
    assert run.read_lines("samples.jsonl") == [{"text": "\u00e9"}]
