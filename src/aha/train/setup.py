"""Everything a run needs, built once from its recipe."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aha.grpo.logprobs import LogprobModel, Reference, WithoutAdapters
from aha.grpo.losses import LossSettings
from aha.grpo.update import UpdateSettings
from aha.model.adapters import can_fold_in, folded_copy, has_adapters
from aha.model.llama import LlamaBlocks, blocks_of
from aha.model.load import (
    choose_autocast,
    load_model,
    load_policy,
    load_tokenizer,
    require_fast_bfloat16,
)
from aha.recipe import Recipe
from aha.rewards.score import WeightedReward, rewards_of, try_rewards
from aha.rollout.base import SamplingSettings
from aha.rollout.cpu import Choice, choose
from aha.rollout.engine import NativeEngine
from aha.rollout.positions import require_positions
from aha.tasks import load_problems
from aha.tasks.prompts import ask
from aha.train.checkpoint import Progress, restore
from aha.train.data import ProblemStream
from aha.train.memory import tokens_that_fit
from aha.types import Problem


@dataclass
class Budget:
    """Tokens of a micro-batch; less after memory ran out."""

    tokens: int


@dataclass(frozen=True)
class Trainer:
    """Everything a step needs; built once by `build_trainer`."""

    recipe: Recipe
    model: PreTrainedModel
    policy: LogprobModel
    reference: Reference | None
    tokenizer: PreTrainedTokenizerBase
    engine: NativeEngine
    optimizer: torch.optim.Optimizer
    rewards: tuple[WeightedReward, ...]
    stream: ProblemStream
    held_out: tuple[Problem, ...]
    budget: Budget
    progress: Progress
    notes: tuple[str, ...]

    @property
    def first_step(self) -> int:
        """The step to go on with; `progress` is what is done already."""
        return self.progress.step + 1


def build_trainer(recipe: Recipe, resume_from: Path | None, decoded: str = "") -> Trainer:
    """Load the policy, the reference when there is a KL term, and the problems.

    `decoded`: the kernel path that a resumed run decoded on, kept where this machine has it.
    """
    require_fast_bfloat16(recipe.model)
    rewards = rewards_of(recipe)
    problems = load_problems(recipe.task, "train", recipe.task.num_train)
    held_out: tuple[Problem, ...] = ()
    if recipe.evaluation.n:
        held_out = load_problems(recipe.task, "test", recipe.evaluation.n).problems
    source = str(resume_from) if resume_from else None
    tokenizer: Any = load_tokenizer(recipe.model, source)
    stream = _stream(recipe, problems.problems)
    # Prompts are made step by step. Those of the first step and of the evaluation are made here
    # too: a way of asking that does not fit, or a text that is too long, is refused early.
    early = [problems.problems[0], *stream.at(1), *held_out]
    prompts = ask(early, recipe, tokenizer)
    try_rewards(rewards, early[0], prompts[0], tokenizer.encode)
    # After the trial, so that the run's own draws do not depend on it.
    _seed_global_streams(recipe.train.seed)
    model = load_policy(recipe, resume_from)
    longest = max(len(prompt.token_ids) for prompt in prompts)
    require_positions(model.config, longest, recipe.generation.max_completion_length)
    start = _frozen_copy(recipe, model, resumed=resume_from is not None)
    blocks = blocks_of(model)
    engine = build_engine(recipe, model, tokenizer, blocks, decoded)
    policy = _policy(recipe, model, blocks)
    optimizer = build_optimizer(model, recipe)
    progress = restore(resume_from, optimizer) if resume_from else Progress(0, {})
    return Trainer(
        recipe=recipe,
        model=model,
        policy=policy,
        reference=_reference(recipe, policy, start),
        tokenizer=tokenizer,
        engine=engine,
        optimizer=optimizer,
        rewards=rewards,
        stream=stream,
        held_out=held_out,
        budget=Budget(
            recipe.train.tokens_per_microbatch
            or tokens_that_fit(model, blocks is not None, recipe.train.gradient_checkpointing)
        ),
        progress=progress,
        notes=tuple(filter(None, [problems.losses(), _decoding_note(engine.decoding)])),
    )


def build_engine(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    blocks: LlamaBlocks | None,
    decoded: str = "",
) -> NativeEngine:
    """The engine that writes completions, in training and after it; `decoded` as above."""
    # On a CPU casting a model costs more than it saves, and moves what is drawn.
    dtype = _autocast(recipe) if model.device.type == "cuda" else None
    decoding = None
    if blocks is not None and model.device.type == "cpu":
        # Adapters are folded into a copy for each rollout, which is decoded as a plain model.
        folds = has_adapters(model) and can_fold_in(model)
        decoding = choose(LlamaBlocks(folded_copy(model)) if folds else blocks, decoded)
    return NativeEngine(model, tokenizer, blocks, recipe.generation.max_rows, dtype, decoding)


def _autocast(recipe: Recipe) -> torch.dtype | None:
    return choose_autocast(recipe.model, frozen=recipe.lora is not None)


def _stream(recipe: Recipe, problems: tuple[Problem, ...]) -> ProblemStream:
    grpo = recipe.grpo
    rounds = grpo.max_sampling_rounds if grpo.dynamic_sampling else 1
    return ProblemStream(problems, grpo.prompts_per_step, recipe.train.seed, rounds)


def build_optimizer(model: PreTrainedModel, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW on what is trained, as the recipe says; the learning rate is set at every step."""
    settings = recipe.optimizer
    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _seed_global_streams(seed: int) -> None:
    """For rewards of the user's own; nothing of aha's draws from them."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _decoding_note(decoding: Choice | None) -> str:
    if decoding is None or decoding.path != "off":
        return ""
    return f"compiled kernels: off ({decoding.why}); rollouts take longer without them."


def _policy(recipe: Recipe, model: PreTrainedModel, blocks: LlamaBlocks | None) -> LogprobModel:
    if blocks is None and recipe.train.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    recompute, autocast = recipe.train.gradient_checkpointing, _autocast(recipe)
    return LogprobModel(model, blocks, recompute, autocast)


def _frozen_copy(recipe: Recipe, model: PreTrainedModel, resumed: bool) -> PreTrainedModel | None:
    """The policy as it began, where the objective has a KL term and no adapters tell it apart."""
    if recipe.grpo.beta == 0.0 or recipe.lora is not None:
        return None
    start = load_model(recipe.model) if resumed else copy.deepcopy(model)
    return start.eval().requires_grad_(False)


def _reference(
    recipe: Recipe, policy: LogprobModel, start: PreTrainedModel | None
) -> Reference | None:
    """What the KL term compares with: the policy as it began, frozen."""
    if recipe.grpo.beta == 0.0:
        return None
    if start is None:
        return WithoutAdapters(policy)
    return LogprobModel(start, blocks_of(start), autocast=choose_autocast(recipe.model))


def sampling_settings(recipe: Recipe) -> SamplingSettings:
    generation = recipe.generation
    return SamplingSettings(
        max_completion_length=generation.max_completion_length,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        min_p=generation.min_p,
        stop=generation.stop,
    )


def update_settings(recipe: Recipe, tokens_per_microbatch: int) -> UpdateSettings:
    grpo = recipe.grpo
    high = grpo.epsilon if grpo.epsilon_high is None else grpo.epsilon_high
    return UpdateSettings(
        loss=LossSettings(
            grpo.loss_type,
            grpo.epsilon,
            high,
            grpo.beta,
            recipe.generation.max_completion_length,
            grpo.use_bias_correction_kl,
        ),
        temperature=recipe.generation.temperature,
        num_iterations=grpo.num_iterations,
        max_grad_norm=recipe.optimizer.max_grad_norm,
        tokens_per_microbatch=tokens_per_microbatch,
        mask_truncated=grpo.mask_truncated_completions,
    )
