"""What a page that answers to anybody on this machine does not do too often."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_WINDOW_S = 60.0


class Limiter:
    """At most `per_minute` admissions within any minute, from whomever; safe among threads."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._admitted: deque[float] = deque()

    def admit(self) -> float:
        """0 for an admission, else the seconds until there may be one."""
        with self._lock:
            now = self._clock()
            while self._admitted and now - self._admitted[0] >= _WINDOW_S:
                self._admitted.popleft()
            if len(self._admitted) >= self._per_minute:
                return self._admitted[0] + _WINDOW_S - now
            self._admitted.append(now)
            return 0.0
