"""vLLM's engine: what it is asked, what is made of its answers, and the real one where it is."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

import fake_vllm
from aha.model.llama import blocks_of
from aha.model.load import load_model, load_tokenizer
from aha.recipe import load_recipe
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.rollout.vllm import VllmEngine
from aha.sections import ModelSection
from aha.tasks import load_problems
from aha.tasks.prompts import ask
from aha.tiny import weights_path
from aha.types import Completion, Prompt, RunFailure, UserError

MODEL = str(weights_path())
SECTION = ModelSection(device="cpu")


@pytest.fixture(scope="module")
def prompts() -> tuple[Prompt, ...]:
    recipe = load_recipe("countdown-tiny")
    return ask(load_problems(recipe.task, "test", 24).problems, recipe, load_tokenizer(SECTION))


@pytest.fixture(scope="module")
def native() -> NativeEngine:
    model = load_model(SECTION)
    return NativeEngine(model, load_tokenizer(SECTION), blocks_of(model))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[fake_vllm.LLM]:
    return fake_vllm.install(monkeypatch)


def engine() -> VllmEngine:
    return VllmEngine(MODEL, load_tokenizer(SECTION), "float32")


def test_every_setting_is_passed_on(made: list[fake_vllm.LLM], prompts: tuple[Prompt, ...]) -> None:
    settings = SamplingSettings(20, 0.7, 0.9, 50, 0.05, ("not",), ignore_end=True)
    engine().generate(prompts[:3], 2, settings, seed=5)
    (llm,) = made
    assert (llm.model, llm.tokenizer, llm.dtype) == (MODEL, MODEL, "float32")
    assert llm.logprobs_mode == "processed_logprobs"
    first = llm.asked[0]
    assert (first.n, first.temperature, first.top_p, first.top_k) == (2, 0.7, 0.9, 50)
    assert (first.min_p, first.max_tokens, first.stop) == (0.05, 20, ["not"])
    assert (first.ignore_eos, first.logprobs) == (True, 0)
    assert first.include_stop_str_in_output
    assert not first.skip_special_tokens
    seeds = sorted(params.seed for params in llm.asked)
    # vLLM's seed of a prompt's second completion is the next number.
    assert all(b - a > 1_000 for a, b in pairwise(seeds))


@pytest.mark.usefixtures("made")
def test_greedy_completions_are_the_native_engine_s(
    prompts: tuple[Prompt, ...], native: NativeEngine
) -> None:
    settings = SamplingSettings(60, 0.0)
    found = engine().generate(prompts[:6], 3, settings, seed=0)
    expected = native.generate(prompts[:6], 3, settings, seed=0)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == 3
        for one, other in zip(ours, theirs, strict=True):
            assert (one.text, one.token_ids) == (other.text, other.token_ids)
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
            assert one.finish_reason == other.finish_reason


@pytest.mark.usefixtures("made")
def test_a_completion_goes_through_its_stop_string(prompts: tuple[Prompt, ...]) -> None:
    settings = SamplingSettings(240, 0.0, stop=("</think>",))
    for (one,) in engine().generate(prompts[:4], 1, settings, seed=0):
        assert one.text.endswith("</think>")
        assert not one.truncated


@pytest.mark.usefixtures("made")
def test_draws_repeat_and_differ(prompts: tuple[Prompt, ...]) -> None:
    settings, same = SamplingSettings(40), [prompts[0]] * 2
    found = engine().generate(same, 2, settings, seed=1)
    assert engine().generate(same, 2, settings, seed=1) == found
    assert engine().generate(same, 2, settings, seed=2) != found
    assert len({one.text for group in found for one in group}) == 4


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("vllm") is not None:
        pytest.skip("vllm is installed")
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(UserError, match=r"--engine is 'vllm'.*pip install 'aha-zero\[vllm\]'"):
        engine()


@pytest.mark.usefixtures("made")
def test_what_vllm_cannot_do_is_named(
    monkeypatch: pytest.MonkeyPatch, prompts: tuple[Prompt, ...]
) -> None:
    with pytest.raises(UserError, match=r"temperature is 2\.5; .* at most 2"):
        engine().generate(prompts[:1], 1, SamplingSettings(5, 2.5), seed=0)

    def no_memory(**options: object) -> None:
        raise ValueError("No available memory for the cache blocks.\nTry something.")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", no_memory)
    with pytest.raises(RunFailure, match=r"could not load .*: No available memory .* blocks\.$"):
        engine()


def test_a_completion_that_was_given_up_is_no_completion(
    made: list[fake_vllm.LLM], prompts: tuple[Prompt, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = engine()
    output = SimpleNamespace(token_ids=[7], logprobs=[], finish_reason="abort")
    answer = SimpleNamespace(outputs=[output])
    monkeypatch.setattr(made[0], "generate", lambda *_, **__: [answer])
    with pytest.raises(RunFailure, match="gave a completion up: abort"):
        ready.generate(prompts[:1], 1, SamplingSettings(5), seed=0)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_the_real_one_writes_what_the_native_engine_writes(
    prompts: tuple[Prompt, ...], native: NativeEngine
) -> None:
    # A small cache, so that a CPU build runs here too.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    ready = engine()
    greedy = SamplingSettings(120, 0.0)
    pairs = [
        (ours, theirs)
        for (ours, *_), (theirs, *_) in zip(
            ready.generate(prompts, 2, greedy, 0), native.generate(prompts, 2, greedy, 0),
            strict=True,
        )
    ]  # fmt: skip
    same = [(ours, theirs) for ours, theirs in pairs if ours.token_ids == theirs.token_ids]
    assert len(same) >= len(pairs) - 2  # rounding may turn a draw between two tokens
    for ours, theirs in same:
        assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-2)
    stopped = ready.generate(prompts[:4], 1, SamplingSettings(120, 0.0, stop=("</think>",)), 0)
    assert all(one.text.endswith("</think>") and not one.truncated for (one,) in stopped)
    warm = SamplingSettings(60, 0.7)
    drawn = ready.generate(prompts[:4], 4, warm, 3)
    assert len({one.text for one in drawn[0]}) > 1
    assert ready.generate(prompts[:4], 4, warm, 3) == drawn
    model = load_model(SECTION)
    for prompt, group in zip(prompts, drawn, strict=False):
        for one in group:
            assert one.logprobs == pytest.approx(scored(model, prompt, one, 0.7), abs=1e-2)
    ready.close()


def scored(
    model: torch.nn.Module, prompt: Prompt, one: Completion, temperature: float
) -> list[float]:
    """Log-probabilities of a completion, by one pass of the model over it."""
    ids = torch.tensor([[*prompt.token_ids, *one.token_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(prompt.token_ids) - 1 : -1].float() / temperature
    chosen = torch.tensor(one.token_ids)[:, None]
    return torch.log_softmax(logits, -1).gather(1, chosen)[:, 0].tolist()
