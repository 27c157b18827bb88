"""Starting and resuming a run from the command line: observers, the loop, the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from transformers.utils import logging as transformers_logging

from aha.observe.console import ConsoleObserver
from aha.observe.observer import Observer
from aha.observe.samples import SamplesObserver
from aha.observe.tensorboard import TensorBoardObserver
from aha.recipe import Recipe
from aha.rewards.score import rewards_of
from aha.runs import RunDirectory
from aha.train.checkpoint import checkpoint_step, latest_checkpoint
from aha.train.loop import train
from aha.train.policy import choose_device, find_model


def start_run(recipe: Recipe, output: Path | None) -> RunDirectory:
    """A new run, from the first step to its report."""
    # Mistakes are found before a folder is made.
    find_model(recipe.model.name)
    choose_device(recipe.model)
    rewards_of(recipe)
    run = RunDirectory.create(recipe, output)
    return _run(recipe, run, resume_from=None)


def resume_run(path: Path) -> RunDirectory:
    """Go on with a run from its last checkpoint, or from the start when it has none."""
    run = RunDirectory.open(path)
    return _run(run.recipe(), run, latest_checkpoint(run.checkpoints))


def _run(recipe: Recipe, run: RunDirectory, resume_from: Path | None) -> RunDirectory:
    # Its bars for loading and saving weights would break ours, and say nothing of the run.
    transformers_logging.disable_progress_bar()
    console = Console()
    done = checkpoint_step(resume_from) if resume_from else 0
    run.rewind(done)
    observers = _observers(recipe, run, console, done)
    _tell(observers, f"run directory: {run.path}" + (f", from step {done}" if done else ""))
    started = time.monotonic()
    try:
        train(recipe, run, observers, resume_from)
    finally:
        for observer in observers:
            observer.close()
    minutes = (time.monotonic() - started) / 60
    from aha.report.build import build_report

    _tell(observers, f"done in {minutes:.1f} minutes; report: {build_report(run)}")
    return run


def _observers(
    recipe: Recipe, run: RunDirectory, console: Console, done: int
) -> Sequence[Observer]:
    observers: list[Observer] = [
        ConsoleObserver(console, recipe.train.max_steps, done, recipe.logging),
        SamplesObserver(run, recipe.logging),
    ]
    if "tensorboard" in recipe.logging.report_to:
        observers.append(TensorBoardObserver(run.events, done))
    return observers


def _tell(observers: Sequence[Observer], message: str) -> None:
    for observer in observers:
        observer.note(message)
