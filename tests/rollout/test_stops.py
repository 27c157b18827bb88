from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.rollout.sampler import StopStrings
from aha.types import Prompt


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
