"""Small runs on both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

# Not "trl": without the package that would be this folder.
pytest.importorskip("trl.trainer", reason="trl is not installed; it needs Python 3.11")

from native_turn import native_turn

from aha.recipe import Recipe, load_recipe
from aha.trl.trainer import RecipeTrainer


@pytest.fixture
def rewards_file(tmp_path: Path) -> Path:
    """Rewards that vary on what an untrained model writes."""
    path = tmp_path / "rewards.py"
    path.write_text(
        "def digits(completions, **_):\n"
        "    return [sum(c.isdigit() for c in text) / (1 + len(text)) for text in completions]\n"
    )
    return path


@pytest.fixture
def small(model_folder: str, rewards_file: Path) -> Callable[..., Recipe]:
    """Makes recipes of three fast steps on a small untrained model."""

    def make(engine: str, *changes: str) -> Recipe:
        return load_recipe(
            "countdown-tiny",
            [
                f"engine={engine}", f"model.name={model_folder}", "train.max_steps=3",
                "train.save_steps=1", "grpo.prompts_per_step=3", "generation.num_generations=4",
                "generation.max_completion_length=20", "evaluation.n=4", "logging.report_to=[]",
                "logging.samples_steps=1", "logging.samples_groups=3", "task.num_train=40",
                # An untrained model never scores; a reward that varies makes it learn something.
                f"rewards=[{{name: accuracy}}, {{name: '{rewards_file}:digits', weight: 0.5}}]",
                *changes,
            ],
        )  # fmt: skip

    return make


@pytest.fixture
def native_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's trainer writes what the native engine would write in its place."""
    monkeypatch.setattr(RecipeTrainer, "_generate_single_turn", native_turn)
