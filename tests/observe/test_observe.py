from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aha.observe.console import ConsoleObserver
from aha.observe.record import group_metrics
from aha.observe.samples import sample_record, sample_text
from aha.observe.tensorboard import TensorBoardObserver
from aha.recipe import LoggingSection
from aha.types import Completion, Group, Problem, Prompt, Score

RIGHT = " 5 + 6 = 11 , yes . </think> <answer> 5 + 6 </answer>"
WRONG = " 6 - 5 = 1 , not 11 . Wait, </think> <answer> 6 - 5 </answer>"


def group(*texts: str) -> Group:
    completions = tuple(Completion(t, (3,) * len(t.split()), (), "stop") for t in texts)
    scores = tuple(
        Score({"accuracy": float(t == RIGHT), "judge": None}, {"accuracy": float(t == RIGHT)},
              float(t == RIGHT))
        for t in texts
    )  # fmt: skip
    advantages = tuple(s.reward - 0.5 for s in scores)
    problem = Problem("countdown", "k", {"target": 11, "nums": [5, 6]})
    return Group(problem, Prompt("p <think>", "<think>", ()), completions, scores, advantages)


def test_metrics_by_hand() -> None:
    metrics = group_metrics([group(RIGHT, WRONG)])
    assert metrics["reward"] == 0.5
    assert metrics["reward_std"] == pytest.approx(math.sqrt(0.5))
    assert metrics["frac_reward_zero_std"] == 0.0
    assert metrics["rewards/accuracy/mean"] == 0.5
    assert metrics["rewards/accuracy/max"] == 1.0
    assert "rewards/judge/mean" not in metrics
    assert metrics["accuracy"] == 0.5
    assert metrics["format_rate"] == 1.0
    assert metrics["reflection_rate"] == 0.5
    assert metrics["completions/min_length"] == len(RIGHT.split())
    assert metrics["completions/clipped_ratio"] == 0.0
    assert metrics["tokens"] == len(RIGHT.split()) + len(WRONG.split())


def test_samples_show_reward_and_advantage_apart() -> None:
    text = sample_text(5, group(RIGHT, WRONG))
    assert "step 5  target=11, nums=[5, 6]" in text
    assert "[1] reward 1.000  advantage +0.500  (accuracy 1 -> 1, judge none" in text
    assert WRONG in text
    record = sample_record(5, group(RIGHT, WRONG))
    assert [c["advantage"] for c in record["completions"]] == [0.5, -0.5]
    assert record["completions"][0]["rewards"] == {"accuracy": 1.0, "judge": None}


def test_the_console_prints_plain_lines_outside_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=40)
    observer = ConsoleObserver(console, 10, 0, LoggingSection(logging_steps=5))
    groups = [group(RIGHT, WRONG)]
    for step in range(1, 11):
        observer.on_step({"step": step, "time/step_s": 0.5, **group_metrics(groups)}, groups)
    observer.note("[red]not markup[/red]")
    observer.close()
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == ["step 1/10", "step 5/10", "step 10/10"]
    assert "accuracy 50%" in lines[0]
    assert "reflection 0.50" in lines[0]
    assert lines[-1] == "[red]not markup[/red]"


def test_the_console_is_live_in_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160)
    observer = ConsoleObserver(console, 2, 0, LoggingSection())
    groups = [group(RIGHT, WRONG)]
    for step in (1, 2):
        observer.on_step({"step": step, "time/step_s": 0.5, **group_metrics(groups)}, groups)
    observer.close()
    assert "2/2" in stream.getvalue()
    assert "accuracy 50%" in stream.getvalue()


def test_tensorboard_reads_back_and_resumes_without_the_lost_steps(tmp_path: Path) -> None:
    first = TensorBoardObserver(tmp_path, resumed_at=0)
    for step in (1, 2, 3):
        first.on_step({"step": step, "reward": step / 10, "rewards/format/mean": 1.0}, [])
    first.close()
    second = TensorBoardObserver(tmp_path, resumed_at=2)
    second.on_step({"step": 3, "reward": 0.9}, [])
    second.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"train/reward", "train/rewards/format/mean"} <= set(events.Tags()["scalars"])
    values = [(e.step, e.value) for e in events.Scalars("train/reward")]
    assert values == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2)), (3, pytest.approx(0.9))]
