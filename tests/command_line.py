"""`aha` as a person starts it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from aha.cli.main import main


def aha(
    *arguments: str, cwd: Path | None = None, typed: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with more in its environment, and what is typed."""
    return subprocess.run(
        [sys.executable, "-m", "aha.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        input=typed,
        env={**os.environ, **environment},
        timeout=120,
    )


def aha_here(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in this process, which has imported torch: a start takes seconds."""
    said, complained, before, code = io.StringIO(), io.StringIO(), Path.cwd(), 0
    os.chdir(cwd)
    try:
        with redirect_stdout(said), redirect_stderr(complained):
            main(list(arguments))
    except SystemExit as stopped:
        code = stopped.code
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(arguments, code, said.getvalue(), complained.getvalue())
