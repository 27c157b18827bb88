"""A time limit on code that is not ours."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeLimit(BaseException):
    """Time is up. No Exception, so that the code that hangs does not catch it by accident."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Errors: TimeLimit when what is inside takes longer.

    Python code is interrupted wherever it is; a call into C only when it returns. Outside the main
    thread, where no signal arrives, and on Windows there is no limit.
    """
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def up(number: int, frame: FrameType | None) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
