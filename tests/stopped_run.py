"""A run that ends in the middle, for what goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import aha.train.loop as loop
from aha.recipe import Recipe
from aha.train.start import start_run


def stopped_run(recipe: Recipe, path: Path, step: int) -> None:
    """A run that ends after `step` as if the machine had gone."""
    real = loop.train_step

    def train_step(trainer: Any, number: int) -> Any:
        if number > step:
            raise KeyboardInterrupt
        return real(trainer, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", train_step)
        with pytest.raises(KeyboardInterrupt):
            start_run(recipe, path)
