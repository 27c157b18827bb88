"""The demo needs nothing that only Unix has. Windows' missing names are taken away beforehand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# torch and transformers are imported first: they have ways of their own on Windows.
WITHOUT_UNIX = """
import os, shutil, signal, sys, types
import psutil, tensorboard, torch, torch.utils.tensorboard, transformers.trainer
import torch.distributed.elastic.timer

for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for owner, names in (
    (signal, ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "setitimer")),
    (os, ("O_DIRECTORY", "fork", "getuid", "killpg", "sched_getaffinity", "uname")),
):
    for name in names:
        delattr(owner, name)

opened = os.open
def open_as_windows(path, flags, *more, **named):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, flags, *more, **named)
os.open = open_as_windows
shutil._use_fd_functions = False  # Unix's way to remove a folder opens it
memory = types.SimpleNamespace(rss=2**29, peak_wset=2**30)
psutil._psplatform.Process.memory_info = lambda self: memory

import importlib, pkgutil
import aha
for module in pkgutil.walk_packages(aha.__path__, "aha."):
    # More than one process is for Linux: these need TRL, vLLM or signals.
    if not module.name.startswith(("aha.launch.", "aha.trl.", "aha.bench.trl_side")):
        importlib.import_module(module.name)

from aha.cli.main import main
main(["train", "--max-steps", "1", "--output", "run", "--set", "evaluation.n=4",
      "--set", "grpo.prompts_per_step=2", "--set", "generation.num_generations=4"])
"""


@pytest.mark.slow
def test_the_demo_runs_without_what_only_unix_has(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNIX],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (record,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert record["memory/peak_gb"] == 1.0
    assert (tmp_path / "run" / "checkpoints" / "step-000001").is_dir()
    assert (tmp_path / "run" / "report.html").is_file()
