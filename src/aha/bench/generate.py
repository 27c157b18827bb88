"""Rollouts alone: the native engine beside Hugging Face's generate, in one process and in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from aha.bench.native_side import NativeSide
from aha.bench.pair import Ratio
from aha.bench.spec import Spec
from aha.rollout.base import SamplingSettings


@dataclass(frozen=True)
class GenerateComparison:
    """Useful tokens a second (up to and with the end token), medians, and their ratio."""

    tokens_per_s: float
    generate_tokens_per_s: float
    ratio: Ratio


def generate_ratio(spec: Spec, runs: int) -> GenerateComparison:
    """The spec's rollout alone, `runs` times each."""
    side = NativeSide(spec)

    def native(seed: int) -> int:
        groups = side.engine.generate(side.prompts, spec.generations, side.settings, seed)
        return sum(len(c.token_ids) for group in groups for c in group)

    speeds: dict[str, list[float]] = {"native": [], "generate": []}
    for seed in range(runs + 1):
        for name, action in (("native", native), ("generate", lambda s: _generate(side, spec, s))):
            speed = _speed(action, seed)
            if seed:  # the first run warms up
                speeds[name].append(speed)
    return GenerateComparison(
        statistics.median(speeds["native"]),
        statistics.median(speeds["generate"]),
        Ratio.of(speeds["native"], speeds["generate"]),
    )


def seconds_per_token(model: str, rows: int, threads: int, tokens: int = 32) -> float:
    """Seconds of one decoding step of `rows` rows of one prompt, prefill left out."""
    side = NativeSide(Spec("native", model, 1, max(rows, 2), tokens, threads))
    times = []
    for limit in (1, 1 + tokens):
        settings = SamplingSettings(limit, ignore_end=True)
        best = min(
            _seconds(lambda s=settings: side.engine.generate(side.prompts, rows, s, 0))  # type: ignore[misc]
            for _ in range(3)
        )
        times.append(best)
    return (times[1] - times[0]) / tokens


def _generate(side: NativeSide, spec: Spec, seed: int) -> int:
    torch.manual_seed(seed)
    tokenizer: Any = side.tokenizer
    model: Any = side.model
    texts = [prompt.text for prompt in side.prompts]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=spec.limit,
            min_new_tokens=spec.limit if spec.is_shape else None,
            num_return_sequences=spec.generations,
        )
    written = output[:, inputs["input_ids"].shape[1] :]
    ended = written == tokenizer.eos_token_id
    return int(torch.where(ended.any(1), ended.int().argmax(1) + 1, written.shape[1]).sum())


def _speed(action: Callable[[int], int], seed: int) -> float:
    started = time.perf_counter()
    tokens = action(seed)
    return tokens / (time.perf_counter() - started)


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
