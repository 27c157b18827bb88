"""What is asked about: a recipe, its model's shape, the place, and how long prompts are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from aha.doctor.facts import Facts
from aha.doctor.shapes import Shape
from aha.doctor.sizes import Device, Place
from aha.model.load import load_tokenizer
from aha.recipe import Recipe
from aha.tasks import TASKS, load_problems
from aha.tasks.prompts import ask
from aha.tiny import TINY_NAME
from aha.types import UserError

# A GPU's context and its libraries' workspaces: an assumption, no GPU was at hand.
GPU_BEFORE = 2**29
# A problem with its instruction where the tokenizer is not at hand: GSM8K's and MATH's are 100 to
# 250 tokens in the layouts of the shipped recipes.
_ASSUMED_PROMPT = 256


@dataclass(frozen=True)
class Prompts:
    """The longest prompt, in tokens; `assumed` where it could not be counted."""

    tokens: int
    assumed: bool


@dataclass(frozen=True)
class Subject:
    """A recipe for a model at a place."""

    recipe: Recipe
    shape: Shape
    place: Place
    prompts: Prompts


def place_of(
    facts: Facts, recipe: Recipe, asked_device: Device | None, asked_bytes: int | None
) -> Place:
    """Where the run would be: here, or where it is asked about.

    Errors: UserError for a GPU that is neither here nor asked about with its memory.
    """
    device = _device(facts, recipe, asked_device)
    gpu = facts.gpus[0] if facts.gpus else None
    if device == "cpu":
        before = process_bytes(recipe)
        limit = facts.memory_free + before if asked_bytes is None else asked_bytes
        return Place("cpu", limit, before, kernels=facts.kernels != "off")
    if asked_bytes is not None:
        return Place("cuda", asked_bytes, GPU_BEFORE, bfloat16=gpu is None or gpu.bfloat16)
    if gpu is None:
        raise UserError(
            "there is no GPU here; ask about one with --device cuda --memory GIB, or set "
            "model.device=cpu."
        )
    # This process has a context of its own now, which the run's will replace.
    return Place("cuda", min(gpu.total, gpu.free + GPU_BEFORE), GPU_BEFORE, bfloat16=gpu.bfloat16)


def _device(facts: Facts, recipe: Recipe, asked: Device | None) -> Device:
    if asked is not None:
        return asked
    if recipe.model.device == "auto":
        return "cuda" if facts.gpus else "cpu"
    # An Apple GPU has the processor's memory.
    return "cpu" if recipe.model.device == "mps" else recipe.model.device


def process_bytes(recipe: Recipe) -> int:
    """What a run's process holds before it loads anything: this one's, with the same imports."""
    import aha.train.start  # noqa: F401

    if recipe.lora is not None:
        import peft  # noqa: F401
    return int(psutil.Process().memory_info().rss)


def prompts_of(recipe: Recipe) -> Prompts:
    """Counted where tokenizer and problems are on this machine, assumed elsewhere."""
    if not (_is_here(recipe.model.name) and problems_are_here(recipe)):
        return Prompts(_ASSUMED_PROMPT, assumed=True)
    problems = load_problems(recipe.task, "train", 4 * recipe.grpo.prompts_per_step).problems
    prompts = ask(problems, recipe, load_tokenizer(recipe.model))
    return Prompts(max(len(prompt.token_ids) for prompt in prompts), assumed=False)


def _is_here(model: str) -> bool:
    return model == TINY_NAME or Path(os.path.expanduser(model)).is_dir()


def problems_are_here(recipe: Recipe) -> bool:
    """True if the problems are generated or in a file; the others are on the hub."""
    source = recipe.task.source
    if source is None:
        return TASKS[recipe.task.name].generates
    return Path(os.path.expanduser(source)).exists()
