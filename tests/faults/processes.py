"""`aha` in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """`aha` in a process of its own, its output in one stream."""
    return subprocess.Popen(
        [sys.executable, "-m", "aha.cli.main", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*arguments: str | Path, cwd: Path) -> tuple[int, str]:
    process = start(*arguments, cwd=cwd)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def until_step(process: subprocess.Popen[str], step: int | None = None) -> bool:
    """Wait until the run says a step, the first or the given one; False when it ends before."""
    assert process.stdout is not None
    prefix = "step " if step is None else f"step {step}/"
    return any(line.startswith(prefix) for line in process.stdout)
