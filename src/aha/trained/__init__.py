"""A trained model, found by what a user typed: a run, a checkpoint, a folder, a name of the hub.

`held_out` measures its accuracy (`aha eval`), `export` writes it for other programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aha.model.llama import blocks_of
from aha.model.load import load_model, load_tokenizer
from aha.model.lora import is_adapter
from aha.recipe import Recipe, load_recipe
from aha.rollout.engine import NativeEngine
from aha.runs import RunDirectory
from aha.tiny import TINY_RECIPES
from aha.train.checkpoint import latest_checkpoint
from aha.train.state import build_engine
from aha.types import UserError


@dataclass(frozen=True)
class Subject:
    """A model: its name for people, the folder or hub name of its weights, and its run, if any."""

    name: str
    source: str
    run: RunDirectory | None


@dataclass(frozen=True)
class Loaded:
    """A model that can write completions."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: NativeEngine


def find_subject(target: str) -> Subject:
    """Find a model; for a run, its last checkpoint. Errors: UserError for a run without one."""
    path = Path(target)
    is_model = (path / "config.json").is_file() or is_adapter(path)
    if (path / "recipe.yaml").is_file() and not is_model:
        run = RunDirectory(path)
        checkpoint = latest_checkpoint(run.checkpoints)
        if checkpoint is None:
            raise UserError(f"{target!r} is a run without a checkpoint yet.")
        return Subject(f"{path.name} ({checkpoint.name})", str(checkpoint), run)
    parent = path.resolve().parent.parent
    if is_model and (parent / "recipe.yaml").is_file():
        return Subject(f"{parent.name} ({path.name})", target, RunDirectory(parent))
    return Subject(target, target, None)


def own_recipe(subject: Subject) -> Path | None:
    """The recipe that a model was trained by: its run's, or the one in its exported folder."""
    folder = subject.run.path if subject.run is not None else Path(subject.source)
    file = folder / "recipe.yaml"
    return file if file.is_file() else None


def recipe_for(subject: Subject, recipe: str | None, overrides: Sequence[str]) -> Recipe:
    """The recipe to prompt the model with: the given one, else its own, else the embedded model's.

    Errors: UserError when there is none of these.
    """
    own = own_recipe(subject)
    if recipe is None and own is not None:
        recipe = str(own)
        if subject.run is None:
            # An exported folder has whole weights, even if its base was quantised in training.
            overrides = [*overrides, "model.quantization=none"]
    if recipe is None:
        recipe = TINY_RECIPES.get(subject.source)
    if recipe is None:
        raise UserError(
            f"{subject.name!r} is no run, so nothing says how to ask it; add --recipe NAME "
            "(`aha recipes` lists them)."
        )
    return load_recipe(recipe, [*overrides, f"model.name={subject.source}"])


def load(recipe: Recipe) -> Loaded:
    """The model, its tokenizer and the engine of training. Errors: UserError as `load_model`."""
    tokenizer = load_tokenizer(recipe.model)
    model = load_model(recipe.model, frozen=recipe.lora is not None)
    return Loaded(model, tokenizer, build_engine(recipe, model, tokenizer, blocks_of(model)))


def accuracy_text(summary: Mapping[str, Any]) -> str:
    """The strict accuracy with its 95 % interval."""
    low, high = summary["ci95"]
    return f"{summary['accuracy']:.1%} ({low:.1%} to {high:.1%})"


def figure_rows(summaries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The figures that every evaluation has: rows of a label and a cell for each summary."""
    rows = [["accuracy, strict: right and in the asked layout", *map(accuracy_text, summaries)]]
    for label, key, form in (
        ("accuracy, lenient: last answer right", "accuracy_lenient", ".1%"),
        ("format followed", "format_rate", ".1%"),
        ("mean length, tokens", "mean_length", ".2f"),
        ("cut off at the limit", "truncated_rate", ".1%"),
        ("reflection phrases a completion", "reflection_rate", ".2f"),
    ):
        rows.append([label, *(format(summary[key], form) for summary in summaries)])
    return rows
