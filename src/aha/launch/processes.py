"""Programs that a launcher starts: apart from its own signals, and with an end for all of them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from aha.types import Stopped

_PATIENCE_S = 60.0
_LAST_S = 5.0


def begin(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program whose signals come from here alone: Ctrl-C in a terminal is not its.

    `log`: a file for what it writes; none: where this process writes.
    """
    file = None if log is None else log.open("wb")
    try:
        return subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdout=file,
            stderr=None if file is None else subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        if file is not None:
            file.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a program to end, wait for a minute, and leave nothing of it running."""
    if process.poll() is not None:
        return
    tree = _tree(process)
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _kill(tree)
        process.wait()


def end_at_once(process: subprocess.Popen[bytes]) -> None:
    """End a program that has nothing to lose, and all below it, in whatever session."""
    if process.poll() is None:
        _kill(_tree(process))


def _tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    top = psutil.Process(process.pid)
    return [top, *top.children(recursive=True)]


def _kill(processes: Sequence[psutil.Process]) -> None:
    for one in processes:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    # What they held, GPUs and ports, is free when they are gone.
    psutil.wait_procs(processes, timeout=_LAST_S)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """While inside, a signal is Stopped, raised here, so that what was begun is ended."""

    def stop(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise Stopped(f"ended by {name}; nothing more was saved", 128 + number)

    with handled(stop):
        yield


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Take the signals that end a run; one that is ignored, as under nohup, stays ignored."""
    names = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
