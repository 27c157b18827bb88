"""The recipe that checks an installation passes on a sound one, and fails on a broken one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aha.recipe import load_recipe
from aha.tasks import load_problems
from command_line import aha_here


def test_the_recipe_is_trained_and_tested_on_its_own_problems() -> None:
    recipe = load_recipe("sanity")
    train = load_problems(recipe.task, "train", None).problems
    assert load_problems(recipe.task, "test", recipe.evaluation.n).problems == train
    assert len(train) == recipe.evaluation.n
    assert recipe.task.tested == "training"
    assert load_recipe("countdown-tiny").task.tested == "held-out"


def test_below_the_least_accuracy_the_run_fails_and_keeps_its_files(tmp_path: Path) -> None:
    done = aha_here(
        "train", "sanity", "--output", "run", "--max-steps", "1",
        "--set", "evaluation.samples=2", "--set", "grpo.prompts_per_step=2",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the accuracy on training problems is" in done.stderr
    assert "evaluation.at_least is 95.0%." in done.stderr
    after = evaluation(tmp_path / "run")["after"]
    assert after["accuracy"] < 0.95
    assert after["samples"] == 2


@pytest.mark.slow
def test_a_sound_installation_passes(tmp_path: Path) -> None:
    done = aha_here("train", "sanity", "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 0.2 <= evaluation(tmp_path / "run")["before"]["accuracy"] <= 0.8
    assert evaluation(tmp_path / "run")["after"]["accuracy"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken", ["rewards=[{name: accuracy, weight: -1}]", "optimizer.learning_rate=1e-9"]
)
def test_it_fails_when_nothing_is_learned(broken: str, tmp_path: Path) -> None:
    done = aha_here("train", "sanity", "--output", "run", "--set", broken, cwd=tmp_path)
    assert done.returncode == 1
    assert "evaluation.at_least is 95.0%." in done.stderr


def evaluation(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "eval.json").read_text())
    return found
