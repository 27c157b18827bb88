"""The console: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aha.recipe import LoggingSection
from aha.types import Group


class ConsoleObserver:
    """Shows step, reward, accuracy, length, reflection, tokens/s and the time left."""

    def __init__(
        self, console: Console, max_steps: int, done: int, settings: LoggingSection
    ) -> None:
        self._console = console
        self._max_steps = max_steps
        self._settings = settings
        self._first = done
        self._started = time.monotonic()
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=console,
            )
            self._task = self._progress.add_task(
                "train", total=max_steps, completed=done, figures=""
            )

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        if self._progress is not None:
            self._progress.start()
            self._progress.update(self._task, completed=record["step"], figures=_figures(record))
        elif self._is_due(record["step"]):
            left = timedelta(seconds=round(self._seconds_left(record["step"])))
            self.note(f"step {record['step']}/{self._max_steps}  {_figures(record)}  left {left}")

    def note(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _is_due(self, step: int) -> bool:
        return step % self._settings.logging_steps == 0 or step in (1, self._max_steps)

    def _seconds_left(self, step: int) -> float:
        per_step = (time.monotonic() - self._started) / max(1, step - self._first)
        return per_step * (self._max_steps - step)


def _figures(record: dict[str, Any]) -> str:
    reward = "none" if record["reward"] is None else f"{record['reward']:.3f}"
    speed = record["tokens"] / record["time/step_s"]
    return (
        f"reward {reward}  accuracy {record['accuracy']:.0%}  "
        f"length {record['completions/mean_length']:.0f}  "
        f"reflection {record['reflection_rate']:.2f}  {speed:,.0f} tokens/s"
    )
