"""The step reporter, which both engines give their finished steps, and the services it tells.

It makes a step's record, writes it, shows it to the observers and raises alerts. TensorBoard,
Weights & Biases and Trackio get every number of the record, under one name. The last two are
optional packages, and their own settings decide where records go. Left out: uploads of samples and
weights, which stay in the run directory.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from aha.expected import expected_of
from aha.observe import Observer
from aha.observe.alerts import HACKED, Watch
from aha.observe.console import ConsoleObserver
from aha.observe.record import FinishedStep, Meter, step_record
from aha.observe.samples import SamplesObserver
from aha.recipe import Recipe
from aha.runs import RunDirectory
from aha.sections import LoggingSection
from aha.tasks import check_groups
from aha.types import Group, RunFailure, UserError
from aha.visible import quoted

_SERVICES = ("wandb", "trackio")


def require_services(settings: LoggingSection) -> None:
    """Errors: UserError naming a package that logging.report_to asks for and that is missing."""
    for name in _SERVICES:
        if name in settings.report_to and importlib.util.find_spec(name) is None:
            raise UserError(
                f"logging.report_to has {name!r}, which is not installed; "
                f"pip install 'aha-zero[{name}]', or leave it out."
            )


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The record's numbers by tag; a reward's mean also under its bare name, as MiniR1 has it."""
    tags = {
        f"train/{name}": value
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float)
    }
    for name, value in list(tags.items()):
        if name.startswith("train/rewards/") and name.endswith("/mean"):
            tags[name.removesuffix("/mean")] = value
    return tags


class TensorBoardObserver(Observer):
    """Writes event files; on resume, steps after `resumed_at` are purged."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = resumed_at + 1 if resumed_at else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class TrackerObserver(Observer):
    """A W&B or Trackio run named as the run directory; resuming goes on with the same one."""

    def __init__(self, service: str, run: RunDirectory, recipe: Recipe) -> None:
        package: Any = import_module(service)
        options: dict[str, Any] = {
            "project": recipe.logging.project,
            "name": run.path.name,
            "config": recipe.model_dump(mode="json"),
            "resume": "allow",
        }
        if service == "trackio":
            self._run = package.init(**options)
            return
        started = (run.path / "environment.json").read_bytes()
        # The same for the same run directory, without its path.
        identity = hashlib.sha256(run.path.name.encode() + started).hexdigest()[:16]
        settings = package.Settings(console="off", silent=True)
        try:
            self._run = package.init(**options, id=identity, dir=str(run.path), settings=settings)
        except package.errors.UsageError as error:
            raise UserError(
                f"logging.report_to has 'wandb', which refuses: {error} Log in with `wandb login`, "
                "or set WANDB_MODE=offline."
            ) from None

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        self._run.log(scalars(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


def observers_of(
    recipe: Recipe, run: RunDirectory, console: Console, done: int
) -> Sequence[Observer]:
    """The console, the samples, and the services of logging.report_to; `done` steps are over."""
    expected = expected_of([*(earlier for _, earlier in run.earlier_recipes()), recipe])
    shown = ConsoleObserver(
        console, recipe.train.max_steps, done, recipe.logging, expected, run.metrics()
    )
    observers: list[Observer] = [shown, SamplesObserver(run, recipe.logging, shown.note)]
    if "tensorboard" in recipe.logging.report_to:
        observers.append(TensorBoardObserver(run.events, done))
    asked = [service for service in _SERVICES if service in recipe.logging.report_to]
    return [*observers, *(TrackerObserver(service, run, recipe) for service in asked)]


def example(groups: Sequence[Group]) -> str:
    """The wrong completion with the highest reward, in a sentence; "" if all are right."""
    rows = [
        (score.reward, completion.text)
        for group in groups
        for completion, score in zip(group.completions, group.scores, strict=True)
    ]
    verdicts = check_groups(groups)
    wrong = [row for row, verdict in zip(rows, verdicts, strict=True) if not verdict.strict]
    if not wrong:
        return ""
    reward, text = max(wrong, key=lambda row: row[0])
    return f"A wrong completion with reward {reward:.3g}: {quoted(text)}."


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
        alerts = [
            replace(alert, message=f"{alert.message} {example(step.groups)}".rstrip())
            if alert.metric == HACKED
            else alert
            for alert in self._watch.check(record)
        ]
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
