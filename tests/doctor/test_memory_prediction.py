"""Predicted peaks against real ones: two steps of untrained models in processes of their own.

The models are large enough (45 to 59 M parameters) that they, and not the interpreter, are most of
the peak. Each shape makes another part large: the head and its logits; many small layers and what
they keep; wide layers that exist twice while adapters are folded in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from aha.doctor.preview import Prompts, Subject, shape_of
from aha.doctor.trial import measure
from aha.recipe import load_recipe
from aha.train.memory import Place, predict

GIB = 2**30
TOLERANCE = 0.15

SHAPES: dict[str, dict[str, Any]] = {
    "large-vocabulary": {
        "vocab_size": 100_000, "hidden_size": 384, "num_hidden_layers": 4,
        "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 1024,
    },
    "deep": {
        "vocab_size": 2048, "hidden_size": 448, "num_hidden_layers": 24,
        "num_attention_heads": 7, "num_key_value_heads": 7, "intermediate_size": 1216,
    },
    "wide": {
        "vocab_size": 2048, "hidden_size": 1536, "num_hidden_layers": 2,
        "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 4608,
    },
}  # fmt: skip
SMALL_STEP = (
    "task.num_train=20", "evaluation.n=0", "grpo.prompts_per_step=2",
    "generation.num_generations=2", "generation.max_completion_length=16",
)  # fmt: skip


def slow(shape: str, *changes: str) -> Any:
    return pytest.param(shape, changes, marks=pytest.mark.slow)


def saved(shape: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPES[shape],
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def assert_near(predicted: int, peak: int, before: int) -> None:
    """Within the tolerance, of the whole and of what is above the interpreter's own.

    `pytest -s` shows the figures.
    """
    said = f"{predicted / GIB:.2f} GiB predicted, {peak / GIB:.2f} measured, {before / GIB:.2f} own"
    above = (predicted - before) / (peak - before) - 1
    print(f"\n{said}: {predicted / peak - 1:+.1%}, above {above:+.1%}")
    assert abs(predicted / peak - 1) < TOLERANCE, said
    assert abs(above) < TOLERANCE, said
    # Otherwise the interpreter would be what is measured.
    assert peak > 2 * before, said


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the peak is not the process's")
@pytest.mark.slow
def test_the_command_predicts_what_it_measures(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """All of `aha doctor --measure`, with the doctor's own guess of what is there before."""
    folder = saved("large-vocabulary", tokenizer, tmp_path / "model")
    changes = [f"model.name={folder}", *SMALL_STEP]
    done = subprocess.run(
        [
            sys.executable, "-m", "aha.cli.main", "doctor", "countdown-tiny", "--offline", "--json",
            "--measure", *(part for change in changes for part in ("--set", change)),
        ],
        capture_output=True, text=True, check=True, cwd=tmp_path, env={**os.environ},
    )  # fmt: skip
    recipe = json.loads(done.stdout)["recipe"]
    measured, trial = recipe["measured"], recipe["measured"]["trial"]
    assert_near(measured["predicted_here"], trial["peak"], trial["before"])
    assert recipe["predicted"]["peak"] == measured["predicted"]
    assert trial["rows"] == 4
    assert measured["run_s"] == pytest.approx(150 * trial["step_s"])
    # Only the model lies here: a trial writes nothing.
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the peak is not the process's")
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        slow("deep"),
        slow("wide", "lora={}"),
        slow("deep", "lora={}"),
        slow("deep", "train.tokens_per_microbatch=80", "grpo.beta=0.05"),
        slow("wide"),
        slow("wide", "optimizer.state=8bit"),
        slow("large-vocabulary", "optimizer.state=8bit"),
        slow("deep", "optimizer.state=8bit"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "whole",
)
def test_other_shapes(
    shape: str, changes: tuple[str, ...], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = saved(shape, tokenizer, tmp_path / "model")
    recipe = load_recipe("countdown-tiny", [f"model.name={folder}", *SMALL_STEP, *changes])
    place = Place("cpu", psutil.virtual_memory().available, before=0)
    subject = Subject(recipe, shape_of(recipe.model), place, Prompts(16, assumed=True))
    trial = measure(subject).trial
    there, length = Place("cpu", place.limit, trial["before"]), round(trial["mean_length"])
    predicted = predict(recipe, subject.shape, there, trial["prompt_tokens"], length)
    assert_near(predicted.peak.total, trial["peak"], trial["before"])
