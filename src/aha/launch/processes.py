"""Programs that a launcher starts: accelerate with its training processes, and a vLLM server.

They run in sessions of their own, so that only the launcher's signals reach them: a training
process must save before the server it generates with ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from aha.launch import EXIT_CODE_FILE
from aha.types import RunFailure, Stopped

_TERMINATE_S = 60.0
_KILL_S = 5.0
# Reading and compiling a model of some billions of parameters takes minutes.
_SERVER_START_S = 1800.0
_SERVER_POLL_S = 2.0


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a program to end, and after a minute kill it and all its descendants."""
    if process.poll() is not None:
        return
    tree = _tree(process)
    try:
        process.terminate()
        process.wait(_TERMINATE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _kill(tree)
        process.wait()


def _tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    top = psutil.Process(process.pid)
    return [top, *top.children(recursive=True)]


def _kill(processes: Sequence[psutil.Process]) -> None:
    for one in processes:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    # Their GPUs and ports are free when they are gone.
    psutil.wait_procs(processes, timeout=_KILL_S)


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals that end a run; an ignored one, as under nohup, stays ignored."""
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


def _stopped(number: int) -> Stopped:
    name = signal.Signals(number).name
    return Stopped(f"ended by {name}; nothing more was saved", 128 + number)


def run_agent(command: Sequence[str], environment: Mapping[str, str], exit_file: Path) -> int:
    """Start accelerate, pass every signal on to the training processes under it, and wait.

    Returns the exit code that a training process leaves in `exit_file`; without one, Stopped after
    a signal, and RunFailure for a failure.
    """
    received: list[int] = []
    agent: subprocess.Popen[bytes] | None = None

    def take(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if agent is not None:
            _pass_on(agent, number)

    told = {**environment, EXIT_CODE_FILE: str(exit_file.resolve())}
    try:
        with handled(take):
            agent = subprocess.Popen(command, env=told, start_new_session=True)  # noqa: S603
            try:
                # A signal may have come before `agent` was set.
                for number in received[-1:]:
                    _pass_on(agent, number)
                code = agent.wait()
            finally:
                end(agent)
        if exit_file.exists():
            return int(exit_file.read_text(encoding="utf-8"))
    finally:
        exit_file.unlink(missing_ok=True)
    if received:
        raise _stopped(received[-1])
    if code:
        raise RunFailure(f"a training process failed (exit code {code}); see its messages above.")
    return 0


def _pass_on(agent: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the training processes under accelerate, not to their own children."""
    if agent.poll() is not None:
        return
    ranks = []
    for process in psutil.Process(agent.pid).children():
        try:
            if "LOCAL_RANK" in process.environ():
                ranks.append(process)
        except psutil.NoSuchProcess:  # it has just ended
            continue
    # A training process does not handle a closed terminal; it must save. Windows has no SIGHUP.
    hang_up = number == getattr(signal, "SIGHUP", None)
    for rank in ranks:
        rank.send_signal(signal.SIGTERM if hang_up else number)
    if not ranks:
        # Still loading, or waiting for other nodes: there is nothing to save. `end` would wait for
        # the lock of the `agent.wait()` that this signal interrupted.
        _kill(_tree(agent))


@contextmanager
def serving(
    command: Sequence[str], gpus: Sequence[str], health: str, log: Path, say: Callable[[str], None]
) -> Iterator[None]:
    """Run a vLLM server on `gpus`, and wait until the address `health` answers.

    Errors: RunFailure when it ends or is not up in time; its output is in `log`. Stopped when a
    signal arrives that nothing inside handles.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise _stopped(number)

    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    say(f"vLLM server on GPU {', '.join(gpus)}; its log is {log}")
    with handled(stop):
        with log.open("wb") as output:
            server = subprocess.Popen(  # noqa: S603
                command,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + _SERVER_START_S
            while True:
                if server.poll() is not None:
                    code = server.returncode
                    raise RunFailure(f"the vLLM server ended with code {code}; see {log}.")
                with suppress(OSError):  # URLError, too: it is still loading
                    urllib.request.urlopen(health, timeout=5).close()  # noqa: S310
                    break
                if time.monotonic() > deadline:
                    raise RunFailure(
                        f"the vLLM server was not up after {_SERVER_START_S:.0f} s; see {log}."
                    )
                time.sleep(_SERVER_POLL_S)
            yield
        finally:
            end(server)
