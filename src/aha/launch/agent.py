"""accelerate and the training processes under it: their signals, their exit code, and their end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from aha.launch.layout import EXIT_CODE_FILE
from aha.types import RunFailure, Stopped

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# A closed terminal: the processes know no such signal, and are to save.
_AS = {signal.SIGHUP: signal.SIGTERM}


def run_agent(command: Sequence[str], environment: Mapping[str, str], exit_file: Path) -> int:
    """Start accelerate, hand every signal on to the processes under it, and wait.

    Returns the run's exit code, which they leave in `exit_file`. Errors: Stopped when a signal came
    before there was a run, RunFailure when a process failed without a word.
    """
    told = {**environment, EXIT_CODE_FILE: str(exit_file.resolve())}
    signals = _Signals()
    agent: subprocess.Popen[bytes] | None = None
    try:
        with signals.taken():
            # A session of its own: signals to this one's group reach the processes once, by us.
            agent = subprocess.Popen(  # noqa: S603
                command, env=told, start_new_session=True
            )
            signals.begin(agent)
            code = agent.wait()
        if exit_file.exists():
            return int(exit_file.read_text(encoding="utf-8"))
    finally:
        exit_file.unlink(missing_ok=True)
        if agent is not None:
            _end(agent)
    if signals.last is not None:
        name = signal.Signals(signals.last).name
        raise Stopped(f"ended by {name}; nothing more was saved", 128 + signals.last)
    if code:
        raise RunFailure(f"a training process failed (exit code {code}); see its messages above.")
    return 0


class _Signals:
    """Takes signals from the moment on that there is something to start, and hands them on."""

    def __init__(self) -> None:
        self.last: int | None = None
        self._agent: subprocess.Popen[bytes] | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take them while inside; one that is ignored, as under nohup, stays ignored."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        taken = [number for number in _SIGNALS if before[number] is not signal.SIG_IGN]
        for number in taken:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])

    def begin(self, agent: subprocess.Popen[bytes]) -> None:
        """Hand them on to what is under `agent`, one that has come already too."""
        self._agent = agent
        if self.last is not None:
            self._hand_on(agent, self.last)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.last = number
        if self._agent is not None:
            self._hand_on(self._agent, number)

    def _hand_on(self, agent: subprocess.Popen[bytes], number: int) -> None:
        if agent.poll() is not None:
            return
        ranks = ranks_of(agent.pid)
        for rank in ranks:
            rank.send_signal(_AS.get(signal.Signals(number), number))
        if not ranks:
            # Still loading, or waiting for other nodes: nothing to save, and nobody to ask.
            _kill(agent)


def ranks_of(agent: int) -> list[psutil.Process]:
    """The training processes under accelerate's, not their own children."""
    found = []
    for process in psutil.Process(agent).children():
        try:
            if "LOCAL_RANK" in process.environ():
                found.append(process)
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return found


def _end(agent: subprocess.Popen[bytes]) -> None:
    """Leave nothing running behind, however this ends."""
    if agent.poll() is None:
        agent.terminate()
        try:
            agent.wait(60)
        except subprocess.TimeoutExpired:
            _kill(agent)


def _kill(agent: subprocess.Popen[bytes]) -> None:
    """The agent and all below it, in whatever session."""
    process = psutil.Process(agent.pid)
    for one in (*process.children(recursive=True), process):
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
