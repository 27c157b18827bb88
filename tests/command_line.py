"""`aha` as a person starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def aha(
    *arguments: str, cwd: Path | None = None, typed: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with more in its environment, and what is typed."""
    return subprocess.run(
        [sys.executable, "-m", "aha.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        input=typed,
        env={**os.environ, **environment},
        timeout=120,
    )
