"""Describe a run without starting it. Without a network, describe what can be known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from aha.doctor import hub
from aha.doctor.asking import problems_are_here
from aha.doctor.shapes import shape_of
from aha.model.load import choose_device, choose_dtype, load_config, load_tokenizer
from aha.recipe import Recipe, dump_recipe
from aha.rewards.score import rewards_of, try_rewards
from aha.rollout.positions import require_positions
from aha.tasks import load_problems
from aha.tasks.prompts import ask
from aha.train.memory import Counts, adapter_parameters, counts_of, weights_bytes
from aha.types import Problem, Prompt, Unreachable

T = TypeVar("T")


def describe(recipe: Recipe) -> str:
    """The resolved recipe, the first prompt as the model sees it, and what the run will need.

    A line names each thing that is on the hub and cannot be reached.
    """
    rewards = rewards_of(recipe)
    missing: list[str] = []
    tokenizer: Any = _had(lambda: load_tokenizer(recipe.model), "the first prompt", missing)
    problem = _had(lambda: _first_problem(recipe), "the problems", missing)
    model = _had(lambda: _config_and_counts(recipe), "memory", missing)
    lines, prompt = [dump_recipe(recipe)], None
    if problem is not None:
        lines.append(f"first problem: {dict(problem.columns)}")
    if problem is not None and tokenizer is not None:
        (prompt,) = ask([problem], recipe, tokenizer)
        try_rewards(rewards, problem, prompt, tokenizer.encode)
        if model is not None and model[0] is not None:
            limit = recipe.generation.max_completion_length
            require_positions(model[0], len(prompt.token_ids), limit)
        lines += [
            f"first prompt, {len(prompt.token_ids)} tokens, special tokens included:",
            tokenizer.decode(list(prompt.token_ids)),
            "",
        ]
    if model is not None:
        lines.append(_memory(recipe, model[1]))
    return "\n".join([*lines, _steps(recipe, prompt), *missing])


def _had(load: Callable[[], T], what: str, missing: list[str]) -> T | None:
    """The result of `load`. If it is unreachable: none, and a line in `missing`."""
    try:
        return load()
    except Unreachable as error:
        missing.append(f"not checked: {what}; {error}")
        return None


def _first_problem(recipe: Recipe) -> Problem:
    if not problems_are_here(recipe):
        # The loader would ask again and again for half a minute.
        asked = hub.look(offline=False)
        if asked.fault:
            raise Unreachable(f"{asked.host}, which has them, does not answer: {asked.fault}.")
    return load_problems(recipe.task, "train", 1).problems[0]


def _memory(recipe: Recipe, counts: Counts) -> str:
    device = choose_device(recipe.model)
    dtype = choose_dtype(recipe.model, frozen=recipe.lora is not None)
    adapters = adapter_parameters(counts, recipe.lora)
    weights = weights_bytes(counts, dtype.itemsize, recipe.model.quantization)
    # What is trained has a gradient and AdamW's two moments; adapters are in float32.
    copies = weights if recipe.grpo.beta and recipe.lora is None else 0
    trained = weights if recipe.lora is None else 4 * adapters
    gigabytes = (weights + copies + 3 * trained + 4 * adapters) / 2**30
    beside = f", {adapters / 1e6:,.2f} M of adapters beside them" if recipe.lora else ""
    return (
        f"{counts.parameters / 1e6:,.2f} M parameters in {str(dtype).removeprefix('torch.')} on "
        f"{device}{beside}: {gigabytes:.2f} GiB for weights, gradients and optimizer, besides "
        "activations and KV cache (aha doctor predicts the peak)."
    )


def _steps(recipe: Recipe, prompt: Prompt | None) -> str:
    rows = recipe.grpo.prompts_per_step * recipe.generation.num_generations
    each = recipe.generation.max_completion_length + (len(prompt.token_ids) if prompt else 0)
    return (
        f"Each of {recipe.train.max_steps} steps writes {rows} completions, at most "
        f"{rows * each:,} tokens {'with' if prompt else 'without'} their prompts."
    )


def _config_and_counts(recipe: Recipe) -> tuple[Any, Counts]:
    """The model's configuration; none, and the published sizes, where it cannot be had."""
    try:
        config = load_config(recipe.model)
    except Unreachable:
        return None, shape_of(recipe.model, online=False).counts
    return config, counts_of(config, recipe.model.trust_remote_code)
