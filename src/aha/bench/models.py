"""Models and prompts for both sides: the same weights, the same texts."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config

from aha.bench.spec import SHAPES, Spec
from aha.model.load import load_model, load_tokenizer
from aha.recipe import Recipe, load_recipe
from aha.tasks import load_problems
from aha.tiny.tokenizer import build_tokenizer
from aha.types import Problem


def recipe_of(spec: Spec) -> Recipe:
    """The default recipe with the benchmark's sizes."""
    changes = {
        "model.name": "aha-tiny" if spec.is_shape else spec.model,
        "grpo.prompts_per_step": spec.prompts,
        "generation.num_generations": spec.generations,
        "generation.max_completion_length": spec.limit,
        "train.gradient_checkpointing": spec.checkpointing,
    }
    return load_recipe("countdown-tiny", [f"{key}={value}" for key, value in changes.items()])


def build(
    spec: Spec, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy and its tokenizer; random weights for a shape."""
    if not spec.is_shape:
        section = recipe_of(spec).model
        return load_model(section), load_tokenizer(section)
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPES[spec.model],
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model, tokenizer


def problems_of(spec: Spec) -> tuple[Problem, ...]:
    return load_problems(recipe_of(spec).task, "train", spec.prompts).problems


def fill_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer's state as large as it is from the second step on; rate 0 moves nothing.

    Without it the peak of a first step would lack Adam's two moments.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
