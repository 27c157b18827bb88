from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from aha.doctor.diagnosis import diagnose
from aha.doctor.preview import describe
from aha.model.load import positions_of, require_positions
from aha.recipe import Recipe, load_recipe
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.train.start import start_run
from aha.types import Prompt, UserError

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (GPT2Config(n_positions=1024), 1024),
        (OPTConfig(max_position_embeddings=2048), 2048),
        (LlamaConfig(max_position_embeddings=4096), 4096),
        # The stated number is the scaled one, as in Llama 3.1.
        (LlamaConfig(max_position_embeddings=131_072, rope_parameters=LLAMA3), 131_072),
        # It is the original one, as Qwen2.5's model card has it, with and without saying so.
        (
            Qwen2Config(
                max_position_embeddings=32_768,
                rope_parameters={**YARN, "original_max_position_embeddings": 32_768},
            ),
            131_072,
        ),
        (Qwen2Config(max_position_embeddings=32_768, rope_parameters=YARN), 131_072),
        # It is the scaled one, as DeepSeek writes it.
        (
            Qwen2Config(
                max_position_embeddings=163_840,
                rope_parameters={
                    **YARN, "factor": 40.0, "original_max_position_embeddings": 4096,
                },
            ),
            163_840,
        ),
        (
            Phi3Config(
                max_position_embeddings=131_072, original_max_position_embeddings=4096,
                rope_parameters={
                    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48,
                    "long_factor": [2.0] * 48, "original_max_position_embeddings": 4096,
                },
            ),
            131_072,
        ),
        (Gemma3TextConfig(max_position_embeddings=32_768), 32_768),
        (MambaConfig(), None),
        (BloomConfig(), None),
        (FalconConfig(alibi=True), None),
        (FalconConfig(alibi=False, max_position_embeddings=2048), 2048),
    ],
)  # fmt: skip
def test_how_long_a_text_may_be(config: Any, limit: int | None) -> None:
    assert positions_of(config) == limit


def test_the_sentence_says_what_is_allowed() -> None:
    config = GPT2Config(n_positions=100)
    require_positions(config, 40, 60)
    with pytest.raises(UserError) as caught:
        require_positions(config, 41, 60)
    assert str(caught.value) == (
        "generation.max_completion_length is 60 and the longest prompt has 41 tokens, but the "
        "model (gpt2) takes 100 tokens together; allowed is at most 59."
    )
    with pytest.raises(UserError, match="the prompts must become shorter"):
        require_positions(config, 100, 1)


@pytest.fixture
def gpt2(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=224, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    return str(tmp_path / "gpt2")


def recipe_of(gpt2: str, *changes: str) -> Recipe:
    return load_recipe("countdown-tiny", [f"model.name={gpt2}", *changes])


def test_a_run_that_is_too_long_leaves_nothing_behind(gpt2: str, tmp_path: Path) -> None:
    words = r"max_completion_length is 240 and the longest prompt has \d+ tokens.* 64 tokens"
    with pytest.raises(UserError, match=words):
        start_run(recipe_of(gpt2), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=words):
        describe(recipe_of(gpt2))
    assert "first prompt" in describe(recipe_of(gpt2, "generation.max_completion_length=20"))


def test_trl_refuses_it_too(gpt2: str, tmp_path: Path) -> None:
    pytest.importorskip("trl.trainer")
    from aha.trl.backend import start_run as start_on_trl

    with pytest.raises(UserError, match="max_completion_length is 240"):
        start_on_trl(recipe_of(gpt2, "engine=trl"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_doctor_says_it(gpt2: str) -> None:
    def length(*changes: str) -> list[str]:
        overrides = [f"model.name={gpt2}", *changes]
        report = diagnose("countdown-tiny", overrides, offline=True)
        return [finding.found for finding in report.findings if finding.what == "length"]

    assert "completions of 240 tokens; the model takes 64" in length()[0]
    assert not length("generation.max_completion_length=20")


def test_prompts_that_come_later_are_looked_at_then(
    gpt2: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = AutoModelForCausalLM.from_pretrained(gpt2)
    engine = NativeEngine(model, tokenizer)
    assert engine.generate([Prompt("", "", (5,) * 44)], 1, SamplingSettings(20), seed=1)
    with pytest.raises(UserError, match="the longest prompt has 45 tokens"):
        engine.generate([Prompt("", "", (5,) * 45)], 1, SamplingSettings(20), seed=1)
