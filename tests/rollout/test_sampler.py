from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.rollout.sampler import StopStrings, _narrow, sample, uniforms
from aha.types import Prompt

LOGITS_V = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -30.0])


def draw(count: int, **settings: float) -> torch.Tensor:
    logits_BV = LOGITS_V.expand(count, -1)
    points_B = uniforms(0, range(count), 1)[:, 0]
    tokens_B, _ = sample(logits_BV, points_B, SamplingSettings(1, **settings))  # type: ignore[arg-type]
    return torch.bincount(tokens_B, minlength=len(LOGITS_V)) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax(temperature: float) -> None:
    expected = torch.softmax(LOGITS_V / temperature, dim=-1)
    # 20,000 draws: five standard deviations are at most 0.018.
    assert torch.allclose(draw(20_000, temperature=temperature), expected.float(), atol=0.018)


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.8}, {0, 1, 2}),
        ({"min_p": 0.3}, {0, 1}),
        ({"temperature": 0.0}, {0}),
        ({"top_k": 3, "min_p": 0.3}, {0, 1}),
    ],
)
def test_narrowing_leaves_the_named_tokens(settings: dict[str, float], allowed: set[int]) -> None:
    assert set(draw(4_000, **settings).nonzero().flatten().tolist()) == allowed


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 20},
        {"top_p": 0.9},
        {"min_p": 0.02},
        {"top_p": 0.7, "min_p": 0.02},
        {"top_k": 30, "top_p": 0.6},
        {"top_k": 40, "top_p": 0.9, "min_p": 0.05},
    ],
)
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_narrowing_is_that_of_transformers(
    temperature: float, settings: dict[str, Any], random_model: Callable[..., PreTrainedModel]
) -> None:
    torch.manual_seed(0)
    logits_BV = 2 * torch.randn(64, 100)
    config = GenerationConfig(do_sample=True, temperature=temperature, **{"top_k": 0, **settings})
    warpers = random_model()._get_logits_processor(config)
    expected_BV = warpers(torch.zeros(64, 1, dtype=torch.long), logits_BV).softmax(dim=-1)
    probs_BV = torch.softmax(logits_BV / temperature, dim=-1)
    narrowed_BV = _narrow(probs_BV, SamplingSettings(1, temperature=temperature, **settings))
    narrowed_BV /= narrowed_BV.sum(dim=-1, keepdim=True)
    assert torch.allclose(narrowed_BV, expected_BV, atol=1e-6)
    assert (narrowed_BV == 0).any()


def test_logprobs_are_of_the_full_softmax_at_the_temperature() -> None:
    settings = SamplingSettings(1, temperature=0.7, top_k=1)
    tokens_B, logprobs_B = sample(LOGITS_V[None], torch.tensor([0.99]), settings)
    expected = torch.log_softmax(LOGITS_V / 0.7, dim=-1)[tokens_B]
    assert torch.allclose(logprobs_B, expected)


def test_the_ends_of_the_unit_interval_draw_possible_tokens() -> None:
    logits_BV = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).expand(2, -1)
    points_B = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    tokens_B, _ = sample(logits_BV, points_B, SamplingSettings(1))
    assert tokens_B.tolist() == [1, 2]


def test_streams_depend_on_seed_and_row_alone() -> None:
    together = uniforms(5, [0, 1, 2], 8)
    assert torch.equal(uniforms(5, [2], 8)[0], together[2])
    assert torch.equal(uniforms(5, [2], 20)[0, :8], together[2])
    assert not torch.equal(uniforms(6, [2], 8)[0], together[2])


def test_a_stop_string_is_found_however_it_falls_into_tokens(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    stops = StopStrings(byte_tokenizer, ["</answer>", "é!"])
    text = "a > b </answer"
    for token in byte_tokenizer.encode(text):
        assert not stops.reached(torch.tensor([3]), torch.tensor([token])).item()
    (end,) = byte_tokenizer.encode(">")
    # Another row with the same last character has not said the rest.
    assert stops.reached(torch.tensor([3, 4]), torch.tensor([end, end])).tolist() == [True, False]
    found = [
        stops.reached(torch.tensor([7]), torch.tensor([token])).item()
        for token in byte_tokenizer.encode("é!")
    ]
    assert found == [False, False, True]


@pytest.mark.parametrize("stop", ["。", "done 🙂", "é", "end。"])
def test_a_last_character_of_several_tokens_ends_with_its_last_one(
    stop: str, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    stops = StopStrings(byte_tokenizer, [stop])
    # These begin with the same bytes.
    tokens = byte_tokenizer.encode("、è😀 " + stop, add_special_tokens=False)
    assert len(byte_tokenizer.encode(stop[-1], add_special_tokens=False)) > 1
    found = [stops.reached(torch.tensor([0]), torch.tensor([token])).item() for token in tokens]
    assert found == [False] * (len(tokens) - 1) + [True]


def test_a_last_character_that_a_token_alone_would_lose() -> None:
    # Its decoder strips the space of a first token, as those of Llama 2 and Mistral do.
    pieces = {"<unk>": 0, "▁": 1, "done": 2, "▁next": 3, "a": 4}
    backend = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=False))
    backend.decoder = decoders.Metaspace()
    stops = StopStrings(PreTrainedTokenizerFast(tokenizer_object=backend), ["done "])
    found = [stops.reached(torch.tensor([0]), torch.tensor([i])).item() for i in (4, 1, 2, 3)]
    assert found == [False, False, False, True]


def test_completions_end_with_the_stop_string(
    random_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = NativeEngine(random_model(), tokenizer)
    prompt = Prompt("Make 5", "", tuple(tokenizer.encode("Make 5 from 1 4 . <think>")))
    free = engine.generate([prompt], 16, SamplingSettings(40), seed=1)[0]
    # A text that some completions hold, and not at once.
    longest = max(free, key=lambda completion: len(completion.token_ids))
    stop = tokenizer.decode([longest.token_ids[5]]).strip()
    stopped = engine.generate([prompt], 16, SamplingSettings(40, stop=(stop,)), seed=1)[0]
    shorter = 0
    for before, after in zip(free, stopped, strict=True):
        assert before.token_ids[: len(after.token_ids)] == after.token_ids
        if len(after.token_ids) < len(before.token_ids):
            shorter += 1
            assert after.finish_reason == "stop"
            assert stop in tokenizer.decode(list(after.token_ids))
            assert stop not in tokenizer.decode(list(after.token_ids[:-1]))
    assert shorter > 0
