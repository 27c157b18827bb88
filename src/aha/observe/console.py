"""The console: a live view in a terminal, a block of text per logging step elsewhere.

GRPO has no value function, so there is no value loss to show: the baseline is the group's mean.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from textwrap import indent
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aha.expected import Expected
from aha.observe import Observer
from aha.sections import LoggingSection
from aha.types import Group as Completions
from aha.visible import text_template

_CURVES = (
    ("accuracy", "accuracy"),
    ("length", "completions/mean_length"),
    ("reflections", "reflection_rate"),
)
_CURVE_WIDTH = 60
_BARS = "▁▂▃▄▅▆▇█"


class ConsoleObserver(Observer):
    """Shows a step's policy terms, rewards, answers, lengths, behaviours, speed and load.

    With `expected`, also how the run compares with earlier ones; `past`: its records so far.
    """

    def __init__(
        self,
        console: Console,
        max_steps: int,
        done: int,
        settings: LoggingSection,
        expected: Expected | None = None,
        past: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._console = console
        self._max_steps = max_steps
        self._settings = settings
        self._template = text_template("aha.observe", "step.txt.j2", number=_number)
        self._first = done
        self._started = time.monotonic()
        self._past: dict[str, deque[float]] = {
            key: deque(maxlen=_CURVE_WIDTH) for _, key in _CURVES
        }
        self._expected = expected
        self._recent = deque(past, maxlen=expected.window if expected else 0)
        live = settings.console == "live" or (settings.console == "auto" and console.is_terminal)
        self._live = Live(console=console, auto_refresh=False) if live else None

    def on_step(self, record: dict[str, Any], groups: Sequence[Completions]) -> None:
        for key, values in self._past.items():
            values.append(record[key])
        self._recent.append(record)
        step = record["step"]
        per_step_s = (time.monotonic() - self._started) / max(1, step - self._first)
        left = timedelta(seconds=round(per_step_s * (self._max_steps - step)))
        heading = (
            f"step {step}/{self._max_steps}  epoch {record['epoch']:.2f}  "
            f"loss {_number(record['loss'], '.3g')}  "
            f"learning rate {record['learning_rate']:.2e}  left {left}"
        )
        names = [key.split("/")[1] for key in record if re.fullmatch("rewards/.*/mean", key)]
        text = self._template.render(
            r=record,
            rewards=names,
            width=max(map(len, names), default=0),
            compared=self._expected.compare(list(self._recent)) if self._expected else "",
        )
        if self._live is not None:
            self._live.start()
            self._live.update(self._view(heading, text, step), refresh=True)
        elif step % self._settings.logging_steps == 0 or step in (1, self._max_steps):
            self.note(f"{heading}\n{indent(text.rstrip(), '  ')}")

    def note(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _view(self, heading: str, text: str, step: int) -> RenderableType:
        bar = ProgressBar(total=self._max_steps, completed=step, width=_CURVE_WIDTH)
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("progress", style="bold"), bar)
        for line in text.splitlines():
            table.add_row(Text(line[:9].strip(), style="bold"), Text(line[9:]))
        for name, key in _CURVES:
            curve = sparkline(list(self._past[key]), _CURVE_WIDTH)
            table.add_row(Text(name, style="bold"), Text(curve, style="cyan"))
        return Group(Text(heading), table)


def _number(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as a row of bars, from their least to their most."""
    shown = list(values[-width:])
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if high == low:
        return _BARS[0] * len(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * top)] for value in shown)
