from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerFast


@pytest.fixture
def recipe_file(
    tmp_path: Path,
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """A recipe of many fast steps with a checkpoint after each, on a small untrained model."""
    random_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    recipe: dict[str, Any] = {
        "name": "faults",
        "model": {"name": str(tmp_path / "model")},
        "task": {"num_train": 200, "sizes": [3], "number_max": 20, "max_value": 199},
        "prompt": {"style": "compact"},
        "rewards": [{"name": "length_penalty", "options": {"start": 0.0}}],
        "generation": {"num_generations": 4, "max_completion_length": 12},
        "grpo": {"prompts_per_step": 2},
        "optimizer": {"learning_rate": 1e-3},
        "train": {"max_steps": 150, "save_steps": 1, "save_total_limit": 3},
        "evaluation": {"n": 8},
        "logging": {"samples_steps": 7, "report_to": []},
    }
    path = tmp_path / "faults.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
