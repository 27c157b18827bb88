"""`aha eval` on the embedded model, on runs and on checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aha.cli import main
from aha.commands.evaluate import Request, run_eval
from aha.recipe import load_recipe
from aha.runs import RunDirectory
from aha.types import UserError


def test_a_run_is_evaluated_as_it_was_in_training(run: RunDirectory) -> None:
    found = run_eval(Request(str(run.path)))
    assert found.outcome.evaluation.summary == run.evaluation()["after"]
    assert found.outcome.file.parent == run.path / "evals"
    lines = found.outcome.file.read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == run.read_lines("eval-after.jsonl")
    assert found.notes == ()


def test_a_checkpoint_is_its_run(run: RunDirectory) -> None:
    (checkpoint,) = run.checkpoints.iterdir()
    found = run_eval(Request(str(checkpoint), n=5))
    assert found.outcome.evaluation.summary["n"] == 5


def test_several_completions_give_pass_and_maj_at_k(run: RunDirectory) -> None:
    found = run_eval(Request(str(run.path), samples=4)).outcome.evaluation
    keys = {key for key in found.summary if "@" in key}
    assert keys == {"pass@1", "pass@2", "pass@4", "maj@2", "maj@4"}
    assert found.summary["pass@1"] == pytest.approx(found.summary["accuracy"])
    solved = {record["key"] for record in found.records if record["correct"]}
    assert found.summary["pass@4"] == pytest.approx(len(solved) / 12)
    assert [record["sample"] for record in found.records] == [0, 1, 2, 3] * 12


def test_the_base_is_the_run_s_before(run: RunDirectory, tmp_path: Path) -> None:
    found = run_eval(Request(str(run.path), against="aha-tiny", output=tmp_path))
    assert found.against is not None
    assert found.against.evaluation.summary == run.evaluation()["before"]
    assert found.comparison is not None
    after, before = run.evaluation()["after"], run.evaluation()["before"]
    assert found.comparison.difference == pytest.approx(after["accuracy"] - before["accuracy"])
    text = found.as_text()
    assert "accuracy, strict" in text
    assert "McNemar" in text


def test_json_is_one_object_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["eval", "aha-tiny", "--n", "6", "--samples", "4", "--json"])
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    expected = {"model", "n", "accuracy", "ci95", "pass@1", "pass@4", "maj@4", "by_difficulty"}
    assert expected <= set(value)
    assert set(value["by_difficulty"]) == {"3 numbers"}
    assert len(Path(value["file"]).read_text("utf-8").splitlines()) == 24


def test_another_task_on_real_rows(tmp_path: Path) -> None:
    rows = Path(__file__).parents[1] / "data" / "gsm8k.jsonl"
    found = run_eval(
        Request(
            "aha-tiny", recipe="gsm8k-xml-0.5b", n=2, output=tmp_path,
            overrides=[f"task.source={rows}", f"task.test_source={rows}",
                       "generation.max_completion_length=8", "prompt.format=text"],
        )
    )  # fmt: skip
    assert found.outcome.evaluation.summary["n"] == 2
    assert all("steps" in name for name in found.outcome.evaluation.summary["by_difficulty"])


def test_training_problems_are_noted(run: RunDirectory) -> None:
    found = run_eval(Request(str(run.path), split="train", n=3))
    assert "training problems" in found.notes[0]


def test_mistakes_are_named(tmp_path: Path, run: RunDirectory) -> None:
    with pytest.raises(UserError, match="add --recipe"):
        run_eval(Request(str(tmp_path)))
    empty = RunDirectory.create(load_recipe("countdown-tiny"), tmp_path / "empty")
    with pytest.raises(UserError, match="without a checkpoint"):
        run_eval(Request(str(empty.path)))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output: .* cannot be written"):
        run_eval(Request(str(run.path), n=2, output=tmp_path / "file"))
