"""Signals and the time limit end a run after the step it is in.

| why | exit code |
|---|---|
| SIGINT (Ctrl-C) | 130 |
| SIGTERM | 143 |
| SIGUSR1 (SLURM's warning) | 138 |
| `train.max_hours` | 3 |

Each saves a checkpoint first. A second signal ends the process at once, without saving. There is
one exception: a program's signal that arrives again within two seconds, because both a scheduler
and a launcher passed it on, counts once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from aha.types import Stopped

EXIT_TIME_IS_UP = 3
_SAME_REQUEST_S = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGUSR1", None)]))


class StopRequest:
    """A request to stop the run after the step it is in: a signal, or the time limit."""

    def __init__(self, max_hours: float | None = None) -> None:
        self._signal: int | None = None
        self._came = 0.0
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._max_hours = max_hours

    def check(self, next_step_s: float) -> None:
        """Errors: Stopped when a signal came, or when the next step would not end in time."""
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            raise Stopped(f"stopped by {name} after saving", 128 + self._signal)
        if self._deadline is not None and time.monotonic() + next_step_s > self._deadline:
            raise Stopped(
                f"stopped by train.max_hours={self._max_hours:g} after saving", EXIT_TIME_IS_UP
            )

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while inside, and restore the earlier handlers after."""
        if threading.current_thread() is not threading.main_thread():
            # Python gives signals to the main thread only.
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._came = number, now
            return
        echo = number == self._signal and now - self._came < _SAME_REQUEST_S
        # A person who presses Ctrl-C twice means it.
        if not echo or number == signal.SIGINT:
            os._exit(128 + number)
