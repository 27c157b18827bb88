"""Streaming: what is looked at on the way grows, and ends as what `generate` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from aha.model.kernels import calls
from aha.model.llama import blocks_of
from aha.rollout.base import Partial, SamplingSettings, unfinished_text
from aha.rollout.cpu import Choice, CPUDecoder
from aha.rollout.engine import NativeEngine
from aha.rollout.hf import HFDecoder
from aha.types import Prompt

MakeModel = Callable[..., LlamaForCausalLM]

SETTINGS = [
    SamplingSettings(40, temperature=3.0),  # so hot that rows end at different times
    SamplingSettings(33, temperature=0.0),
    SamplingSettings(30, temperature=2.0, top_k=50, stop=("7",)),
]


def prompts(tokenizer: PreTrainedTokenizerFast) -> list[Prompt]:
    texts = ["Make 24 from 3 7 12 . <think>", "Make 5 from 1 4 . <think>", "Make 9 from 9 ."]
    return [Prompt(text, "", tuple(tokenizer.encode(text))) for text in texts]


def engine_of(kind: str, model: LlamaForCausalLM, tokenizer: Any, rows: int) -> NativeEngine:
    blocks = None if kind == "model" else blocks_of(model)
    decoding = Choice("off", "a test") if kind == "torch" else None
    return NativeEngine(model, tokenizer, blocks, rows, decoding=decoding)


@pytest.mark.parametrize("settings", SETTINGS, ids=["hot", "greedy", "narrow"])
@pytest.mark.parametrize("rows", [512, 4], ids=["together", "waiting"])
@pytest.mark.parametrize("kind", ["kernels", "step", "torch", "model"])
def test_a_stream_ends_as_what_generate_returns(
    kind: str,
    rows: int,
    settings: SamplingSettings,
    random_model: MakeModel,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind in ("kernels", "step") and not calls.usable():
        pytest.skip("no compiled kernels here")
    if kind == "step":
        monkeypatch.setattr(CPUDecoder, "burst_tokens", 0)
    engine = engine_of(kind, random_model(hidden_size=64), tokenizer, rows)
    asked = prompts(tokenizer)
    expected = engine.generate(asked, 3, settings, seed=6)
    looks = list(engine.stream(asked, 3, settings, seed=6))
    assert [tuple(one.completion for one in group) for group in looks[-1]] == expected
    before = [Partial("", (), (), None)] * 9
    for look in looks:
        flat = [one for group in look for one in group]
        for one, earlier in zip(flat, before, strict=True):
            assert one.token_ids[: len(earlier.token_ids)] == earlier.token_ids
            assert len(one.token_ids) == len(one.logprobs)
            if earlier.finish_reason is not None:
                assert one == earlier
        before = flat
    assert len(looks) > 2
    assert all(one.finish_reason for one in before)
    assert any(one.finish_reason is None for group in looks[0] for one in group)


def test_a_stream_that_is_left_leaves_the_model_as_it_was(
    random_model: MakeModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = random_model(hidden_size=64).train()
    engine = engine_of("kernels", model, tokenizer, 512)
    stream = engine.stream(prompts(tokenizer), 2, SETTINGS[0], seed=1)
    next(stream)
    assert not model.training
    assert not torch.is_inference_mode_enabled()
    stream.close()
    assert model.training


def test_scarce_memory_begins_again_and_ends_the_same(
    random_model: MakeModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings = random_model(hidden_size=64), SamplingSettings(20)
    expected = engine_of("model", model, tokenizer, 512).generate(
        prompts(tokenizer), 4, settings, seed=5
    )
    step = HFDecoder.step

    def scarce(self: HFDecoder, tokens_R: torch.Tensor) -> torch.Tensor:
        if len(tokens_R) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, tokens_R)

    monkeypatch.setattr(HFDecoder, "step", scarce)
    engine = engine_of("model", model, tokenizer, 512)
    *_, last = engine.stream(prompts(tokenizer), 4, settings, seed=5)
    # Log-probabilities differ by rounding: fewer rows at a time.
    assert [[one.token_ids for one in group] for group in last] == [
        [one.token_ids for one in group] for group in expected
    ]


def test_a_character_that_is_not_whole_yet_is_left_out(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = byte_tokenizer.encode("né", add_special_tokens=False)
    texts = [unfinished_text(byte_tokenizer.decode(ids[:end])) for end in range(1, len(ids) + 1)]
    assert texts == ["n", "n", "né"]


def test_only_what_has_ended_is_a_completion() -> None:
    with pytest.raises(ValueError, match="still writing"):
        Partial("a", (1,), (0.0,), None).completion  # noqa: B018
    assert Partial("a", (1,), (0.0,), "length").completion.truncated
