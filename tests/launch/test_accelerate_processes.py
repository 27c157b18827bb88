"""`aha launch accelerate` with real processes on CPUs: two of them, and two nodes on one machine.

Each strategy trains the embedded default, is stopped by SIGTERM, goes on and ends better than it
began; its checkpoint is evaluated as any other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from aha.runs import RunDirectory
from aha.train.checkpoint import read_state
from ports import free_port

STEPS = 30
# Half the prompts, and a rate at which few steps show that it learns.
SMALL = ["grpo.prompts_per_step=12", "optimizer.learning_rate=5e-4", "evaluation.n=200",
         f"train.max_steps={STEPS}", "train.save_steps=50", "logging.logging_steps=1",
         "logging.report_to=[]"]  # fmt: skip
PATIENCE_S = 900


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "aha.cli.main", "launch", "accelerate", *arguments]


@contextmanager
def started(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            arguments, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(120)


def finished(arguments: list[str], log: Path) -> str:
    with started(arguments, log) as process:
        process.wait(PATIENCE_S)
    text = log.read_text()
    assert process.returncode == 0, text
    return text


def wait_for_steps(run: Path, steps: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < steps:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


def settings(*more: str) -> list[str]:
    return [part for change in (*SMALL, *more) for part in ("--set", change)]


def check_run(path: Path) -> dict[str, Any]:
    """Every step once, better than before, a checkpoint that transformers loads."""
    run = RunDirectory.open(path)
    assert [record["step"] for record in run.metrics()] == list(range(1, STEPS + 1))
    before, after = (run.evaluation()[when] for when in ("before", "after"))
    assert after["accuracy"] > before["accuracy"] + 0.05
    AutoModelForCausalLM.from_pretrained(run.checkpoints / f"step-{STEPS:06d}")
    assert run.report_file.exists()
    return dict(after)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2", "zero3"])
def test_two_processes_learn_stop_and_go_on(strategy: str, tmp_path: Path) -> None:
    if strategy.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    run, layout = tmp_path / "run", ["--processes", "2", "--strategy", strategy, "--cpu"]
    first = command("countdown-tiny", *layout, "--output", str(run), *settings())
    with started(first, tmp_path / "first.log") as process:
        wait_for_steps(run, 3, process, tmp_path / "first.log")
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    text = (tmp_path / "first.log").read_text()
    assert process.returncode == 128 + signal.SIGTERM, text
    assert text.count("stopped by SIGTERM after saving") == 1
    assert "Traceback" not in text
    saved = [path.name for path in (run / "checkpoints").glob("step-*")]
    assert len(saved) == 1
    text = finished(command("--resume", str(run), *layout), tmp_path / "second.log")
    assert f"from the checkpoint of step {int(saved[0].removeprefix('step-'))}" in text
    after = check_run(run)
    state = read_state(run / "checkpoints" / f"step-{STEPS:06d}")
    # Nothing ran as plain copies in silence.
    assert state["sharding"] == {"ddp": "none", "fsdp2": "fsdp"}.get(strategy, "deepspeed")
    again = subprocess.run(
        [sys.executable, "-m", "aha.cli.main", "eval", str(run), "--json",
         "--output", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(again.stdout)["accuracy"] == pytest.approx(after["accuracy"], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_nodes_stop_and_go_on_with_launchers_of_their_own(
    strategy: str, tmp_path: Path
) -> None:
    """Few steps: what is learned does not depend on who started the processes."""
    if strategy.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    run = tmp_path / "run"
    few = settings("train.max_steps=5", "grpo.prompts_per_step=4", "evaluation.n=20",
                   "train.max_hours=1e-9")  # fmt: skip
    begin = ["countdown-tiny", "--output", str(run), *few]
    ended = _two_nodes(["--strategy", strategy, *begin], tmp_path)
    # The time limit's own code, on each node.
    assert ended.codes == (3, 3), ended.logs
    done = len(RunDirectory.open(run).metrics())
    assert 0 < done < 5
    go_on = ["--resume", str(run), "--set", "train.max_hours=null"]
    ended = _two_nodes(["--strategy", strategy, *go_on], tmp_path)
    assert ended.codes == (0, 0), ended.logs
    # One speaks for all.
    assert "step 5/5" in ended.logs[0]
    assert "step 5/5" not in ended.logs[1]
    assert [r["step"] for r in RunDirectory.open(run).metrics()] == [1, 2, 3, 4, 5]
    AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step-000005")


@pytest.mark.slow
def test_under_deepspeed_nodes_without_a_common_folder_do_not_begin(tmp_path: Path) -> None:
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    few = settings("train.max_steps=5", "grpo.prompts_per_step=4", "evaluation.n=0")
    begin = ["countdown-tiny", "--strategy", "zero2", "--output", "run", *few]
    ended = _two_nodes(begin, tmp_path, apart=True)
    assert ended.codes == (2, 2), ended.logs
    assert "'run' is not the same folder for process 1" in ended.logs[0]
    assert "Traceback" not in "".join(ended.logs)


@dataclass(frozen=True)
class _Ended:
    codes: tuple[int, int]
    logs: tuple[str, str]


def _two_nodes(arguments: list[str], folder: Path, apart: bool = False) -> _Ended:
    """`apart`: each works in a folder of its own."""
    port, places = str(free_port()), [folder / "head", folder / "other"]
    logs = [(place if apart else folder) / f"{place.name}.log" for place in places]
    nodes = [
        command(*arguments, "--processes", "2", "--nodes", "2", "--node-rank", str(rank), "--head",
                "127.0.0.1", "--port", port, "--cpu", "--folder", str(folder / "files"))
        for rank in (0, 1)
    ]  # fmt: skip
    for place in places:
        place.mkdir(exist_ok=True)
    with started(nodes[0], logs[0]) as head, started(nodes[1], logs[1]) as other:
        codes = (head.wait(PATIENCE_S), other.wait(120))
    return _Ended(codes, (logs[0].read_text(), logs[1].read_text()))


@pytest.mark.slow
def test_a_mistake_ends_all_processes_in_one_sentence(tmp_path: Path) -> None:
    """It is one that only the processes themselves can see."""
    done = subprocess.run(
        command("countdown-tiny", "--processes", "2", "--cpu", "--folder", str(tmp_path / "f"),
                "--output", str(tmp_path / "run"), "--set", "model.name=./nowhere"),
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "nowhere" in line]
    assert lines == [lines[0]]
    assert lines[0].startswith("error: model.name: './nowhere' does not exist")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
