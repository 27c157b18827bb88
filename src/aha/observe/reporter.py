"""The step reporter: both engines give it their finished steps.

It makes a step's record, writes it, shows it to the observers and raises alerts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console

from aha.observe import Observer
from aha.observe.alerts import Watch
from aha.observe.console import ConsoleObserver
from aha.observe.record import FinishedStep, Meter, step_record
from aha.observe.samples import SamplesObserver
from aha.observe.services import TensorBoardObserver, TrackioObserver, WandbObserver
from aha.recipe import Recipe
from aha.runs import RunDirectory
from aha.types import RunFailure


def observers_of(
    recipe: Recipe, run: RunDirectory, console: Console, done: int
) -> Sequence[Observer]:
    """The console, the samples, and the services of logging.report_to; `done` steps are over."""
    shown = ConsoleObserver(console, recipe.train.max_steps, done, recipe.logging)
    observers: list[Observer] = [shown, SamplesObserver(run, recipe.logging, shown.note)]
    if "tensorboard" in recipe.logging.report_to:
        observers.append(TensorBoardObserver(run.events, done))
    if "wandb" in recipe.logging.report_to:
        observers.append(WandbObserver(run, recipe))
    if "trackio" in recipe.logging.report_to:
        observers.append(TrackioObserver(run, recipe))
    return observers


class StepReporter:
    """Records finished steps in the run directory and drives the observers.

    Alerts that the steps recorded so far have raised are not raised again.
    """

    def __init__(self, recipe: Recipe, run: RunDirectory, observers: Sequence[Observer]) -> None:
        self._recipe = recipe
        self._run = run
        self._observers = observers
        self._watch = Watch(recipe.logging, run.metrics())
        self._meter = Meter()
        self._skipped_in_a_row = 0

    def report(self, step: FinishedStep, evaluated: Mapping[str, float]) -> None:
        """Record a step; `evaluated` are the figures of an evaluation after it, if there was one.

        Errors: RunFailure after train.max_skipped_steps skipped steps in a row; OSError.
        """
        record = step_record(step) | self._meter.read() | dict(evaluated)
        self._run.append_metrics(record)
        for observer in self._observers:
            observer.on_step(record, step.groups)
        alerts = self._watch.check(record)
        self._run.append_alerts(map(asdict, alerts))
        for alert in alerts:
            self.note(alert.message)
        if not record["skipped"]:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        self.note(
            f"warning: step {record['step']} had no finite loss and gradient and was skipped; "
            f"completions to blame: {record['sick_rows'] or 'none in particular'} (see samples).",
        )
        if self._skipped_in_a_row >= self._recipe.train.max_skipped_steps:
            raise RunFailure(
                f"{self._skipped_in_a_row} steps in a row had no finite loss and gradient. Go on "
                "from a checkpoint with a lower optimizer.learning_rate or "
                "optimizer.max_grad_norm, model.dtype=float32 and model.autocast=none; and look "
                "at the rewards for infinite values."
            )

    def note(self, message: str) -> None:
        """Give a sentence to every observer."""
        for observer in self._observers:
            observer.note(message)

    def close(self) -> None:
        """Close every observer."""
        for observer in self._observers:
            observer.close()
