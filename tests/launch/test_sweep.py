"""A sweep: its plan, its table, and that it goes on after a stop."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aha.launch import SweepRequest
from aha.launch.sweep import Row, finished, jobs_of, plan, summaries
from aha.reasoning.compare import student
from aha.runs import usable_cores
from aha.types import UserError

SMALL = (
    "evaluation.n=4", "grpo.prompts_per_step=2", "generation.num_generations=2",
    "generation.max_completion_length=16",
)  # fmt: skip


def request(**changes: Any) -> SweepRequest:
    return SweepRequest(
        **{"recipe": "countdown-tiny", "vary": ["grpo.loss_type=grpo,dapo"]} | changes
    )


def test_every_combination_with_every_seed(tmp_path: Path) -> None:
    vary = ["grpo.loss_type=grpo,dapo", "rewards=[{name: accuracy}],[{name: format}]"]
    cells = plan(request(vary=vary, seeds=2, overrides=["train.max_steps=3"]), tmp_path)
    assert len(cells) == 8
    assert len({cell.folder for cell in cells}) == 8
    first = cells[0]
    assert first.overrides[:2] == ("train.max_steps=3", "grpo.loss_type=grpo")
    assert first.overrides[-1] == "train.seed=0"
    assert cells[-1].setting == 'grpo.loss_type=dapo, rewards=[{"name": "format"}]'
    assert all(
        set(cell.folder.name) <= set("0123456789-_=.") | set(map(chr, range(65, 123)))
        for cell in cells
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vary": None}, "needs --vary KEY=V1,V2"),
        ({"vary": ["grpo.loss_type"]}, "--vary is 'grpo.loss_type'; allowed is KEY=V1,V2"),
        ({"vary": ["grpo.loss_type=[grpo"]}, "allowed is KEY=V1,V2"),
        ({"vary": ["grpo.loss_type=grpo,ppo"]}, "ppo"),
        ({"vary": ["grpo.loss_type=grpo,grpo"]}, "a value stands there twice"),
        ({"vary": ["grpo.beta=0", "grpo.beta=1"]}, "names grpo.beta twice"),
        ({"vary": ["train.seed=1,2"]}, "--seeds N is for that"),
        ({"recipe": "countdown-tin"}, "countdown-tin"),
    ],
)
def test_a_wrong_plan_is_one_sentence(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        plan(request(**changes), tmp_path)


def test_no_more_runs_at_a_time_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aha.launch.sweep.visible_gpus", lambda: 0)
    assert jobs_of(request()) == 1
    assert jobs_of(request(jobs=usable_cores())) == usable_cores()
    with pytest.raises(UserError, match="the cores here"):
        jobs_of(request(jobs=usable_cores() + 1))
    monkeypatch.setattr("aha.launch.sweep.visible_gpus", lambda: 3)
    assert jobs_of(request()) == 3
    # More runs than GPUs share them.
    assert jobs_of(request(jobs=usable_cores())) == usable_cores()


def test_a_setting_against_the_first_by_hand() -> None:
    def row(setting: str, seed: int, after: float | None) -> Row:
        return Row(setting, seed, 0.1, after, 10.0 + seed, 5.0)

    rows = [row("a", 0, 0.5), row("a", 1, 0.6), row("a", 2, 0.4)]
    rows += [row("b", 0, 0.6), row("b", 2, 0.6), row("c", 0, None)]
    a, b, c = summaries(rows)
    assert (a.seeds, a.difference, a.p) == (3, None, None)
    assert a.accuracy is not None
    # Mean 0.5, deviation 0.1; t(0.975, 2) = 4.303.
    assert a.accuracy.high == pytest.approx(0.5 + 4.303 * 0.1 / math.sqrt(3), abs=1e-3)
    # Seeds 0 and 2: 0.1 and 0.2. t = 0.15 / 0.05 = 3, so p = 2 (1 - F(3)) = 0.2048 with one degree.
    assert b.difference is not None
    assert b.difference.value == pytest.approx(0.15)
    assert b.p == pytest.approx(0.2048, abs=1e-3)
    assert (c.accuracy, c.difference) == (None, None)
    assert student([0.3]).high == math.inf
    assert summaries([]) == []


def command(output: Path, *changes: str, seeds: int = 1) -> list[str]:
    settings = [word for one in (*SMALL, *changes) for word in ("--set", one)]
    return [sys.executable, "-m", "aha.cli.main", "sweep", "countdown-tiny", "--output",
            str(output), "--vary", "grpo.loss_type=grpo,dapo", "--seeds", str(seeds),
            *settings]  # fmt: skip


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "sweep.csv").read_text(encoding="utf-8").splitlines()))


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_counts_no_run_twice(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    first = folder / "runs" / "01-grpo.loss_type=grpo-seed-0"
    run = command(folder, "train.max_steps=2")
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        for _ in range(600):
            if finished(first) or process.poll() is not None:
                break
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    assert finished(first)
    metrics = (first / "metrics.jsonl").read_bytes()
    # A run that the killed sweep had started may still be writing.
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(run, capture_output=True, text=True)
        if done.returncode == 0 or time.monotonic() > deadline:
            break
        time.sleep(1.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (first / "metrics.jsonl").read_bytes() == metrics
    assert [(row["setting"], row["seed"]) for row in table(folder)] == [
        ("grpo.loss_type=grpo", "0"),
        ("grpo.loss_type=dapo", "0"),
    ]
    assert list(table(folder)[0]) == [
        "setting", "seed", "accuracy_before", "accuracy_after", "mean_length", "seconds",
    ]  # fmt: skip
    page = (folder / "sweep.html").read_text(encoding="utf-8")
    assert "2 of 2 runs are done" in page
    # Nothing is left to do, and another sweep is not mixed in.
    again = subprocess.run(run, capture_output=True, text=True)
    assert "2 runs, 2 done" in again.stdout
    other = subprocess.run(command(folder, "train.max_steps=3"), capture_output=True, text=True)
    assert other.returncode == 2
    assert "holds a sweep whose set is" in other.stderr


def test_a_stopped_sweep_saves_and_leaves_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with subprocess.Popen(
        command(folder, "train.max_steps=100000"), stdout=subprocess.PIPE, text=True
    ) as process:
        run = folder / "runs" / "01-grpo.loss_type=grpo-seed-0"
        for _ in range(600):
            if (run / "metrics.jsonl").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        # Not SIGINT: a shell that started the tests in the background may have switched it off.
        process.terminate()
        said, _ = process.communicate()
    assert process.returncode == 143
    assert "0 of 2 runs are done" in said
    assert table(folder) == []
    # It saved before it ended.
    assert list((run / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_run_that_fails_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    reward = tmp_path / "rewards.py"
    reward.write_text(
        "calls = [0]\n\n\ndef bad(completions, **_):\n    calls[0] += 1\n"
        "    return [0.0] * len(completions) if calls[0] == 1 else [1 / 0]\n"
    )
    run = command(folder, "train.max_steps=2", f"rewards=[{{name: {reward}:bad}}]")
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 1
    assert "2 of 2 runs failed" in done.stderr
    assert "Traceback" not in done.stderr
