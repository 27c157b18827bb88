"""The choice of engine: native, in this one process, or TRL's trainer, in one or many."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from aha.recipe import Recipe, load_recipe
from aha.runs import RunDirectory
from aha.trl.config import BatchPlan, check, processes, require_trl
from aha.types import UserError


def start(recipe: Recipe, output: Path | None) -> None:
    """A new run on the recipe's engine. Errors: as the engine's `start_run`."""
    _check(recipe)
    _engine(recipe).start_run(recipe, output)


def resume(path: Path, overrides: Sequence[str], allow_change: bool) -> None:
    """Go on with a run. Errors: UserError for another engine; else as `resume_run`."""
    before = RunDirectory.open(path).recipe().engine
    recipe = load_recipe(str(path / "recipe.yaml"), overrides)
    if before != recipe.engine:
        raise UserError(
            f"--resume: {str(path)!r} is a run of engine {before!r}, and so are its checkpoints; "
            "allowed is that engine."
        )
    _check(recipe)
    _engine(recipe).resume_run(path, overrides, allow_change)


def _engine(recipe: Recipe) -> Any:
    """The engine's module. Its imports take seconds, so only the chosen one is imported."""
    return import_module("aha.trl.backend" if recipe.engine == "trl" else "aha.train.start")


def describe(recipe: Recipe) -> str:
    """Describe a run without starting it. Errors: UserError as `start` would raise at once."""
    from aha.doctor.preview import describe as describe_run

    if recipe.engine != "trl":
        return describe_run(recipe)
    plan = _check(recipe)
    return f"{describe_run(recipe)}\nOn TRL, where memory allows: {plan}."


def _check(recipe: Recipe) -> BatchPlan | None:
    """Check the engine before it is imported; TRL's plan. Errors: UserError."""
    if recipe.engine == "trl":
        require_trl()
        return check(recipe, processes())
    if (count := processes()) > 1:
        raise UserError(
            f"engine is 'native', which is one process, and WORLD_SIZE is {count}; add --engine "
            "trl, or start one process."
        )
    return None
