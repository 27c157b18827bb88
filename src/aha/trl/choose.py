"""Which engine runs a recipe: the native one in this process, or TRL's trainer in one or many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aha.recipe import Recipe, load_recipe
from aha.runs import RunDirectory
from aha.trl.config import check, processes, require_trl
from aha.trl.plan import BatchPlan
from aha.types import UserError


def start(recipe: Recipe, output: Path | None) -> None:
    """A new run on the recipe's engine. Errors: as the engine's `start_run`."""
    if recipe.engine == "trl":
        _check_trl(recipe)
        from aha.trl.run import start_run as start_on_trl

        start_on_trl(recipe, output)
        return
    _require_one_process()
    from aha.train.start import start_run

    start_run(recipe, output)


def resume(path: Path, overrides: Sequence[str], allow_change: bool) -> None:
    """Go on with a run on the engine that began it.

    Errors: UserError for an override that would change the engine; else as `resume_run`.
    """
    before = RunDirectory.open(path).recipe().engine
    recipe = load_recipe(str(path / "recipe.yaml"), overrides)
    if before != recipe.engine:
        raise UserError(
            f"--resume: {str(path)!r} is a run of engine {before!r}, and so are its checkpoints; "
            "allowed is that engine."
        )
    if before == "trl":
        _check_trl(recipe)
        from aha.trl.run import resume_run as resume_on_trl

        resume_on_trl(path, overrides, allow_change)
        return
    _require_one_process()
    from aha.train.start import resume_run

    resume_run(path, overrides, allow_change)


def describe(recipe: Recipe) -> str:
    """What a run would do, without doing it. Errors: UserError as `start` would raise at once."""
    from aha.doctor.preview import describe as describe_run

    if recipe.engine != "trl":
        return describe_run(recipe)
    plan = _check_trl(recipe)
    return f"{describe_run(recipe)}\nOn TRL, where memory allows: {plan}."


def _check_trl(recipe: Recipe) -> BatchPlan:
    """What can be said before TRL is imported, which takes its time."""
    require_trl()
    return check(recipe, processes())


def _require_one_process() -> None:
    count = processes()
    if count > 1:
        raise UserError(
            f"engine is 'native', which is one process, and WORLD_SIZE is {count}; add --engine "
            "trl, or start one process."
        )
