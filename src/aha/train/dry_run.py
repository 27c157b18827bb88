"""What a run would do, without doing it."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from aha.recipe import Recipe, dump_recipe
from aha.rewards.score import rewards_of
from aha.tasks.ask import ask
from aha.tasks.load import load_problems
from aha.train.policy import choose_device, choose_dtype, find_model, load_tokenizer
from aha.types import Prompt


def describe(recipe: Recipe) -> str:
    """The resolved recipe, the first prompt as the model sees it, and what the run will need."""
    rewards_of(recipe)
    tokenizer: Any = load_tokenizer(recipe.model)
    problem = load_problems(recipe.task, "train", 1).problems[0]
    (prompt,) = ask([problem], recipe, tokenizer)
    return "\n".join(
        [
            dump_recipe(recipe),
            f"first problem: {dict(problem.columns)}",
            f"first prompt, {len(prompt.token_ids)} tokens, special tokens included:",
            tokenizer.decode(list(prompt.token_ids)),
            "",
            _needs(recipe, prompt),
        ]
    )


def _needs(recipe: Recipe, prompt: Prompt) -> str:
    device = choose_device(recipe.model)
    dtype = choose_dtype(recipe.model)
    parameters = _parameter_count(recipe)
    copies = 2 if recipe.grpo.beta else 1
    # Weights and reference, gradient, AdamW's two moments: all in the model's type.
    gigabytes = parameters * dtype.itemsize * (copies + 3) / 2**30
    rows = recipe.grpo.prompts_per_step * recipe.generation.num_generations
    tokens = rows * (recipe.generation.max_completion_length + len(prompt.token_ids))
    return (
        f"{parameters / 1e6:,.2f} M parameters in {str(dtype).removeprefix('torch.')} on "
        f"{device}: {gigabytes:.2f} GiB for weights, gradients and optimizer, besides "
        f"activations and KV cache.\nEach of {recipe.train.max_steps} steps writes {rows} "
        f"completions, at most {tokens:,} tokens with their prompts."
    )


def _parameter_count(recipe: Recipe) -> int:
    import torch

    config = AutoConfig.from_pretrained(
        find_model(recipe.model.name), trust_remote_code=recipe.model.trust_remote_code
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=recipe.model.trust_remote_code
        )
    return sum(parameter.numel() for parameter in model.parameters())
