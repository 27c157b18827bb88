"""The fused blocks against the model's own forward, with and without the kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from aha.grpo import logprobs as logprobs_module
from aha.grpo.batches import Row, micro_batches
from aha.grpo.logprobs import LogprobModel
from aha.model.kernels import calls
from aha.model.llama import blocks_of
from weighted import backward

ROWS = [Row(0, (5, 6, 7), (8, 9, 10, 11)), Row(1, (12,), (13, 14)), Row(2, (3, 4), (5,) * 9)]


def build(kind: str, random_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    if kind == "qwen3":
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=224, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=48, head_dim=16, initializer_range=0.3,
        )  # fmt: skip
        return Qwen3ForCausalLM(config)
    return random_model(attention_bias=kind == "bias", tie_word_embeddings=kind == "tied")


def gradients(policy: LogprobModel, temperature: float) -> dict[str, torch.Tensor]:
    """The gradients of a loss that weighs every token differently."""
    policy.clear_gradients()
    for batch in micro_batches(ROWS, 20, torch.device("cpu")):
        weight_N = (batch.targets_N + batch.index_N).float()
        backward(policy, batch, temperature, weight_N)
    policy.gather_gradients()
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("with_kernels", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("kind", ["plain", "bias", "tied", "qwen3"])
def test_gradients_are_those_of_the_models_own_forward(
    kind: str,
    recompute: bool,
    with_kernels: bool,
    random_model: Callable[..., PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not with_kernels:
        monkeypatch.setattr(calls, "usable", lambda *tensors: False)
    model = build(kind, random_model)
    expected = gradients(LogprobModel(copy.deepcopy(model), None), 0.7)
    # So few logits at a time that every microbatch has several parts.
    monkeypatch.setattr(logprobs_module, "LOGIT_BYTES", 224 * 4 * 3)
    ours = gradients(LogprobModel(model, blocks_of(model), recompute), 0.7)
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        error = (gradient - expected[name]).norm() / expected[name].norm()
        assert error < 1e-5, f"{name}: {error}"


def test_frozen_parameters_get_no_gradient(random_model: Callable[..., PreTrainedModel]) -> None:
    model = random_model(tie_word_embeddings=True)
    model.model.embed_tokens.weight.requires_grad_(False)
    model.model.layers[0].requires_grad_(False)
    ours = gradients(LogprobModel(model, blocks_of(model)), 1.0)
    assert "model.embed_tokens.weight" not in ours
    assert all(not name.startswith("model.layers.0.") for name in ours)
    assert "model.layers.1.self_attn.q_proj.weight" in ours


def test_stacked_weights_are_the_models_own(
    random_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model = random_model(attention_bias=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    blocks = blocks_of(model)
    assert blocks is not None
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    query = model.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        query.add_(1.0)
    assert torch.equal(blocks.stacks[0].weight[: len(query)], query)
    # Saved and copied, they are separate tensors again.
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_under_autocast_gradients_stay_close_and_float32(
    random_model: Callable[..., PreTrainedModel],
) -> None:
    model = random_model(initializer_range=0.05)
    exact = gradients(LogprobModel(copy.deepcopy(model), None), 1.0)
    cast = gradients(LogprobModel(model, blocks_of(model), autocast=torch.bfloat16), 1.0)
    for name, gradient in cast.items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[name]).norm() / exact[name].norm() < 0.05, name
