"""Signals and exit codes pass through the launcher, with small programs in accelerate's place."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from aha.launch import EXIT_CODE_FILE
from aha.launch.processes import run_agent
from aha.types import RunFailure, Stopped
from left_running import nothing_left_running

# A rank that leaves its exit code, as `aha.cli.main` does, and ends well; it says when it listens.
RANK = f"""
import os, pathlib, signal, sys, time
def stop(number, frame):
    pathlib.Path(os.environ["{EXIT_CODE_FILE}"]).write_text(str(128 + number))
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, stop)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""
AGENT = f"""
import os, subprocess, sys
rank = [sys.executable, "-c", {RANK!r}, sys.argv[1]]
sys.exit(subprocess.run(rank, env={{**os.environ, "LOCAL_RANK": "0"}}).returncode)
"""
SLEEPS = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"


def run(
    program: str,
    tmp_path: Path,
    *signals: signal.Signals,
    default: signal.Handlers = signal.SIG_DFL,
) -> int:
    """The agent, with signals to this process once it is ready."""
    ready = tmp_path / "ready"

    def send() -> None:
        until = time.monotonic() + 30
        while not ready.exists() and time.monotonic() < until:
            time.sleep(0.05)
        for number in signals:
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    if signals:
        sender.start()
    # In the background of a shell, or under nohup, tests begin with signals ignored.
    before = {number: signal.signal(number, default) for number in signals}
    try:
        command = [sys.executable, "-c", program, str(ready)]
        with nothing_left_running():
            return run_agent(command, dict(os.environ), tmp_path / "code")
    finally:
        if signals:
            sender.join()
        for number, handler in before.items():
            signal.signal(number, handler)
        assert not (tmp_path / "code").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
        (signal.SIGUSR1, 138),
        # A closed terminal: the ranks are asked to save.
        (signal.SIGHUP, 143),
    ],
)
def test_a_signal_reaches_the_ranks_and_their_code_comes_back(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    assert run(AGENT, tmp_path, number) == code


def test_before_there_are_ranks_a_signal_ends_it_all(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Stopped, match="ended by SIGTERM; nothing more was saved") as stopped:
        run(SLEEPS, tmp_path, signal.SIGTERM)
    assert stopped.value.code == 143
    assert time.monotonic() - began < 30


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    program = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(2)"
    assert run(program, tmp_path, signal.SIGHUP, default=signal.SIG_IGN) == 0


def test_a_failure_without_a_word_is_one(tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match=r"a training process failed \(exit code 7\)"):
        run("import sys; sys.exit(7)", tmp_path)
    assert run("pass", tmp_path) == 0
