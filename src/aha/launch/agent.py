"""accelerate and the training processes under it: their signals, their exit code, and their end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import psutil

from aha.launch.layout import EXIT_CODE_FILE
from aha.launch.processes import begin, end, end_at_once, handled
from aha.types import RunFailure, Stopped

# A closed terminal: the processes know no such signal, and are to save. Windows has none.
_AS = {getattr(signal, "SIGHUP", None): signal.SIGTERM}


def run_agent(command: Sequence[str], environment: Mapping[str, str], exit_file: Path) -> int:
    """Start accelerate, hand every signal on to the processes under it, and wait.

    Returns the run's exit code, which they leave in `exit_file`. Errors: Stopped when a signal
    ended what could not save, RunFailure when a process failed without a word.
    """
    told = {**environment, EXIT_CODE_FILE: str(exit_file.resolve())}
    signals = _Signals()
    try:
        with handled(signals.take):
            code = signals.watch(begin(command, told))
        if exit_file.exists():
            return int(exit_file.read_text(encoding="utf-8"))
    finally:
        exit_file.unlink(missing_ok=True)
    if signals.last is not None:
        name = signal.Signals(signals.last).name
        raise Stopped(f"ended by {name}; nothing more was saved", 128 + signals.last)
    if code:
        raise RunFailure(f"a training process failed (exit code {code}); see its messages above.")
    return 0


class _Signals:
    """Takes signals before there is anything to hand them on to, and hands them on."""

    def __init__(self) -> None:
        self.last: int | None = None
        self._agent: subprocess.Popen[bytes] | None = None

    def take(self, number: int, frame: FrameType | None) -> None:
        self.last = number
        if self._agent is not None:
            _hand_on(self._agent, number)

    def watch(self, agent: subprocess.Popen[bytes]) -> int:
        """Hand signals on to what is under `agent` until it ends; its exit code."""
        self._agent = agent
        try:
            if self.last is not None:
                _hand_on(agent, self.last)
            return agent.wait()
        finally:
            end(agent)


def _hand_on(agent: subprocess.Popen[bytes], number: int) -> None:
    if agent.poll() is not None:
        return
    ranks = ranks_of(agent.pid)
    for rank in ranks:
        rank.send_signal(_AS.get(signal.Signals(number), number))
    if not ranks:
        # Still loading, or waiting for other nodes: nothing to save, and nobody to ask.
        end_at_once(agent)


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
