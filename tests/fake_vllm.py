"""A stand-in for the parts of vLLM that `aha.rollout.vllm` uses, strict about how it is called.

Parameters, their ranges and the fields of the results are those of vllm/entrypoints/llm.py,
sampling_params.py, outputs.py and logprobs.py in vLLM 0.28.0 and 0.31.0, which agree in them. It
writes with the native engine, so that what it is told is what it does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.types import Prompt


@dataclass
class SamplingParams:
    """The fields that exist, with their defaults; checked as vLLM checks them."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        assert isinstance(self.n, int)
        assert self.n >= 1
        assert 0 <= self.temperature <= 2
        assert 0 < self.top_p <= 1
        assert isinstance(self.top_k, int)
        assert self.top_k >= -1
        assert 0 <= self.min_p <= 1
        assert self.max_tokens is None or self.max_tokens >= 1
        assert self.logprobs is None or self.logprobs >= -1
        assert self.stop is None or isinstance(self.stop, str | list)
        assert not any(one == "" for one in self.stop or [])
        # The engine's messages hold 64-bit integers.
        assert self.seed is None or -(2**63) <= self.seed < 2**63
        if self.temperature < 1e-5 and self.n > 1:
            raise ValueError(f"n must be 1 when using greedy sampling, got {self.n}.")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    outputs: list[CompletionOutput]
    finished: bool = True


@dataclass
class LLM:
    """`LLM(model, **options)`; `made` keeps every one for tests to look at."""

    model: str
    tokenizer: str | None = None
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    quantization: str | None = None
    seed: int = 0
    gpu_memory_utilization: float = 0.92
    enforce_eager: bool = False
    logprobs_mode: str = "raw_logprobs"
    max_model_len: int | None = None
    asked: list[SamplingParams] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        assert self.dtype in ("auto", "half", "float16", "bfloat16", "float", "float32")
        assert self.logprobs_mode in (
            "raw_logits", "raw_logprobs", "processed_logits", "processed_logprobs",
        )  # fmt: skip
        self._tokenizer = AutoTokenizer.from_pretrained(self.tokenizer or self.model)
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=self.dtype)
        self._engine = NativeEngine(model.eval(), self._tokenizer)

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        assert isinstance(sampling_params, list)
        assert len(sampling_params) == len(prompts)
        self.asked += sampling_params
        return [
            self._answer(str(index), prompt["prompt_token_ids"], params)
            for index, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True))
        ]

    def _answer(self, name: str, ids: list[int], params: SamplingParams) -> RequestOutput:
        assert isinstance(ids, list)
        assert params.max_tokens is not None
        assert params.seed is not None
        settings = SamplingSettings(
            params.max_tokens, params.temperature, params.top_p, params.top_k, params.min_p,
            tuple(params.stop or ()), params.ignore_eos,
        )  # fmt: skip
        (group,) = self._engine.generate(
            [Prompt("", "", tuple(ids))], params.n, settings, params.seed
        )
        outputs = [
            CompletionOutput(
                index,
                "not for use: it goes on from the prompt",
                list(one.token_ids),
                sum(one.logprobs),
                [{t: Logprob(p, 1)} for t, p in zip(one.token_ids, one.logprobs, strict=True)]
                if params.logprobs is not None
                else None,
                one.finish_reason,
            )
            for index, one in enumerate(group)
        ]
        return RequestOutput(name, None, ids, outputs)


def install(monkeypatch: pytest.MonkeyPatch) -> list[LLM]:
    """Put it in vLLM's place; the engines that are made from now on."""
    made: list[LLM] = []

    def make(**options: Any) -> LLM:
        made.append(LLM(**options))
        return made[-1]

    module = ModuleType("vllm")
    module.LLM = make  # type: ignore[attr-defined]
    module.SamplingParams = SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made
