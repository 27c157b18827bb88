"""Nothing needs Linux to be imported: what Windows lacks is taken away in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
# Other packages are loaded first: they look after themselves by names of platforms.
PROGRAM = """
import importlib, os, pkgutil, signal, sys
import aha

names = [found.name for found in pkgutil.walk_packages(aha.__path__, "aha.")]
for name in names:
    importlib.import_module(name)
for name in [name for name in sys.modules if name.partition(".")[0] == "aha"]:
    del sys.modules[name]
for name in ("resource", "fcntl", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("sched_getaffinity", "fork", "getuid", "geteuid", "killpg", "setsid", "getpgid"):
    delattr(os, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "setitimer"):
    delattr(signal, name)
for name in names:
    importlib.import_module(name)

from aha.launch.processes import handled
from aha.rewards.call import time_limit
from aha.runs import usable_cores
from aha.train.stop import StopRequest

with handled(lambda *_: None), StopRequest().listening(), time_limit(1.0):
    assert usable_cores() >= 1
print(len(names))
"""


@pytest.mark.slow
def test_every_module_is_imported_without_what_only_some_systems_have() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 100
