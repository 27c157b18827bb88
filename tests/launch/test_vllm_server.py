"""The server beside the training: waited for, ended with it, and said when it does not come up."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from aha.launch import processes
from aha.launch.accelerate import health_address, server_command, vllm_server_dtype
from aha.launch.processes import serving
from aha.recipe import load_recipe
from aha.types import RunFailure, Stopped
from left_running import nothing_left_running
from ports import free_port

SERVER = """
import http.server, os, sys, time
time.sleep(1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(os.environ["CUDA_VISIBLE_DEVICES"].encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_it_is_up_inside_and_gone_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_SERVER_POLL_S", 0.1)
    port, said = free_port(), list[str]()
    health = f"http://127.0.0.1:{port}/health"
    command = [sys.executable, "-c", SERVER, str(port)]
    with (
        serving(command, ["3", "4"], health, tmp_path / "log", said.append),
        urllib.request.urlopen(health) as answer,
    ):
        # It sees its own GPUs alone.
        assert answer.read() == b"3,4"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(health, timeout=5)
    assert said == [f"vLLM server on GPU 3, 4; its log is {tmp_path / 'log'}"]


def test_one_that_ends_is_named_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('no GPU'); sys.exit(7)"]
    health, log = f"http://127.0.0.1:{free_port()}/health", tmp_path / "log"
    with (
        pytest.raises(RunFailure, match=r"the vLLM server ended with code 7; see .*log"),
        serving(command, ["0"], health, log, print),
    ):
        pass
    assert log.read_text() == "no GPU\n"


def test_one_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_SERVER_POLL_S", 0.05)
    monkeypatch.setattr(processes, "_SERVER_START_S", 0.3)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    health = f"http://127.0.0.1:{free_port()}/health"
    with (
        pytest.raises(RunFailure, match="was not up after"),
        serving(command, ["0"], health, tmp_path / "log", print),
    ):
        pass


def test_a_signal_while_it_starts_leaves_nothing_running(tmp_path: Path) -> None:
    # With a child of its own, as vLLM's workers are.
    started = tmp_path / "started"
    program = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({str(started)!r}).write_text(str(child.pid))
time.sleep(60)
"""

    def end_it() -> None:
        while not started.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=end_it)
    killer.start()
    health = f"http://127.0.0.1:{free_port()}/health"
    with (
        nothing_left_running(),
        pytest.raises(Stopped, match="ended by SIGTERM; nothing more was saved"),
        serving([sys.executable, "-c", program], ["0"], health, tmp_path / "log", print),
    ):
        pass
    killer.join()
    pid = int(started.read_text())
    # A zombie until the system reaps it.
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ([], "auto"),
        (["model.autocast=none"], "float32"),
        (["model.autocast=none", "lora={}"], "auto"),
        (["model.autocast=none", "model.dtype=float32", "lora={}"], "float32"),
        (["model.autocast=bfloat16"], "bfloat16"),
        (["model.dtype=bfloat16"], "bfloat16"),
        (["model.dtype=float32"], "auto"),
    ],
)
def test_the_server_samples_in_the_type_that_is_trained(changes: list[str], dtype: str) -> None:
    assert vllm_server_dtype(load_recipe("countdown-tiny", changes)) == dtype


def test_trl_takes_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are read by TRL's own parser."""
    pytest.importorskip("trl.trainer", reason="trl is not installed; it needs Python 3.11")
    from trl.scripts.vllm_serve import ScriptArguments

    from trl import TrlParser

    recipe = load_recipe(
        "countdown-tiny", ["engine=trl", "trl={vllm: server, vllm_server_port: 8123}"]
    )
    command = server_command(recipe, "some/model", 2)
    assert command[:4] == [sys.executable, "-m", "trl.cli.main", "vllm-serve"]
    (read,) = TrlParser(ScriptArguments).parse_args_into_dataclasses(command[4:])
    assert (read.model, read.port, read.tensor_parallel_size) == ("some/model", 8123, 2)
    assert read.dtype == "auto"
    assert health_address(recipe) == "http://127.0.0.1:8123/health"
