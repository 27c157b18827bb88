"""TensorBoard, Weights & Biases and Trackio: every number of a step's record, under one name.

The last two are optional packages. Their own settings decide where records go: WANDB_MODE=offline
keeps them in the run directory, and Trackio keeps them on this machine. Left out: uploads of
samples and weights, which stay in the run directory.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aha.observe import Observer
from aha.recipe import Recipe
from aha.runs import RunDirectory
from aha.sections import LoggingSection
from aha.types import Group, UserError

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


class _TrackerObserver(Observer):
    """Logs to the `_run` that a subclass starts; W&B and Trackio name their methods alike."""

    _run: Any

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        self._run.log(scalars(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


class WandbObserver(_TrackerObserver):
    """A W&B run named as the run directory; resuming goes on with the same one."""

    def __init__(self, run: RunDirectory, recipe: Recipe) -> None:
        import wandb

        started = (run.path / "environment.json").read_bytes()
        # The same for the same run directory, without its path.
        identity = hashlib.sha256(run.path.name.encode() + started).hexdigest()[:16]
        try:
            self._run = wandb.init(
                project=recipe.logging.project,
                name=run.path.name,
                id=identity,
                resume="allow",
                dir=str(run.path),
                config=recipe.model_dump(mode="json"),
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.errors.UsageError as error:
            raise UserError(
                f"logging.report_to has 'wandb', which refuses: {error} Log in with `wandb login`, "
                "or set WANDB_MODE=offline."
            ) from None


class TrackioObserver(_TrackerObserver):
    """A Trackio run named as the run directory; resuming goes on with the same one."""

    def __init__(self, run: RunDirectory, recipe: Recipe) -> None:
        import trackio

        self._run = trackio.init(
            project=recipe.logging.project,
            name=run.path.name,
            config=recipe.model_dump(mode="json"),
            resume="allow",
        )
