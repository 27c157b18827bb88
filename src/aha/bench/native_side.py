"""aha's side: a whole step as `train/loop.py` does it, and rollouts alone beside `generate`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from aha.bench.workload import Spec, StepTimes, build, fill_optimizer
from aha.grpo.logprobs import LogprobModel
from aha.grpo.update import update
from aha.model.free_memory import keep_freed_memory
from aha.model.llama import blocks_of
from aha.observe.record import peak_memory_gb
from aha.rewards.score import rewards_of
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.tasks.prompts import ask
from aha.train.loop import score_groups, with_advantages
from aha.train.memory import tokens_that_fit
from aha.train.optimizer import build_optimizer
from aha.train.state import sampling_settings, update_settings
from aha.types import Group


class NativeSide:
    """Everything is built once; `step` is a training step."""

    def __init__(
        self, spec: Spec, device: str = "cpu", autocast: torch.dtype | None = None
    ) -> None:
        keep_freed_memory()
        self._spec, self._recipe = spec, spec.recipe()
        self.model, self.tokenizer = build(spec, device)
        self.blocks = blocks_of(self.model)
        self.engine = NativeEngine(self.model, self.tokenizer, self.blocks, dtype=autocast)
        self._policy = LogprobModel(self.model, self.blocks, spec.checkpointing, autocast)
        self._optimizer = build_optimizer(self.model, self._recipe.optimizer)
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        fill_optimizer(self._optimizer)
        self._rewards = rewards_of(self._recipe)
        self._problems = spec.problems()
        self.prompts = ask(self._problems, self._recipe, self.tokenizer)
        if spec.prompt is not None:
            self.prompts = tuple(
                replace(each, token_ids=(each.token_ids * spec.prompt)[: spec.prompt])
                for each in self.prompts
            )
        self._budget = tokens_that_fit(
            self.model, self.blocks is not None, spec.checkpointing, self._recipe.optimizer.state
        )

    @property
    def settings(self) -> SamplingSettings:
        return replace(sampling_settings(self._recipe), ignore_end=self._spec.is_shape)

    def step(self, number: int) -> StepTimes:
        """Rollout, reward and update, timed; `number` is the seed."""
        started = time.perf_counter()
        completions = self.engine.generate(
            self.prompts, self._spec.generations, self.settings, seed=number
        )
        rolled_out = time.perf_counter()
        groups = [
            Group(problem, prompt, group)
            for problem, prompt, group in zip(
                self._problems, self.prompts, completions, strict=True
            )
        ]
        if self._spec.is_shape:
            signs = tuple(1.0 - 2.0 * (g % 2) for g in range(self._spec.generations))
            groups = [replace(group, advantages=signs) for group in groups]
        else:
            groups = with_advantages(score_groups(self._rewards, groups), self._recipe)
        scored = time.perf_counter()
        settings = update_settings(self._recipe, self._budget)
        stats = update(self._policy, None, self._optimizer, groups, settings)
        ended = time.perf_counter()
        return StepTimes(
            step_s=ended - started,
            rollout_s=rolled_out - started,
            train_s=ended - scored,
            tokens=sum(len(c.token_ids) for group in completions for c in group),
            peak_gb=peak_memory_gb(),
            logprob_gap=stats.logprob_gap,
            tokens_per_microbatch=stats.tokens_per_microbatch,
        )


@dataclass(frozen=True)
class Ratio:
    """Paired ratios: the median, and the lowest and highest of the runs."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
        values = [a / b for a, b in zip(numerators, denominators, strict=True)]
        return Ratio(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.low:.1f} to {self.high:.1f})"


def rollout_speeds(spec: Spec, runs: int) -> tuple[list[float], list[float]]:
    """aha's and `generate`'s useful tokens a second (up to and with the end token) in each run.

    The spec's rollout alone, in one process and in turn.
    """
    side = NativeSide(spec)
    tokenizer: Any = side.tokenizer
    model: Any = side.model
    texts = [prompt.text for prompt in side.prompts]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")

    def native(seed: int) -> int:
        groups = side.engine.generate(side.prompts, spec.generations, side.settings, seed)
        return sum(len(c.token_ids) for group in groups for c in group)

    def generate(seed: int) -> int:
        torch.manual_seed(seed)
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

    speeds: tuple[list[float], list[float]] = ([], [])
    for seed in range(runs + 1):
        for write, found in zip((native, generate), speeds, strict=True):
            started = time.perf_counter()
            tokens = write(seed)
            if seed:  # the first run warms up
                found.append(tokens / (time.perf_counter() - started))
    return speeds


def seconds_per_token(model: str, rows: int, threads: int, tokens: int = 32) -> float:
    """Seconds of one decoding step of `rows` rows of one prompt, prefill left out."""
    side = NativeSide(Spec("native", model, 1, max(rows, 2), tokens, threads))

    def seconds(limit: int) -> float:
        """The best of three rollouts of `limit` tokens."""
        settings, times = SamplingSettings(limit, ignore_end=True), []
        for _ in range(3):
            started = time.perf_counter()
            side.engine.generate(side.prompts, rows, settings, 0)
            times.append(time.perf_counter() - started)
        return min(times)

    one = seconds(1)
    return (seconds(1 + tokens) - one) / tokens
