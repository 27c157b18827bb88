from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Read when torch is imported. The models here are small: a second thread makes them slower, and two
# programs with two threads each on two cores wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tiny_random_model
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from aha.tiny.traces import tiny_tokenizer


@pytest.fixture(autouse=True)
def fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests in bfloat16 are small, and run on every processor."""
    monkeypatch.setattr("aha.model.load.bfloat16_slowdown", lambda: 0.5)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte, and a chat template; the example's own."""
    return tiny_random_model.build_tokenizer()


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pictures take longer than a small run."""
    monkeypatch.setattr("aha.report.pages.build_report", lambda run: run.report_file)


@pytest.fixture
def random_model() -> Callable[..., LlamaForCausalLM]:
    """Makes small untrained models over the embedded model's vocabulary."""

    def make(seed: int = 0, **changes: object) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        settings = {
            "vocab_size": 224,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
            # Large enough that the untrained model has preferences of its own.
            "initializer_range": 0.3,
            **changes,
        }
        return LlamaForCausalLM(LlamaConfig(**settings)).eval()

    return make


@pytest.fixture
def model_folder(
    tmp_path: Path,
    random_model: Callable[..., LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
) -> str:
    """The small untrained model and its tokenizer, saved."""
    folder = tmp_path / "model"
    random_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
