"""Processes that check answers and are killed at a time limit.

A hostile text can make a check run for hours or use all memory. Nothing here uses signals, so any
thread may call. A worker is a module run as a program, not a fork or a spawned copy: the caller may
have threads, and a main script that cannot be imported.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any

from aha.types import RunFailure

_START_SECONDS = 120.0
_MEMORY_BYTES = 4 * 2**30


class Workers:
    """Up to `count` processes of a module that calls `serve`; `timeout` seconds for each request.

    `program` is the module and its arguments. Processes that answer in time are used again.
    `killed` holds the last requests whose process was killed or died. Thread-safe.
    """

    def __init__(
        self, program: Sequence[str], count: int | None = None, timeout: float = 2.0
    ) -> None:
        self._program = tuple(program)
        self._count = count or max(1, min(4, os.cpu_count() or 1))
        self._timeout = timeout
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self.killed: deque[Any] = deque(maxlen=100)

    def ask_many(self, requests: Sequence[Any]) -> list[Any]:
        """The answer to each request (both JSON), in order; None if its process was killed."""
        # An interrupt reaches the main thread only, so a request always comes to its end, and no
        # process holds an answer that the next request would be given.
        with self._lock, ThreadPoolExecutor(self._count) as threads:
            return list(threads.map(self._ask, requests))

    def close(self) -> None:
        """End the processes; the next request starts new ones."""
        with self._lock:
            while self._idle:
                self._idle.pop().kill()

    def _ask(self, request: Any) -> Any:
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self._program)
        try:
            line = worker.ask(request, self._timeout)
        except BaseException:
            worker.kill()
            raise
        if not line:
            worker.kill()
            self.killed.append(request)
            return None
        self._idle.append(worker)
        return json.loads(line)


class _Worker:
    """A process that answers one request at a time."""

    def __init__(self, program: Sequence[str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - a module of our own
            [sys.executable, "-m", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        # Its imports take a second or two, which must not count for the first request.
        if not self._line(_START_SECONDS):
            self.kill()
            raise RunFailure(f"the process of {program[0]} did not start; are its packages there?")

    def ask(self, request: Any, timeout: float) -> bytes:
        """The answer's line; empty if it did not come in time or the process ran out of memory."""
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.flush()
        return self._line(timeout)

    def _line(self, timeout: float) -> bytes:
        return self._answers.readline() if wait([self._answers.fileno()], timeout) else b""

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        # Closing flushes, which fails when the process is gone.
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()


def serve(answer: Callable[[Any], Any], first: Any) -> None:
    """The process: `answer(first)` when all is loaded, then an answer to each line on stdin."""
    if sys.platform == "linux":  # other systems do not bound the address space
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    # Text that libraries print must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(answer(first)), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
