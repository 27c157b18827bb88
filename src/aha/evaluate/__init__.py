"""Evaluation: accuracy on held-out problems, with its uncertainty."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument

from aha.options import RecipeOption, SetOption, TemperatureOption, option
from aha.types import CallablePackage


@dataclass(frozen=True)
class EvalRequest:
    """The options of `aha eval`; None means the recipe's value."""

    model: Annotated[str, Argument(help="A run, a checkpoint, a folder or a hub name.")]
    against: str | None = option(None, metavar="MODEL", help="Compare by problem with this one.")
    recipe: RecipeOption = None
    task: str | None = option(None, help="task.name")
    overrides: SetOption = None
    split: Literal["train", "test"] = option("test")
    n: int | None = option(None, help="evaluation.n: how many problems.", min=1)
    samples: int = option(1, help="Completions a problem; more than one: pass@k, maj@k.", min=1)
    temperature: TemperatureOption = None
    seed: int | None = option(None, help="train.seed", min=0)
    output: Path | None = option(None, help="Folder of completions; default in the run or evals/.")
    engine: Literal["native", "vllm"] = option("native", help="native is the trainer's engine.")
    json: bool = option(False, "--json", help="Print one JSON object and nothing else.")


# `aha.evaluate(...)` is the Python API's function, and this package has its name.
sys.modules[__name__].__class__ = CallablePackage
