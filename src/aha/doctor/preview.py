"""A run before it starts: its model's shape, its place, its prompts, and `aha train --dry-run`.

A shape is built on torch's meta device, without weights. The configurations of the shipped
recipes' models are written down here, so that memory can be predicted without a network.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, LlamaConfig, Qwen2Config

from aha.bench.workload import SHAPES
from aha.doctor import software
from aha.doctor.hardware import Machine
from aha.model.gguf import SMOLLM2, SMOLLM2_HUB, kept_smollm2
from aha.model.kernels.decode import Widths
from aha.model.load import (
    choose_device,
    choose_dtype,
    find_model,
    load_config,
    load_tokenizer,
    positions_of,
    require_positions,
)
from aha.model.lora import base_name, is_adapter
from aha.model.sizes import Counts, Shape, adapter_parameters, counts_of, weights_bytes
from aha.recipe import Recipe, dump_recipe
from aha.rewards.score import rewards_of, try_rewards
from aha.sections import ModelSection
from aha.tasks import TASKS, load_problems
from aha.tasks.prompts import ask
from aha.tiny import TINY_RECIPES, weights_path
from aha.train.memory import Device, Place
from aha.types import Problem, Unreachable, UserError
from aha.visible import first_line

# The models of the shipped recipes; `-Instruct` has the same sizes.
PUBLIC = {f"Qwen/Qwen2.5-{b}B": SHAPES[f"qwen2.5-{b}b"] for b in ("0.5", "1.5", "3", "7")}
_PUBLISHED = "its published configuration, shipped with aha"
# A GPU's context and its libraries' workspaces: an assumption, no GPU was at hand.
GPU_BEFORE = 2**29
# A problem with its instruction where the tokenizer is not at hand: GSM8K's and MATH's are 100 to
# 250 tokens in the layouts of the shipped recipes.
_ASSUMED_PROMPT = 256


@dataclass(frozen=True)
class Prompts:
    """The longest prompt, in tokens; `assumed` if it could not be counted."""

    tokens: int
    assumed: bool


@dataclass(frozen=True)
class Subject:
    """A recipe for a model at a place."""

    recipe: Recipe
    shape: Shape
    place: Place
    prompts: Prompts


def shape_of(section: ModelSection, config_file: Path | None = None, online: bool = True) -> Shape:
    """The shape of a recipe's model; `config_file` is a config.json to read instead.

    Searched in a folder, the hub's cache, the table here, and on the hub when `online`.
    Errors: UserError without a configuration, or with one of another kind of model.
    """
    config, known_from = _configuration(section, config_file, online)
    return measured(config, section.name, known_from, section.trust_remote_code)


def public_shape(name: str) -> Shape | None:
    """A shape of the table here, `-Instruct` or not."""
    config = _public(name)
    return None if config is None else measured(config, name, _PUBLISHED)


def measured(config: Any, name: str, known_from: str, trust_remote_code: bool = False) -> Shape:
    """The shape of a configuration, counted on the meta device.

    Errors: UserError if it is not that of a causal language model of attention blocks.
    """
    dtype = getattr(config, "dtype", None)
    try:
        text = config.get_text_config()
        text.num_attention_heads  # noqa: B018
        widths = Widths.of(text)
        counts = counts_of(config, trust_remote_code)
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"model.name: {name!r} is no causal language model of attention blocks; only those are "
            f"predicted: {first_line(error)}"
        ) from None
    return Shape(
        name=name,
        widths=widths,
        counts=counts,
        saved_item=dtype.itemsize if isinstance(dtype, torch.dtype) else None,
        known_from=known_from,
        positions=positions_of(config),
    )


def _configuration(
    section: ModelSection, config_file: Path | None, online: bool
) -> tuple[Any, str]:
    """A configuration and where it was found."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, trust = section.name, section.trust_remote_code
    if config_file is not None:
        if not config_file.is_file():
            raise UserError(f"--config: {str(config_file)!r} is no file.")
        return _read(str(config_file), trust, "--config"), f"{config_file}"
    if name in TINY_RECIPES:
        return _read(str(weights_path(name)), trust), "the package"
    folder = (kept_smollm2() if name == SMOLLM2 else None) or Path(os.path.expanduser(name))
    if folder.is_file() and folder.suffix.lower() == ".gguf":
        folder = Path(find_model(name))
    if folder.is_dir() and is_adapter(folder):
        base = section.model_copy(update={"name": base_name(folder)})
        return _configuration(base, None, online)
    if folder.is_dir():
        return _read(str(folder), trust), f"{folder}"
    if name == SMOLLM2:
        return _public(name), _PUBLISHED
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        raise UserError(
            f"model.name: {name!r} is neither a folder here nor a valid hub name."
        ) from None
    if isinstance(cached, str):
        return _read(name if trust else cached, trust), "the hub's cache here"
    config = _public(name)
    if config is not None:
        return config, _PUBLISHED
    if online:
        return _read(name, trust), "the hub"
    raise Unreachable(
        f"model.name: {name!r} is no folder here and not in the cache, and the hub cannot be "
        "reached; give its config.json with --config FILE."
    )


def _public(name: str) -> Any:
    if name in (SMOLLM2, SMOLLM2_HUB):
        return LlamaConfig(**SHAPES["smollm2-135m"], max_position_embeddings=8192, dtype="bfloat16")
    sizes = PUBLIC.get(name.removesuffix("-Instruct"))
    return None if sizes is None else Qwen2Config(**sizes, dtype="bfloat16")


def _read(source: str, trust: bool, key: str = "model.name") -> Any:
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=trust)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{key}: {source!r} has no usable configuration: {first_line(error)}"
        ) from None


def place_of(
    machine: Machine, recipe: Recipe, asked_device: Device | None, asked_bytes: int | None
) -> Place:
    """The place of the run: this machine, or the one that is asked about.

    Errors: UserError for a GPU that is neither here nor asked about with its memory.
    """
    gpu = machine.gpus[0] if machine.gpus else None
    device, section = asked_device, recipe.model
    if device is None:
        # An Apple GPU has the processor's memory.
        on_gpu = section.device == "cuda" or (section.device == "auto" and gpu is not None)
        device = "cuda" if on_gpu else "cpu"
    if device == "cpu":
        before = process_bytes(recipe)
        limit = machine.memory_free + before if asked_bytes is None else asked_bytes
        return Place("cpu", limit, before, kernels=machine.kernels != "off")
    if asked_bytes is not None:
        return Place("cuda", asked_bytes, GPU_BEFORE, bfloat16=gpu is None or gpu.bfloat16)
    if gpu is None:
        raise UserError(
            "there is no GPU here; ask about one with --device cuda --memory GIB, or set "
            "model.device=cpu."
        )
    # This process has a context of its own already, which the run's will replace.
    return Place("cuda", min(gpu.total, gpu.free + GPU_BEFORE), GPU_BEFORE, bfloat16=gpu.bfloat16)


def process_bytes(recipe: Recipe) -> int:
    """Bytes of a run's process before it loads anything: of this one, with the same imports."""
    import aha.train.start  # noqa: F401

    if recipe.lora is not None:
        import peft  # noqa: F401
    return int(psutil.Process().memory_info().rss)


def prompts_of(recipe: Recipe) -> Prompts:
    """Counted if tokenizer and problems are on this machine, else assumed."""
    if not (model_is_here(recipe.model.name) and _problems_are_here(recipe)):
        return Prompts(_ASSUMED_PROMPT, assumed=True)
    problems = load_problems(recipe.task, "train", 4 * recipe.grpo.prompts_per_step).problems
    prompts = ask(problems, recipe, load_tokenizer(recipe.model))
    return Prompts(max(len(prompt.token_ids) for prompt in prompts), assumed=False)


def model_is_here(name: str) -> bool:
    """True for the embedded model, a folder, a GGUF file and a SmolLM2 that was converted."""
    path = Path(os.path.expanduser(name))
    is_file = path.suffix.lower() == ".gguf" and path.is_file()
    kept = name == SMOLLM2 and kept_smollm2() is not None
    return name in TINY_RECIPES or path.is_dir() or is_file or kept


def _problems_are_here(recipe: Recipe) -> bool:
    """True if the problems are generated or in a file; others are on the hub."""
    source = recipe.task.source
    if source is None:
        return TASKS[recipe.task.name].generates
    return Path(os.path.expanduser(source)).exists()


def describe(recipe: Recipe) -> str:
    """`--dry-run`: the resolved recipe, the first prompt as the model sees it, and memory.

    A line names each thing that is on the hub and cannot be reached.
    """
    rewards, limit = rewards_of(recipe), recipe.generation.max_completion_length
    lines, missing, prompt_tokens = [dump_recipe(recipe)], list[str](), 0
    tokenizer: Any = None
    config: Any = None
    problem: Problem | None = None
    counts: Counts | None = None

    @contextmanager
    def noted(what: str) -> Iterator[None]:
        try:
            yield
        except Unreachable as error:
            missing.append(f"not checked: {what}; {error}")

    with noted("the first prompt"):
        tokenizer = load_tokenizer(recipe.model)
    with noted("the problems"):
        if not _problems_are_here(recipe):
            # The loader would ask again and again for half a minute.
            asked = software.look_at_hub(offline=False)
            if asked.fault:
                raise Unreachable(f"{asked.host}, which has them, does not answer: {asked.fault}.")
        (problem,) = load_problems(recipe.task, "train", 1).problems
        lines.append(f"first problem: {dict(problem.columns)}")
    with noted("memory"):
        try:
            config = load_config(recipe.model)
            counts = counts_of(config, recipe.model.trust_remote_code)
        except Unreachable:
            counts = shape_of(recipe.model, online=False).counts
    if problem is not None and tokenizer is not None:
        (prompt,) = ask([problem], recipe, tokenizer)
        prompt_tokens = len(prompt.token_ids)
        try_rewards(rewards, problem, prompt, tokenizer.encode)
        if config is not None:
            require_positions(config, prompt_tokens, limit)
        lines += [
            f"first prompt, {prompt_tokens} tokens, special tokens included:",
            tokenizer.decode(list(prompt.token_ids)),
            "",
        ]
    if counts is not None:
        lines.append(_memory_line(recipe, counts))
    rows = recipe.grpo.prompts_per_step * recipe.generation.num_generations
    lines.append(
        f"Each of {recipe.train.max_steps} steps writes {rows} completions, at most "
        f"{rows * (limit + prompt_tokens):,} tokens {'with' if prompt_tokens else 'without'} "
        "their prompts."
    )
    return "\n".join([*lines, *missing])


def _memory_line(recipe: Recipe, counts: Counts) -> str:
    dtype = choose_dtype(recipe.model, frozen=recipe.lora is not None)
    adapters = adapter_parameters(counts, recipe.lora)
    weights = weights_bytes(counts, dtype.itemsize, recipe.model.quantization)
    # Every trainable weight has a gradient and AdamW's two moments; adapters are in float32.
    copies = weights if recipe.grpo.beta and recipe.lora is None else 0
    trained = weights if recipe.lora is None else 4 * adapters
    gigabytes = (weights + copies + 3 * trained + 4 * adapters) / 2**30
    beside = f", {adapters / 1e6:,.2f} M of adapters beside them" if recipe.lora else ""
    return (
        f"{counts.parameters / 1e6:,.2f} M parameters in {str(dtype).removeprefix('torch.')} on "
        f"{choose_device(recipe.model)}{beside}: {gigabytes:.2f} GiB for weights, gradients and "
        "optimizer, besides activations and KV cache (aha doctor predicts the peak)."
    )
