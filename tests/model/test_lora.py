"""Adapters change nothing at first, fold in exactly, and can be switched off."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from aha.grpo.batches import Row, micro_batches
from aha.grpo.logprobs import LogprobModel, WithoutAdapters
from aha.model.llama import blocks_of
from aha.model.lora import (
    adapters_off,
    add_adapters,
    folded,
    has_adapters,
)
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.sections import LoraSection
from aha.types import Prompt
from weighted import backward

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.fixture
def base(random_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return random_model()


def adapted(base: PreTrainedModel, moved: float, **options: Any) -> PreTrainedModel:
    """A copy with adapters whose B, zero at first, has been moved as training would."""
    model = copy.deepcopy(base)
    add_adapters(model, LoraSection(r=4, alpha=8.0, **options), "base", seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(moved * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_new_adapters_change_nothing_and_are_all_that_is_trained(base: PreTrainedModel) -> None:
    model = adapted(base, 0.0)
    assert has_adapters(model)
    assert torch.equal(logits(model), logits(base))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".lora_" in name}
    # Two layers of seven products, an A and a B each; the head and the embedding have none.
    assert len(trained) == 2 * 7 * 2


def test_the_seed_decides_how_they_begin(base: PreTrainedModel) -> None:
    def first_a(seed: int) -> torch.Tensor:
        model = copy.deepcopy(base)
        torch.manual_seed(seed + 100)  # the process's own stream has no say
        add_adapters(model, LoraSection(), "base", seed)
        return next(p for name, p in model.named_parameters() if "lora_A" in name)

    assert torch.equal(first_a(0), first_a(0))
    assert not torch.equal(first_a(0), first_a(1))


def test_folding_in_is_w_plus_scaled_b_a(base: PreTrainedModel) -> None:
    model = adapted(base, 0.1)
    layer: Any = model.model.layers[0].self_attn.q_proj
    by_hand = layer.base_layer.weight + (8 / 4) * (
        layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    plain = folded(model)
    assert torch.equal(plain.model.layers[0].self_attn.q_proj.weight, by_hand)
    assert type(plain.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    assert not has_adapters(plain)
    assert has_adapters(model)
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(model), logits(base), atol=0.1)
    assert set(plain.state_dict()) == set(base.state_dict())


def test_peft_itself_folds_the_same(base: PreTrainedModel) -> None:
    model = adapted(base, 0.1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped: Any = get_peft_model(copy.deepcopy(base), config)
    state = {k: v for k, v in model.state_dict().items() if ".lora_" in k}
    wrapped.base_model.model.load_state_dict(state, strict=False)
    assert isinstance(wrapped, PeftModel)
    theirs = wrapped.merge_and_unload().state_dict()
    ours = folded(model).state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_switched_off_the_model_is_its_base_to_the_bit(base: PreTrainedModel) -> None:
    model = adapted(base, 0.1)
    with adapters_off(model):
        assert torch.equal(logits(model), logits(base))
    assert not torch.equal(logits(model), logits(base))
    (batch,) = micro_batches([Row(0, (5, 6), (7, 8, 9, 1))], 64, torch.device("cpu"))
    reference = WithoutAdapters(LogprobModel(model, blocks_of(model)))
    unstacked = LogprobModel(base, blocks_of(base))
    torch.testing.assert_close(
        reference.logprobs(batch, 1.0), unstacked.logprobs(batch, 1.0), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), ("down_proj",)])
def test_the_sampler_draws_from_what_the_trainer_scores(
    targets: Any, base: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = adapted(base, 0.1, target_modules=targets)
    blocks = blocks_of(model)
    engine = NativeEngine(model, tokenizer, blocks)
    prompt = Prompt("", "", (5, 6, 7))
    ((completion,),) = engine.generate([prompt], 1, SamplingSettings(20, ignore_end=True), 0)
    (batch,) = micro_batches(
        [Row(0, prompt.token_ids, completion.token_ids)], 64, torch.device("cpu")
    )
    scored = LogprobModel(model, blocks).logprobs(batch, 1.0)
    torch.testing.assert_close(scored, torch.tensor(completion.logprobs), atol=1e-4, rtol=0)


def test_only_float32_is_folded_in_for_rollouts(base: PreTrainedModel) -> None:
    model, rounded = adapted(base, 0.1), adapted(copy.deepcopy(base).to(torch.bfloat16), 0.1)
    assert folded(model) is not model
    assert folded(rounded) is rounded
    assert folded(base) is base


def test_adapters_on_bfloat16_weights_are_float32(base: PreTrainedModel, tmp_path: Path) -> None:
    model = adapted(copy.deepcopy(base).to(torch.bfloat16), 0.1)
    types = {p.dtype for p in model.parameters() if p.requires_grad}
    assert types == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


def test_gradients_reach_adapters_only_and_are_autograds(base: PreTrainedModel) -> None:
    """The policy's gradients against a plain forward and backward of the same model."""
    model = adapted(base, 0.1)
    plain = copy.deepcopy(model)
    policy = LogprobModel(model, blocks_of(model))
    (batch,) = micro_batches([Row(0, (5, 6), (7, 8, 9, 1))], 64, torch.device("cpu"))
    policy.clear_gradients()
    backward(policy, batch, 1.0, -torch.ones(len(batch.targets_N)))
    policy.gather_gradients()

    ids = torch.tensor([[5, 6, 7, 8, 9, 1]])
    logs = torch.log_softmax(plain(input_ids=ids).logits[0, 1:5].float(), dim=-1)
    (-logs.gather(1, ids[0, 2:, None]).sum()).backward()
    theirs = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, theirs[name], atol=1e-4, rtol=1e-3)
        else:
            assert parameter.grad is None
