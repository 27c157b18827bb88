"""What a run would do, without doing it."""

from __future__ import annotations

from typing import Any

from aha.recipe import Recipe, dump_recipe
from aha.rewards.score import rewards_of
from aha.rollout.positions import require_positions
from aha.tasks.ask import ask
from aha.tasks.load import load_problems
from aha.train.memory import Counts, adapter_parameters, counts_of, weights_bytes
from aha.train.policy import choose_device, choose_dtype, load_config, load_tokenizer
from aha.types import Prompt


def describe(recipe: Recipe) -> str:
    """The resolved recipe, the first prompt as the model sees it, and what the run will need."""
    rewards_of(recipe)
    tokenizer: Any = load_tokenizer(recipe.model)
    problem = load_problems(recipe.task, "train", 1).problems[0]
    (prompt,) = ask([problem], recipe, tokenizer)
    config, trusted = load_config(recipe.model), recipe.model.trust_remote_code
    require_positions(config, len(prompt.token_ids), recipe.generation.max_completion_length)
    return "\n".join(
        [
            dump_recipe(recipe),
            f"first problem: {dict(problem.columns)}",
            f"first prompt, {len(prompt.token_ids)} tokens, special tokens included:",
            tokenizer.decode(list(prompt.token_ids)),
            "",
            _needs(recipe, prompt, counts_of(config, trusted)),
        ]
    )


def _needs(recipe: Recipe, prompt: Prompt, counts: Counts) -> str:
    device = choose_device(recipe.model)
    dtype = choose_dtype(recipe.model, frozen=recipe.lora is not None)
    adapters = adapter_parameters(counts, recipe.lora)
    weights = weights_bytes(counts, dtype.itemsize, recipe.model.quantization)
    # What is trained has a gradient and AdamW's two moments; adapters are in float32.
    copies = weights if recipe.grpo.beta and recipe.lora is None else 0
    trained = weights if recipe.lora is None else 4 * adapters
    gigabytes = (weights + copies + 3 * trained + 4 * adapters) / 2**30
    rows = recipe.grpo.prompts_per_step * recipe.generation.num_generations
    tokens = rows * (recipe.generation.max_completion_length + len(prompt.token_ids))
    beside = f", {adapters / 1e6:,.2f} M of adapters beside them" if recipe.lora else ""
    return (
        f"{counts.parameters / 1e6:,.2f} M parameters in {str(dtype).removeprefix('torch.')} on "
        f"{device}{beside}: {gigabytes:.2f} GiB for weights, gradients and optimizer, besides "
        f"activations and KV cache (aha doctor predicts the peak).\nEach of "
        f"{recipe.train.max_steps} steps writes {rows} completions, at most {tokens:,} tokens "
        "with their prompts."
    )
