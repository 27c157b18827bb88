from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from aha.grpo.batches import Row, micro_batches
from aha.grpo.logprobs import LogprobModel
from aha.model.kernels import calls
from aha.model.kernels.decode import Widths
from aha.model.kernels.library import kernels
from aha.model.llama import blocks_of, supports
from aha.rollout.base import SamplingSettings
from aha.rollout.cpu import Choice, CPUDecoder, choose
from aha.rollout.cuda import BlocksDecoder
from aha.rollout.engine import NativeEngine, _Rollout
from aha.rollout.hf import HFDecoder
from aha.rollout.sampler import _draw
from aha.types import Completion, Prompt, RunFailure

SIZES: dict[str, Any] = {
    "vocab_size": 224,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def build(kind: str, random_model: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(1)
    if kind == "llama":
        return random_model(hidden_size=64)
    if kind == "llama-bias":
        model = random_model(hidden_size=64, attention_bias=True)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        return model
    if kind == "qwen2":
        return Qwen2ForCausalLM(
            Qwen2Config(**{**SIZES, "hidden_size": 64}, tie_word_embeddings=True)
        ).eval()
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)).eval()
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**SIZES, head_dim=16, sliding_window=None)).eval()
    config = GPT2Config(
        vocab_size=224, n_embd=32, n_layer=2, n_head=4, n_positions=256,
        bos_token_id=None, eos_token_id=1, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def make_prompts(tokenizer: PreTrainedTokenizerFast) -> list[Prompt]:
    texts = [
        "Make 24 from 3 7 12 . <think>",
        "Make 5 from 1 4 . <think>",
        "Make 9 from 9 . <think> 9 =",
    ]
    return [Prompt(text, "<think>", tuple(tokenizer.encode(text))) for text in texts]


def scored(
    model: PreTrainedModel, prompt: Prompt, completion: Completion, t: float
) -> torch.Tensor:
    """Log-probabilities of a completion from one plain forward over its own unpadded text."""
    ids = torch.tensor([prompt.token_ids + completion.token_ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=ids).logits[0].float() / t, dim=-1)
    first = len(prompt.token_ids)
    return logprobs[first - 1 : -1].gather(1, ids[0, first:, None]).squeeze(1)


PATHS = ["packed", "in-place", "step", "torch", "fixed-shapes", "model"]


def engine_of(
    path: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: Any
) -> NativeEngine:
    """The engine of one of PATHS, see `on_path`."""
    blocks = None if path == "model" else blocks_of(model)
    if path in ("packed", "in-place", "step") and blocks is not None:
        assert CPUDecoder.of(blocks, 8) is not None
    decoding = Choice("off", "a test") if path == "torch" else None
    return NativeEngine(model, tokenizer, blocks, decoding=decoding, **options)


@pytest.fixture
def on_path(path: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """In C with packed weights, with weights in place, without bursts; in PyTorch, there as on a
    GPU; or through the model's own forward."""
    if path in ("packed", "in-place", "step") and not calls.usable():
        pytest.skip("no compiled kernels here")
    if path == "in-place":
        monkeypatch.setattr(Widths, "packs", False)
    elif path == "step":
        monkeypatch.setattr(CPUDecoder, "burst_tokens", 0)
    elif path == "fixed-shapes":
        # What runs on a GPU, without its graphs.
        monkeypatch.setattr(
            NativeEngine,
            "_new_decoder",
            lambda self, rows, longest: (
                BlocksDecoder(self._blocks, rows, longest, fixed_shapes=True)
                if self._blocks
                else HFDecoder(self._model)
            ),
        )
    return path


FUSED = ["llama", "llama-bias", "qwen2", "qwen3", "mistral"]


@pytest.mark.parametrize("kind", FUSED)
def test_llama_like_models_take_the_fused_path(
    kind: str, random_model: Callable[..., PreTrainedModel]
) -> None:
    assert supports(build(kind, random_model))


def test_what_the_fused_path_does_not_compute_it_refuses(
    random_model: Callable[..., PreTrainedModel],
) -> None:
    assert not supports(build("gpt2", random_model))
    window = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))
    assert not supports(window)
    scaled = random_model(
        hidden_size=64,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0},
    )
    assert not supports(scaled)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [*FUSED, "gpt2"])
def test_sampled_logprobs_are_the_models(
    kind: str,
    on_path: str,
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = build(kind, random_model)
    engine = engine_of(on_path, model, tokenizer)
    if kind == "gpt2" and on_path == "fixed-shapes":
        pytest.skip("gpt2 has no fused blocks")
    prompts = make_prompts(tokenizer)
    settings = SamplingSettings(70, temperature=0.8)
    groups = engine.generate(prompts, 12, settings, seed=3)
    lengths = set()
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            lengths.add(len(completion.token_ids))
            expected = scored(model, prompt, completion, 0.8)
            assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-4)
    # Rows must have left at different times, or leaving was not tested.
    assert len(lengths) > 2


@pytest.mark.parametrize("path", PATHS)
def test_a_completion_does_not_depend_on_its_batch(
    on_path: str,
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = random_model(hidden_size=64)
    prompts, settings = make_prompts(tokenizer), SamplingSettings(40)
    whole = engine_of(on_path, model, tokenizer)
    waves = engine_of(on_path, model, tokenizer, max_rows=4)
    together = whole.generate(prompts, 4, settings, seed=9)
    apart = waves.generate(prompts, 4, settings, seed=9)
    assert ids(together) == ids(apart)
    assert ids(whole.generate(prompts[:1], 4, settings, seed=9)) == ids(together[:1])


@pytest.mark.parametrize("path", PATHS[:5])
def test_all_paths_write_the_same(
    on_path: str,
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model, prompts = random_model(hidden_size=64), make_prompts(tokenizer)
    settings = SamplingSettings(40)
    one = engine_of(on_path, model, tokenizer).generate(prompts, 4, settings, seed=2)
    plain = NativeEngine(model, tokenizer).generate(prompts, 4, settings, seed=2)
    assert ids(one) == ids(plain)


@pytest.mark.parametrize("path", PATHS)
def test_waiting_prompts_enter_as_rows_leave(
    on_path: str,
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So hot that some rows end early.
    model, settings = random_model(hidden_size=64), SamplingSettings(150, temperature=3.0)
    # Prompts of several cache blocks, some exactly full, and of very different lengths.
    lengths = [5, 64, 130, 1, 63, 65, 128, 20]
    prompts = [Prompt("", "", tuple(range(20, 20 + n % 90)) * 2 + (7,)) for n in lengths]
    prompts[1] = Prompt("", "", tuple(range(20, 84)))
    whole = engine_of(on_path, model, tokenizer).generate(prompts, 3, settings, seed=4)
    live: list[int] = []
    admit = _Rollout._admit

    def spy(self: _Rollout) -> None:
        before, rows = self._entered, int((self._lengths_B[: 3 * self._entered] == 0).sum())
        admit(self)
        if self._entered > before:
            live.append(rows)

    monkeypatch.setattr(_Rollout, "_admit", spy)
    few = engine_of(on_path, model, tokenizer, max_rows=9)
    assert ids(few.generate(prompts, 3, settings, seed=4)) == ids(whole)
    # Some prompts entered beside live rows.
    assert len(live) > 2
    assert any(live)


def test_the_draw_over_a_large_vocabulary_follows_the_weights() -> None:
    weights = torch.zeros(1, 40_000)
    weights[0, [3, 17_000, 39_999]] = torch.tensor([0.2, 0.5, 0.3])
    points = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    drawn = _draw(weights.expand(1000, -1), points)
    assert drawn.tolist() == [3] * 200 + [17_000] * 500 + [39_999] * 300


def test_scarce_memory_means_fewer_rows_and_the_same_texts(
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, prompts, settings = (
        random_model(hidden_size=64),
        make_prompts(tokenizer),
        SamplingSettings(20),
    )
    whole = NativeEngine(model, tokenizer).generate(prompts, 4, settings, seed=5)
    step, most = HFDecoder.step, 5

    def scarce(self: HFDecoder, tokens_R: torch.Tensor) -> torch.Tensor:
        if len(tokens_R) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, tokens_R)

    monkeypatch.setattr(HFDecoder, "step", scarce)
    assert ids(NativeEngine(model, tokenizer).generate(prompts, 4, settings, seed=5)) == ids(whole)
    most = 0
    with pytest.raises(RunFailure, match="out of memory in the rollout"):
        NativeEngine(model, tokenizer).generate(prompts, 4, settings, seed=5)


def test_rollouts_in_another_type_leave_the_weights_alone(
    random_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    model, prompts, settings = (
        random_model(hidden_size=64),
        make_prompts(tokenizer),
        SamplingSettings(20),
    )
    before = [p.clone() for p in model.parameters()]
    engine = NativeEngine(model, tokenizer, blocks_of(model), dtype=torch.bfloat16)
    (completion,) = engine.generate(prompts[:1], 1, settings, seed=5)[0]
    expected = scored(model, prompts[0], completion, 1.0)
    gap = (torch.tensor(completion.logprobs) - expected).abs().max()
    assert 1e-4 < gap < 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_rollouts_under_autocast_have_the_trainers_log_probabilities(
    fused: bool,
    device: str,
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """With all weights in bfloat16 they are ten times as far apart."""
    model = random_model(hidden_size=64, tie_word_embeddings=True).to(device)
    blocks, prompts = blocks_of(model) if fused else None, make_prompts(tokenizer)
    engine = NativeEngine(model, tokenizer, blocks, dtype=torch.bfloat16)
    groups = engine.generate(prompts, 4, SamplingSettings(20), seed=5)
    completions = [
        (prompt, c) for prompt, group in zip(prompts, groups, strict=True) for c in group
    ]
    rows = [
        Row(index, prompt.token_ids, c.token_ids) for index, (prompt, c) in enumerate(completions)
    ]
    (batch,) = micro_batches(rows, 10_000, model.device)
    trainer = LogprobModel(model, blocks, autocast=torch.bfloat16).logprobs(batch, 1.0)
    sampled = [completions[row.index][1].logprobs for row in batch.rows]
    gap = (trainer.cpu() - torch.tensor(sum(sampled, ()))).abs().mean()
    assert gap < 1e-2, gap


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")
def test_graphs_on_a_gpu_write_what_the_model_says(
    random_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    model, prompts = random_model(hidden_size=64).to("cuda"), make_prompts(tokenizer)
    engine = NativeEngine(model, tokenizer, blocks_of(model), max_rows=8)
    settings = SamplingSettings(300, temperature=0.9)
    for prompt, group in zip(prompts, engine.generate(prompts, 4, settings, seed=2), strict=True):
        for completion in group:
            expected = scored(model.to("cpu"), prompt, completion, 0.9)
            model.to("cuda")
            assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-2)


def test_the_kernels_serve_only_if_right_and_not_slower(
    random_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not calls.usable():
        pytest.skip("no compiled kernels here")
    blocks = blocks_of(random_model(hidden_size=64))
    assert blocks is not None
    assert choose(blocks).path == kernels().path
    step = CPUDecoder.step

    def wrong(self: CPUDecoder, tokens_R: torch.Tensor) -> torch.Tensor:
        return step(self, tokens_R) * 1.01

    def slow(self: CPUDecoder, tokens_R: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return step(self, tokens_R)

    monkeypatch.delenv("AHA_KERNELS", raising=False)
    kernels.cache_clear()
    monkeypatch.setattr(CPUDecoder, "step", slow)
    assert choose(blocks).path == "off"
    assert "of PyTorch's speed" in choose(blocks).why
    monkeypatch.setattr(CPUDecoder, "step", wrong)
    assert choose(blocks).path == "off"
    assert "differ from PyTorch" in choose(blocks).why
    assert choose(blocks, kernels().path) == Choice(kernels().path, "as the run began")
    assert choose(blocks, "off").path == "off"
    kernels.cache_clear()


def test_models_that_the_kernels_do_not_know_are_decoded_by_pytorch(
    random_model: Callable[..., PreTrainedModel],
) -> None:
    blocks = blocks_of(random_model(hidden_size=64, head_dim=24))
    assert blocks is not None
    assert CPUDecoder.of(blocks, 8) is None
    assert choose(blocks).path == "off"


def test_groups_differ_and_seeds_differ(
    random_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    engine, prompts = NativeEngine(random_model(hidden_size=64), tokenizer), make_prompts(tokenizer)
    one = engine.generate(prompts, 4, SamplingSettings(12), seed=1)
    two = engine.generate(prompts, 4, SamplingSettings(12), seed=2)
    assert len({c.token_ids for c in one[0]}) > 1
    assert ids(one) != ids(two)


def test_the_limit_truncates_and_the_end_token_stops(
    random_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    model, prompts = random_model(hidden_size=64), make_prompts(tokenizer)
    engine = NativeEngine(model, tokenizer)
    completions = [c for g in engine.generate(prompts, 8, SamplingSettings(60), 0) for c in g]
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        assert 1 not in completion.token_ids[:-1]
        if completion.truncated:
            assert len(completion.token_ids) == 60
        else:
            assert completion.token_ids[-1] == 1
            assert "<eos>" not in completion.text


def test_rollouts_see_new_weights_at_once(
    random_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    model, prompts = random_model(hidden_size=64), make_prompts(tokenizer)
    engine, settings = NativeEngine(model, tokenizer), SamplingSettings(5, temperature=0.0)
    with torch.no_grad():
        model.lm_head.weight[100] = 50 * model.lm_head.weight.abs().max()
        model.model.norm.weight.fill_(0.0)
        model.lm_head.weight.zero_()
    (completion,) = engine.generate(prompts[:1], 1, settings, seed=0)[0]
    # All logits are equal now, and the first index wins.
    assert set(completion.token_ids) == {0}


def ids(groups: list[tuple[Completion, ...]]) -> list[list[tuple[int, ...]]]:
    return [[c.token_ids for c in group] for group in groups]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_ran_out_of_memory_is_gone_before_less_is_tried(
    streamed: bool,
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoders: list[weakref.ref[HFDecoder]] = []

    class Scarce(HFDecoder):
        def __init__(self, model: PreTrainedModel) -> None:
            assert [decoder() for decoder in decoders] == [None] * len(decoders)
            super().__init__(model)
            decoders.append(weakref.ref(self))

        def step(self, tokens_R: torch.Tensor) -> torch.Tensor:
            if len(decoders) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().step(tokens_R)

    monkeypatch.setattr(NativeEngine, "_new_decoder", lambda self, *_: Scarce(self._model))
    engine = NativeEngine(random_model(hidden_size=64), tokenizer)
    write = engine.stream if streamed else engine.generate
    assert list(write(make_prompts(tokenizer), 4, SamplingSettings(5), seed=5))
    assert len(decoders) == 2
