"""The console: a live view in a terminal, a block of text per logging step elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aha.observe.blocks import block, heading, rows, sparkline
from aha.sections import LoggingSection
from aha.types import Group as Completions

_CURVES = (
    ("accuracy", "accuracy"),
    ("length", "completions/mean_length"),
    ("reflections", "reflection_rate"),
)
_CURVE_WIDTH = 60


class ConsoleObserver:
    """Shows a step's policy terms, rewards, answers, lengths, behaviours, speed and load."""

    def __init__(
        self, console: Console, max_steps: int, done: int, settings: LoggingSection
    ) -> None:
        self._console = console
        self._max_steps = max_steps
        self._settings = settings
        self._first = done
        self._started = time.monotonic()
        self._past: dict[str, deque[float]] = {
            key: deque(maxlen=_CURVE_WIDTH) for _, key in _CURVES
        }
        live = settings.console == "live" or (settings.console == "auto" and console.is_terminal)
        self._live = Live(console=console, auto_refresh=False) if live else None

    def on_step(self, record: dict[str, Any], groups: Sequence[Completions]) -> None:
        for key, values in self._past.items():
            values.append(record[key])
        left = str(timedelta(seconds=round(self._seconds_left(record["step"]))))
        if self._live is not None:
            self._live.start()
            self._live.update(self._view(record, left), refresh=True)
        elif self._is_due(record["step"]):
            self.note(block(record, self._max_steps, left))

    def note(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _view(self, record: dict[str, Any], left: str) -> RenderableType:
        bar = ProgressBar(total=self._max_steps, completed=record["step"], width=_CURVE_WIDTH)
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("progress", style="bold"), bar)
        for name, text in rows(record):
            table.add_row(Text(name, style="bold"), Text(text))
        for name, key in _CURVES:
            curve = sparkline(list(self._past[key]), _CURVE_WIDTH)
            table.add_row(Text(name, style="bold"), Text(curve, style="cyan"))
        return Group(Text(heading(record, self._max_steps, left)), table)

    def _is_due(self, step: int) -> bool:
        return step % self._settings.logging_steps == 0 or step in (1, self._max_steps)

    def _seconds_left(self, step: int) -> float:
        per_step = (time.monotonic() - self._started) / max(1, step - self._first)
        return per_step * (self._max_steps - step)
