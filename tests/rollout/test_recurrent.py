"""Models with recurrent states: their completions are what a plain forward says, or a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from aha.observe.record import step_record
from aha.recipe import load_recipe
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.train.loop import train_step
from aha.train.state import prepare
from aha.types import Completion, Prompt, UserError

TOKENS: dict[str, Any] = {
    "vocab_size": 224, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
    "initializer_range": 0.3,
}  # fmt: skip
SIZES: dict[str, Any] = {
    **TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48,
}  # fmt: skip
LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"], "head_dim": 16,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_conv_kernel_dim": 4,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
STATES: dict[str, Any] = {**TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
SCANNED: dict[str, Any] = {
    "mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_d_conv": 4,
    "mamba_chunk_size": 8,
}  # fmt: skip

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3_next": lambda: Qwen3NextForCausalLM(Qwen3NextConfig(**SIZES, **LINEAR, **EXPERTS)),
    "qwen3_5": lambda: Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES, **LINEAR)),
    "granitemoehybrid": lambda: GraniteMoeHybridForCausalLM(
        GraniteMoeHybridConfig(
            **SIZES, **SCANNED, mamba_d_head=16, num_local_experts=4, num_experts_per_tok=2,
            shared_intermediate_size=16, layer_types=["mamba", "attention"],
        )
    ),
    "falcon_h1": lambda: FalconH1ForCausalLM(
        FalconH1Config(**SIZES, **SCANNED, mamba_d_ssm=32, mamba_d_head=8)
    ),
    "mamba": lambda: MambaForCausalLM(MambaConfig(**STATES)),
    "mamba2": lambda: Mamba2ForCausalLM(
        Mamba2Config(**STATES, head_dim=16, num_heads=4, n_groups=1, chunk_size=8)
    ),
}  # fmt: skip
REFUSED: dict[str, Callable[[], PreTrainedModel]] = {
    "minimax": lambda: MiniMaxForCausalLM(
        MiniMaxConfig(
            **SIZES, num_local_experts=2, num_experts_per_tok=1, block_size=8,
            layer_types=["linear_attention", "full_attention"],
        )
    ),
    "recurrent_gemma": lambda: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(**{**SIZES, "num_hidden_layers": 3}, attention_window_size=8)
    ),
    "rwkv": lambda: RwkvForCausalLM(
        RwkvConfig(vocab_size=224, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    ),
}  # fmt: skip


def build(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Untrained, with biases that would give padding away."""
    torch.manual_seed(1)
    model = make()
    for parameter in model.parameters():
        if parameter.dim() == 1 and bool((parameter == 0).all()):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def scored(model: PreTrainedModel, prompt: Prompt, completion: Completion) -> torch.Tensor:
    """Log-probabilities of a completion from one plain forward over its own unpadded text."""
    ids = torch.tensor([prompt.token_ids + completion.token_ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0], dim=-1)
    first = len(prompt.token_ids)
    return logprobs[first - 1 : -1].gather(1, ids[0, first:, None]).squeeze(1)


@pytest.mark.parametrize("max_rows", [512, 8])
@pytest.mark.parametrize("name", MODELS)
def test_completions_are_what_a_plain_forward_says(
    name: str, max_rows: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    # Prompts of three lengths, two of them alike; with few rows some enter while others write.
    texts = ["Make 5 from 1 4 . <think>", "Make 24 from 3 7 12 . <think>"]
    texts += ["Make 7 from 2 5 . <think>", "M"]
    prompts = [Prompt(text, "", tuple(tokenizer.encode(text))) for text in texts]
    model = build(MODELS[name])
    engine = NativeEngine(model, tokenizer, max_rows=max_rows)
    for prompt, group in zip(
        prompts, engine.generate(prompts, 4, SamplingSettings(24), seed=3), strict=True
    ):
        for completion in group:
            written = torch.tensor(completion.logprobs)
            assert torch.allclose(written, scored(model, prompt, completion), atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_would_be_written_otherwise_is_refused(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = build(REFUSED[name])
    if not model._is_stateful and name == "recurrent_gemma":
        pytest.skip("this transformers holds its states in the modules and does not say so")
    with pytest.raises(UserError, match=rf"a model of type '{name}' cannot write completions"):
        NativeEngine(model, tokenizer)


def test_a_model_without_attention_trains(
    tmp_path: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    build(MODELS["mamba"]).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = [
        f"model.name={tmp_path}", "evaluation.n=0", "generation.max_completion_length=8",
        "grpo.prompts_per_step=2", "grpo.beta=0.1",
    ]  # fmt: skip
    with pytest.raises(UserError, match=re.escape("--set model.attn_implementation=eager")):
        prepare(load_recipe("countdown-tiny", settings), None)
    settings.append("model.attn_implementation=eager")
    trainer = prepare(load_recipe("countdown-tiny", settings), None)
    record = step_record(train_step(trainer, 1))
    assert record["trained_rows"] > 0
    assert record["logprob_gap"] < 1e-4
