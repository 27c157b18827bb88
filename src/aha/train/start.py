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
from aha.runs import RunDirectory
from aha.train.checkpoint import latest_checkpoint
from aha.train.loop import train
from aha.train.memory import keep_freed_memory
from aha.train.setup import Trainer, build_trainer


def start_run(recipe: Recipe, output: Path | None) -> RunDirectory:
    """A new run, from the first step to its report."""
    _prepare()
    if output is not None:
        RunDirectory.require_new(output)
    # Model, rewards and data are loaded before a folder is made: a mistake leaves none behind.
    trainer = build_trainer(recipe, None)
    return _run(trainer, RunDirectory.create(recipe, output), "")


def resume_run(path: Path) -> RunDirectory:
    """Go on with a run from its last checkpoint, or from the start when it has none."""
    _prepare()
    run = RunDirectory.open(path)
    checkpoint = latest_checkpoint(run.checkpoints)
    trainer = build_trainer(run.recipe(), checkpoint)
    done = trainer.first_step - 1
    lost = sum(record["step"] > done for record in run.metrics())
    run.rewind(done)
    for record in run.metrics():
        # What fitted then: other micro-batches would round differently.
        trainer.budget.tokens = record["tokens_per_microbatch"]
    where = (
        f"from the checkpoint of step {done}" if checkpoint else "no checkpoint yet: from step 1"
    )
    return _run(trainer, run, f" ({where}; {lost} later steps are done again)")


def _prepare() -> None:
    keep_freed_memory()
    # Its bars for loading and saving weights would break ours, and say nothing of the run.
    transformers_logging.disable_progress_bar()


def _run(trainer: Trainer, run: RunDirectory, how: str) -> RunDirectory:
    observers = _observers(trainer.recipe, run, Console(), trainer.first_step - 1)
    _tell(observers, f"run directory: {run.path}{how}")
    started = time.monotonic()
    try:
        train(trainer, run, observers)
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
