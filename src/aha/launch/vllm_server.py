"""TRL's vLLM server on GPUs of its own, beside the processes that train.

The layout of one GPU that generates while the others train. The server is TRL's: `trl vllm-serve`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aha.launch.processes import begin, end
from aha.recipe import Recipe
from aha.sections import TrlSection
from aha.trl.config import vllm_server_dtype
from aha.types import RunFailure

# Reading and compiling a model of some billions of parameters takes minutes.
_PATIENCE_S = 1800.0
_INTERVAL_S = 2.0


def server_command(recipe: Recipe, model: str, gpus: int) -> list[str]:
    """The command of the server; `model` is where the weights are."""
    section = recipe.trl or TrlSection()
    return [
        sys.executable, "-m", "trl.cli.main", "vllm-serve",
        "--model", model,
        "--host", section.vllm_server_host,
        "--port", str(section.vllm_server_port),
        "--tensor_parallel_size", str(gpus),
        "--dtype", vllm_server_dtype(recipe),
    ]  # fmt: skip


def health_address(recipe: Recipe) -> str:
    """The address that answers once the server is up."""
    section = recipe.trl or TrlSection()
    return f"http://{section.vllm_server_host}:{section.vllm_server_port}/health"


@contextmanager
def serving(
    command: Sequence[str], gpus: Sequence[str], health: str, log: Path, say: Callable[[str], None]
) -> Iterator[None]:
    """The server, up and well, while inside; `health` is the address that says so.

    Errors: RunFailure when it ends or is not up in time; `log` has what it wrote.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    say(f"vLLM server on GPU {', '.join(gpus)}; its log is {log}")
    # A signal ends training first, which needs the server until it has saved.
    server = begin(command, environment, log)
    try:
        _wait_until_up(server, health, log)
        yield
    finally:
        end(server)


def _wait_until_up(server: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RunFailure(f"the vLLM server ended with code {server.returncode}; see {log}.")
        if _answers(health):
            return
        time.sleep(_INTERVAL_S)
    raise RunFailure(f"the vLLM server was not up after {_PATIENCE_S:.0f} s; see {log}.")


def _answers(health: str) -> bool:
    try:
        with urllib.request.urlopen(health, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
