"""`aha` in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """`aha` in a process of its own, its output in one stream."""
    return subprocess.Popen(
        [sys.executable, "-m", "aha.cli", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*arguments: str | Path, cwd: Path) -> tuple[int, str]:
    process = start(*arguments, cwd=cwd)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output
