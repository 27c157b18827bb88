from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aha.expected import Expected
from aha.observe.console import ConsoleObserver, sparkline
from aha.observe.record import Meter, group_metrics
from aha.observe.reporter import TensorBoardObserver
from aha.observe.samples import SamplesObserver, sample_record, sample_text
from aha.recipe import load_recipe
from aha.runs import RunDirectory
from aha.sections import LoggingSection
from aha.types import Completion, Group, Problem, Prompt, Score
from begun_run import begun_run

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
    record = sample_record(5, group(RIGHT, WRONG))
    text = sample_text(record)
    assert "step 5  target=11, nums=[5, 6]" in text
    assert "[1] reward 1.000  advantage +0.500  (accuracy 1 -> 1, judge none" in text
    assert WRONG in text
    assert [c["advantage"] for c in record["completions"]] == [0.5, -0.5]
    assert record["completions"][0]["rewards"] == {"accuracy": 1.0, "judge": None}


def full_record(step: int, groups: list[Group]) -> dict[str, Any]:
    """All that the loop records of a step."""
    return {
        "step": step, "epoch": 0.5, "loss": 0.25, "learning_rate": 1e-4, "grad_norm": 0.5,
        "kl": 0.0, "entropy": None, "clip_ratio": 0.125, **group_metrics(groups),
        "time/step_s": 0.5, "time/rollout_s": 0.2, "time/reward_s": 0.1, "time/train_s": 0.2,
        "time/samples_per_s": 4.0, "time/tokens_per_s": 80.0, "machine/cpu_percent": 150.0,
        "machine/ram_gb": 0.5, "machine/ram_percent": 12.0, "memory/peak_gb": 0.75,
    }  # fmt: skip


def test_the_console_prints_a_block_per_logging_step_outside_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=40)
    observer = ConsoleObserver(console, 10, 0, LoggingSection(logging_steps=5))
    groups = [group(RIGHT, WRONG)]
    for step in range(1, 11):
        observer.on_step(full_record(step, groups), groups)
    observer.note("[red]not markup[/red]")
    observer.close()
    lines = stream.getvalue().splitlines()
    headings = [line.split("  ")[0] for line in lines if line.startswith("step")]
    assert headings == ["step 1/10", "step 5/10", "step 10/10"]
    assert lines[1:9] == [
        "  policy   loss 0.25  KL 0.0000  entropy none  clipped 12.5%  grad norm 0.5000",
        "  reward   total 0.500 combined, within a group ± 0.707; 0% of groups without signal",
        "           accuracy    0.500 ± 0.500 [0.000, 1.000]",
        "  answers  right 50.0% strict, 50.0% lenient; format 100.0% (2/2)",
        "  length   15.0 tokens on average (14 to 16), 0.0% cut off",
        "  thinking 0.50 reflections a response  self-check 100%  backtracking 50%  sub-goals 0%  "
        "working backwards 0%",
        "  speed    step 0.50 s (rollout 0.20, reward 0.10, train 0.20)  4.0 samples/s  "
        "80 tokens/s",
        "  machine  CPU 150 %  RAM 0.50 GiB (machine 12 %)  peak 0.75 GiB",
    ]
    assert lines[-1] == "[red]not markup[/red]"


def test_the_console_compares_with_earlier_runs(tmp_path: Path) -> None:
    stream = io.StringIO()
    expected = Expected("here", 3, 2, {"accuracy": {2: (0.6, 0.7), 3: (0.4, 0.6)}}, {})
    # A resumed run: its first step was recorded before.
    past = [{"step": 1, "accuracy": 0.5}]
    settings, groups = LoggingSection(), [group(RIGHT, WRONG)]
    observer = ConsoleObserver(Console(file=stream, width=40), 3, 1, settings, expected, past)
    for step in (2, 3):
        observer.on_step(full_record(step, groups), groups)
    lines = [line.strip() for line in stream.getvalue().splitlines() if "earlier" in line]
    assert lines == [
        "earlier  accuracy is 50.0%, below the 60.0% to 70.0% seen before (3 runs of this recipe)",
        "earlier  accuracy is within what was seen before (3 runs of this recipe)",
    ]


def test_the_console_is_live_in_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, height=40)
    observer = ConsoleObserver(console, 2, 0, LoggingSection())
    groups = [group(RIGHT, WRONG)]
    for step in (1, 2):
        observer.on_step(full_record(step, groups), groups)
    observer.close()
    shown = stream.getvalue()
    assert "step 2/2" in shown
    assert "format 100.0% (2/2)" in shown
    assert "reflections" in shown


def test_the_console_can_be_text_in_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160)
    observer = ConsoleObserver(console, 1, 0, LoggingSection(console="text"))
    groups = [group(RIGHT, WRONG)]
    observer.on_step(full_record(1, groups), groups)
    observer.close()
    assert stream.getvalue().startswith("step 1/1  epoch 0.50  loss 0.25  learning rate 1.00e-04")


def test_a_sparkline_by_hand() -> None:
    assert sparkline([0.0, 7.0, 3.5], 10) == "▁█▅"
    assert sparkline([9.0, 0.0, 1.0], 2) == "▁█"
    assert sparkline([2.0, 2.0], 5) == "▁▁"
    assert sparkline([], 5) == ""


def test_the_meter_reads_this_process() -> None:
    read = Meter().read()
    assert read["machine/cpu_percent"] >= 0.0
    assert 0.01 < read["machine/ram_gb"] < 100.0
    assert 0.0 < read["machine/ram_percent"] <= 100.0


def test_the_meter_reads_energy_where_it_is_counted(tmp_path: Path) -> None:
    assert "machine/energy_j" not in Meter(tmp_path).read()
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "max_energy_range_uj").write_text("10000000\n")
    (package / "energy_uj").write_text("7000000\n")
    meter = Meter(tmp_path)
    (package / "energy_uj").write_text("9500000\n")
    assert meter.read()["machine/energy_j"] == 2.5
    # The counter begins again: half a joule to its end, and two more.
    (package / "energy_uj").write_text("2000000\n")
    assert meter.read()["machine/energy_j"] == 2.5


def written(tmp_path: Path, steps: int, **settings: Any) -> tuple[RunDirectory, list[str]]:
    """The samples of `steps` steps of two groups, the second without a right answer."""
    recipe = load_recipe("countdown-tiny")
    run = begun_run(recipe, tmp_path / "run")
    said: list[str] = []
    for first in (1, 2):
        # Two observers in turn: the second begins as one does after a resumption.
        observer = SamplesObserver(run, LoggingSection(samples_steps=2, **settings), said.append)
        for step in range(first, steps + 1, 2):
            groups = [group(WRONG, "\x1b[31mred"), group(WRONG, RIGHT)]
            observer.on_step({"step": step, "skipped": False, "sick_rows": []}, groups)
        observer.close()
    return run, said


def test_samples_of_every_few_steps(tmp_path: Path) -> None:
    run, said = written(tmp_path, 6)
    steps = [record["step"] for record in run.read_lines("samples.jsonl")]
    assert steps == [1, 1, 2, 2, 4, 4, 6, 6]
    names = sorted(path.name for path in run.samples.iterdir())
    assert names == [f"step_0000{step}.txt" for step in (1, 2, 4, 6)]
    assert said == []


def test_samples_of_right_answers_only(tmp_path: Path) -> None:
    run, _ = written(tmp_path, 2, samples_successful_only=True)
    texts = [[c["text"] for c in r["completions"]] for r in run.read_lines("samples.jsonl")]
    assert texts == [[WRONG, RIGHT]] * 2


def test_samples_end_at_their_limit_also_after_a_resumption(tmp_path: Path) -> None:
    run, _ = written(tmp_path, 6, samples_limit=3)
    assert [record["step"] for record in run.read_lines("samples.jsonl")] == [1, 1, 2]


def test_samples_on_the_console_cannot_steer_it(tmp_path: Path) -> None:
    _, said = written(tmp_path, 1, samples_print=True)
    assert len(said) == 1
    assert "target=11" in said[0]
    assert "⟨U+001B⟩[31mred" in said[0]


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
