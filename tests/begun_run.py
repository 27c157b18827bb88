"""A run that has begun and taken no step, for tests of what reads and writes its files."""

from __future__ import annotations

from pathlib import Path

from aha.recipe import Recipe
from aha.runs import RunDirectory


def begun_run(recipe: Recipe, output: Path | None) -> RunDirectory:
    """A new run directory with its recipe and environment, and nobody's lock on it."""
    with RunDirectory.begun(recipe, output) as run:
        return run
