"""Everything that training needs, built once from a recipe."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aha.grpo.logprobs import LogprobModel, Reference, WithoutAdapters
from aha.grpo.losses import LossSettings
from aha.grpo.update import UpdateSettings
from aha.model.llama import LlamaBlocks, blocks_of
from aha.model.load import (
    choose_autocast,
    load_model,
    load_policy,
    load_tokenizer,
    require_fast_bfloat16,
    require_positions,
)
from aha.model.lora import folded
from aha.recipe import Recipe
from aha.rewards import CustomReward
from aha.rewards.score import WeightedReward, rewards_of, try_rewards
from aha.rollout.base import SamplingSettings
from aha.rollout.cpu import choose
from aha.rollout.engine import NativeEngine
from aha.tasks import load_problems
from aha.tasks.prompts import ask
from aha.train.checkpoint import restore
from aha.train.curriculum import Curriculum
from aha.train.length import LengthState
from aha.train.memory import tokens_that_fit
from aha.train.optimizer import build_optimizer
from aha.train.schedule import EntropyBonus, ProblemStream
from aha.types import Problem


@dataclass
class TrainingData:
    """The parts of a run that need no weights; `longest_prompt` is in tokens."""

    recipe: Recipe
    rewards: tuple[WeightedReward, ...]
    problems: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    stream: ProblemStream
    tokenizer: PreTrainedTokenizerBase
    longest_prompt: int
    notes: tuple[str, ...]


@dataclass
class TrainingState(TrainingData):
    """Everything a step needs; `prepare` builds it once from a recipe.

    `tokens_per_microbatch` shrinks when memory runs out. `bonus` is for entropy, `length` the
    control of length. `done`: the last step that is done.
    """

    model: PreTrainedModel
    policy: LogprobModel
    reference: Reference | None
    engine: NativeEngine
    optimizer: torch.optim.Optimizer
    tokens_per_microbatch: int
    bonus: EntropyBonus
    length: LengthState
    done: int

    @property
    def moving_reference(self) -> PreTrainedModel | None:
        """The KL term's model, if the recipe resets it."""
        resets = self.recipe.grpo.reference_reset_steps
        return self.reference.model if resets and isinstance(self.reference, LogprobModel) else None

    @torch.no_grad()
    def reset_reference(self, step: int) -> None:
        """Make the policy the reference, if that is due after a step (ProRL, arXiv:2505.24864)."""
        reference = self.moving_reference
        if reference is not None and step % self.recipe.grpo.reference_reset_steps == 0:
            for kept, trained in zip(reference.parameters(), self.model.parameters(), strict=True):
                kept.copy_(trained)


def load_training_data(
    recipe: Recipe,
    resume_from: Path | None = None,
    every_prompt: bool = False,
    functions: Mapping[str, CustomReward] = MappingProxyType({}),
) -> TrainingData:
    """Load rewards, problems and tokenizer, and try the rewards once.

    Prompts are made step by step. Those of the first step and of the evaluation are also made here,
    so that a prompt that does not fit is refused before the model is loaded; with `every_prompt`,
    those of all training problems that the run draws. `functions`: as for `rewards_of`.
    Errors: UserError.
    """
    require_fast_bfloat16(recipe.model)
    rewards = rewards_of(recipe, functions)
    found = load_problems(recipe.task, "train", recipe.task.num_train)
    held_out: tuple[Problem, ...] = ()
    if recipe.evaluation.n:
        held_out = load_problems(recipe.task, "test", recipe.evaluation.n).problems
    tokenizer: Any = load_tokenizer(recipe.model, str(resume_from) if resume_from else None)
    grpo = recipe.grpo
    rounds = grpo.max_sampling_rounds if grpo.dynamic_sampling else 1
    drawn = found.problems, grpo.prompts_per_step, recipe.train.seed
    if recipe.curriculum.on:
        stream: ProblemStream = Curriculum(*drawn, recipe.curriculum)
    else:
        stream = ProblemStream(*drawn, rounds, recipe.task.easy_steps)
    asked = [found.problems[0], *stream.at(1), *held_out]
    if every_prompt:
        steps = range(1, recipe.train.max_steps + 1)
        draws = len(steps) * rounds * grpo.prompts_per_step
        asked = list(found.problems)
        if draws < len(asked):
            asked = [p for step in steps for r in range(rounds) for p in stream.at(step, r)]
    prompts = ask(asked, recipe, tokenizer)
    try_rewards(rewards, asked[0], prompts[0], tokenizer.encode)
    return TrainingData(
        recipe=recipe,
        rewards=rewards,
        problems=found.problems,
        held_out=held_out,
        stream=stream,
        tokenizer=tokenizer,
        longest_prompt=max(len(prompt.token_ids) for prompt in prompts),
        notes=tuple(filter(None, [found.losses()])),
    )


def prepare(
    recipe: Recipe,
    resume_from: Path | None,
    decoded: str = "",
    functions: Mapping[str, CustomReward] = MappingProxyType({}),
) -> TrainingState:
    """Load the problems, the policy, and the reference if there is a KL term.

    `resume_from` is a checkpoint. `decoded` is the kernel path of the run to resume; it is kept if
    this machine has it. `functions`: as for `rewards_of`. Errors: UserError for settings or data
    that cannot be trained on.
    """
    data = load_training_data(recipe, resume_from, functions=functions)
    grpo, tokenizer = recipe.grpo, data.tokenizer
    # The global streams are only for rewards of the user's own. They are set after the trial of
    # the rewards, so that a run's draws do not depend on it.
    torch.manual_seed(recipe.train.seed)
    random.seed(recipe.train.seed)
    np.random.seed(recipe.train.seed)

    model = load_policy(recipe, resume_from)
    require_positions(model.config, data.longest_prompt, recipe.generation.max_completion_length)
    start: PreTrainedModel | None = None
    if grpo.beta != 0.0 and recipe.lora is None:
        start = load_model(recipe.model) if resume_from else copy.deepcopy(model)
        start.eval().requires_grad_(False)
    blocks, checkpointing = blocks_of(model), recipe.train.gradient_checkpointing
    engine = build_engine(recipe, model, tokenizer, blocks, decoded)
    if blocks is None and checkpointing:
        model.gradient_checkpointing_enable()
    autocast = choose_autocast(recipe.model, frozen=recipe.lora is not None)
    policy = LogprobModel(model, blocks, checkpointing, autocast)
    reference: Reference | None = None
    if start is not None:
        reference = LogprobModel(start, blocks_of(start), autocast=autocast)
    elif grpo.beta != 0.0:
        reference = WithoutAdapters(policy)
    optimizer = build_optimizer(model, recipe.optimizer)
    fits = recipe.train.tokens_per_microbatch or tokens_that_fit(
        model, blocks is not None, checkpointing, recipe.optimizer.state
    )
    moving = start if grpo.reference_reset_steps else None
    decoding = engine.decoding
    if decoding is not None and decoding.path == "off":
        why = f"compiled kernels: off ({decoding.why}); rollouts are slower without them."
        data.notes = (*data.notes, why)
    return TrainingState(
        **vars(data),
        model=model,
        policy=policy,
        reference=reference,
        engine=engine,
        optimizer=optimizer,
        tokens_per_microbatch=fits,
        bonus=EntropyBonus(grpo.entropy_coef),
        length=LengthState.begin(recipe),
        done=restore(resume_from, optimizer, moving) if resume_from else 0,
    )


def build_engine(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    blocks: LlamaBlocks | None,
    decoded: str = "",
) -> NativeEngine:
    """The engine that generates completions, in training and in evaluations.

    `decoded` is the kernel path of the run to resume, or empty.
    """
    # On a CPU a cast of the model costs more than it saves, and changes the samples.
    dtype = None
    if model.device.type == "cuda":
        dtype = choose_autocast(recipe.model, frozen=recipe.lora is not None)
    decoding = None
    if blocks is not None and model.device.type == "cpu":
        # For each rollout the adapters are folded into a copy, which decodes as a plain model.
        plain = folded(model)
        decoding = choose(blocks if plain is model else LlamaBlocks(plain), decoded)
    return NativeEngine(model, tokenizer, blocks, recipe.generation.max_rows, dtype, decoding)


def sampling_settings(recipe: Recipe) -> SamplingSettings:
    """The recipe's settings for rollouts."""
    return SamplingSettings(**recipe.generation.model_dump(exclude={"num_generations", "max_rows"}))


def update_settings(
    recipe: Recipe, tokens_per_microbatch: int, entropy_coef: float = 0.0
) -> UpdateSettings:
    """The recipe's settings for updates; `entropy_coef` is the bonus that applies now."""
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
            grpo.kl_estimator,
            grpo.importance_sampling_level == "sequence",
        ),
        temperature=recipe.generation.temperature,
        num_iterations=grpo.num_iterations,
        max_grad_norm=recipe.optimizer.max_grad_norm,
        tokens_per_microbatch=tokens_per_microbatch,
        mask_truncated=grpo.mask_truncated_completions,
        entropy_coef=entropy_coef,
        every_row=grpo.entropy_coef > 0 or grpo.use_adaptive_entropy,
    )
