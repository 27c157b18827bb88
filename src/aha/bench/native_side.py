"""aha's side: rollout, reward and update, as `train/loop.py` does them."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from aha.bench.models import build, fill_optimizer, problems_of, recipe_of
from aha.bench.spec import Spec, StepTimes
from aha.grpo.logprobs import LogprobModel
from aha.grpo.update import update
from aha.model.llama import blocks_of
from aha.observe.record import peak_memory_gb
from aha.rewards.score import rewards_of
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.tasks.prompts import ask
from aha.train.loop import score_groups, with_advantages
from aha.train.memory import keep_freed_memory, tokens_that_fit
from aha.train.setup import build_optimizer, sampling_settings, update_settings
from aha.types import Completion, Group


class NativeSide:
    """Everything built once; `step` is what a training step costs."""

    def __init__(
        self, spec: Spec, device: str = "cpu", autocast: torch.dtype | None = None
    ) -> None:
        keep_freed_memory()
        self._spec, self._recipe = spec, recipe_of(spec)
        self.model, self.tokenizer = build(spec, device)
        self.blocks = blocks_of(self.model)
        self.engine = NativeEngine(self.model, self.tokenizer, self.blocks, dtype=autocast)
        self._policy = LogprobModel(self.model, self.blocks, spec.checkpointing, autocast)
        self._optimizer = build_optimizer(self.model, self._recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = 0.0
        fill_optimizer(self._optimizer)
        self._rewards = rewards_of(self._recipe)
        self._problems = problems_of(spec)
        self.prompts = ask(self._problems, self._recipe, self.tokenizer)
        self._budget = tokens_that_fit(self.model, self.blocks is not None, spec.checkpointing)

    @property
    def settings(self) -> SamplingSettings:
        return replace(sampling_settings(self._recipe), ignore_end=self._spec.is_shape)

    def step(self, number: int) -> StepTimes:
        started = time.perf_counter()
        completions = self.engine.generate(
            self.prompts, self._spec.generations, self.settings, seed=number
        )
        rolled_out = time.perf_counter()
        groups = self._scored(completions)
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

    def _scored(self, completions: list[tuple[Completion, ...]]) -> list[Group]:
        groups = [
            Group(problem, prompt, group)
            for problem, prompt, group in zip(
                self._problems, self.prompts, completions, strict=True
            )
        ]
        if self._spec.is_shape:
            signs = tuple(1.0 - 2.0 * (g % 2) for g in range(self._spec.generations))
            return [replace(group, advantages=signs) for group in groups]
        return with_advantages(score_groups(self._rewards, groups), self._recipe)
