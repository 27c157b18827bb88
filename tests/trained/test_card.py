"""The results in a model's card are those of the weights that are exported."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aha.recipe import load_recipe
from aha.runs import RunDirectory
from aha.trained import Subject
from aha.trained.export import model_card
from begun_run import begun_run


def figures(accuracy: float, n: int = 500) -> dict[str, Any]:
    return {
        "n": n, "temperature": 1.0, "accuracy": accuracy, "ci95": [0.111, 0.999],
        "accuracy_lenient": accuracy, "format_rate": 1.0, "mean_length": 34.0,
        "truncated_rate": 0.0, "reflection_rate": 0.5,
    }  # fmt: skip


@pytest.fixture
def finished(tmp_path: Path) -> RunDirectory:
    """A run of four steps, evaluated before, after, and at step 2."""
    run = begun_run(load_recipe("countdown-tiny", ["train.max_steps=4"]), tmp_path / "r")
    run.write_json("eval.json", {"before": figures(0.125), "after": figures(0.625)})
    on_the_way = {f"eval/{key}": value for key, value in figures(0.375, 60).items()}
    del on_the_way["eval/temperature"], on_the_way["eval/ci95"]
    on_the_way |= {"eval/ci95_low": 0.25, "eval/ci95_high": 0.5}
    for step in (1, 2, 3, 4):
        # A step's own figures have the same names without `eval/`.
        extra = on_the_way if step == 2 else {}
        run.append_metrics({"step": step, "accuracy": 0.99, "reflection_rate": 9.9} | extra)
    return run


def results(run: RunDirectory, step: str) -> str:
    subject = Subject(f"r ({step})", str(run.checkpoints / step), run)
    model: Any = SimpleNamespace(num_parameters=lambda: 1_000_000, dtype="torch.float32")
    card = model_card(subject, run.recipe(), model)
    return card[card.index("## Results") : card.index("## Limits")]


def test_the_last_step_is_after_training(finished: RunDirectory) -> None:
    text = results(finished, "step-000004")
    assert "| figure | before training | after training |" in text
    assert "12.5% (11.1% to 99.9%) | 62.5% (11.1% to 99.9%)" in text
    assert "not evaluated" not in text


def test_a_step_that_was_evaluated_has_its_own_figures(finished: RunDirectory) -> None:
    text = results(finished, "step-000002")
    assert "| figure | before training | at step 2 of 4 |" in text
    assert "| 12.5% (11.1% to 99.9%) | 37.5% (25.0% to 50.0%) |" in text
    assert "On 60 held-out problems" in text
    assert "62.5%" not in text
    assert "99.0%" not in text


def test_a_step_that_was_not_evaluated_says_so(finished: RunDirectory) -> None:
    text = results(finished, "step-000003")
    assert "| figure | before training |" in text
    assert "12.5%" in text
    assert "62.5%" not in text
    assert "These weights are of step 3 of 4, which was not evaluated." in text
    assert "of a step that is not known, which was not evaluated" in results(finished, "best")


def test_without_any_evaluation_there_is_no_table(finished: RunDirectory) -> None:
    finished.eval_file.unlink()
    assert results(finished, "step-000004") == (
        "## Results\nThese weights are of step 4 of 4, which was not evaluated.\n\n"
    )
    assert json.loads((finished.path / "environment.json").read_text("utf-8"))
