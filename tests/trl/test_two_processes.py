"""Two processes on a CPU, by gloo: one run, one voice, one end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from aha.recipe import load_recipe
from aha.runs import RunDirectory
from aha.tiny import weights_path
from aha.train.start import start_run
from ports import free_port

pytest.importorskip("trl.trainer")
pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parent / "native_turn.py"
SETTINGS = (
    "train.max_steps=3", "train.save_steps=1", "train.save_total_limit=3",
    "grpo.prompts_per_step=3", "generation.num_generations=4",
    "generation.max_completion_length=40", "evaluation.n=6", "logging.report_to=[]",
    "logging.samples_steps=1", "logging.samples_groups=3", "logging.logging_steps=1",
    "task.num_train=40", "model.device=cpu", "train.tokens_per_microbatch=100",
    "optimizer.learning_rate=1e-3", "optimizer.adam_epsilon=1e-3",
)  # fmt: skip


def start(*arguments: str | Path, program: str | Path = "-m") -> subprocess.Popen[str]:
    """`aha` in two processes, started by torchrun."""
    what = ["-m", "aha.cli.main"] if program == "-m" else [str(program)]
    return subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
            "--master_port", str(free_port()), *what, *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def train(output: Path, *changes: str) -> list[str | Path]:
    overrides = [part for setting in (*SETTINGS, *changes) for part in ("--set", setting)]
    return ["train", "--engine", "trl", "--output", output, *overrides]


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    yield from process.stdout


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / "step-000003" / "model.safetensors")


def comparable(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = ("time/", "memory/", "machine/")
    return [{k: v for k, v in r.items() if not k.startswith(own)} for r in records]


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_two_processes_make_the_run_of_one(loss_type: str, tmp_path: Path) -> None:
    # 12 rows on two processes: the second of three groups lies across both.
    changes = (f"grpo.loss_type={loss_type}", "grpo.beta=0.05", "grpo.num_iterations=2")
    native = start_run(load_recipe("countdown-tiny", [*SETTINGS, *changes]), tmp_path / "native")
    process = start(*train(tmp_path / "trl", *changes), program=DRIVER)
    output = "".join(lines(process))
    assert process.wait() == 0, output
    assert "12 completions a step on 2 processes: 3 microbatches of 2 each" in output
    assert output.count("run directory: ") == output.count("after training: ") == 1
    trl = RunDirectory.open(tmp_path / "trl")
    own = {"logprob_gap", "tokens_per_microbatch"}
    for ours, theirs in zip(comparable(native.metrics()), comparable(trl.metrics()), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - own:
            value = ours[key]
            same = pytest.approx(value, rel=2e-4, abs=2e-6) if type(value) is float else value
            assert theirs[key] == same, key
    samples = [(s["key"], [c["text"] for c in s["completions"]]) for s in native.read_lines(
        "samples.jsonl")]  # fmt: skip
    assert samples == [
        (s["key"], [c["text"] for c in s["completions"]]) for s in trl.read_lines("samples.jsonl")
    ]
    before = load_file(weights_path() / "model.safetensors")
    expected, got = weights(native), weights(trl)
    for name in expected:
        moved = (expected[name] - before[name]).norm()
        assert (got[name] - expected[name]).norm() < 1e-3 * moved, name
    assert trl.evaluation()["before"] == native.evaluation()["before"]


@pytest.mark.parametrize("whom", ["launcher", "second"])
def test_a_signal_ends_both_and_they_go_on_together(whom: str, tmp_path: Path) -> None:
    whole = start(*train(tmp_path / "whole"))
    assert "done in" in whole.communicate()[0]
    process = start(*train(tmp_path / "run", "train.save_steps=100"))
    said = lines(process)
    for line in said:
        if line.startswith("before training"):
            break
    ranks = [p for p in psutil.Process(process.pid).children() if "LOCAL_RANK" in p.environ()]
    second = next(p for p in ranks if p.environ()["LOCAL_RANK"] == "1")
    target = process.pid if whom == "launcher" else second.pid
    psutil.Process(target).send_signal(signal.SIGTERM)
    rest = "".join(said)
    process.wait()
    assert rest.count("stopped by SIGTERM after saving; go on with --resume") == 1
    run = RunDirectory.open(tmp_path / "run")
    done = len(run.metrics())
    assert 1 <= done < 3
    assert [path.name for path in run.checkpoints.glob("step-*")] == [f"step-00000{done}"]
    resumed = start("train", "--resume", run.path)
    output = "".join(lines(resumed))
    assert resumed.wait() == 0, output
    assert f"from the checkpoint of step {done}" in output
    other = RunDirectory.open(tmp_path / "whole")
    assert comparable(run.metrics()) == comparable(other.metrics())
    expected, got = weights(other), weights(run)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_reward_that_fails_on_the_main_process_ends_both(tmp_path: Path) -> None:
    # Its first call is the trial before the start, in both processes.
    (tmp_path / "rewards.py").write_text(
        "calls = []\n"
        "def fails(completions, **_):\n"
        "    calls.append(1)\n"
        "    return [1 / (len(calls) == 1) for _ in completions]\n"
    )
    rewards = f"rewards=[{{name: '{tmp_path / 'rewards.py'}:fails'}}]"
    process = start(*train(tmp_path / "run", rewards))
    output = "".join(lines(process))
    assert process.wait() != 0
    assert output.count("failed: reward 'fails' raised ZeroDivisionError") == 1
    # The launcher ends the other where it does not end first.
    assert "exitcode  : 1" in output


def test_a_mistake_is_said_once(tmp_path: Path) -> None:
    process = start(*train(tmp_path / "run", "rewards=[{name: beauty}]"))
    output = "".join(lines(process))
    assert process.wait() != 0
    assert output.count("error: rewards: 'beauty' is unknown") == 1
    assert "exitcode  : 2" in output
    assert not (tmp_path / "run").exists()
