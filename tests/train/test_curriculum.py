"""The curriculum: draws by pass rate, rests, and the same draws after a stop."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from aha.controls import CurriculumSection
from aha.recipe import load_recipe
from aha.runs import RunDirectory
from aha.train.curriculum import Curriculum
from aha.train.start import resume_run, start_run
from aha.types import Completion, Group, Problem, Prompt, UserError

SMALL = (
    "evaluation.n=0", "grpo.prompts_per_step=3", "generation.num_generations=2",
    "generation.max_completion_length=40", "logging.report_to=[]", "train.save_steps=2",
)  # fmt: skip


def problem(number: int, size: int) -> Problem:
    """Of `size` numbers whose sum is the target."""
    nums = [number, *range(1, size)]
    return Problem("countdown", f"{size}:{number}", {"target": sum(nums), "nums": nums})


PROBLEMS = [problem(number, size) for size in (3, 4) for number in range(20, 30)]


def group(of: Problem, *right: bool) -> Group:
    answer = " + ".join(map(str, of.columns["nums"]))
    texts = [f"x </think> <answer> {answer if each else '1'} </answer>" for each in right]
    completions = tuple(Completion(text, (7,), (0.0,), "stop") for text in texts)
    return Group(of, Prompt("p <think>", "<think>", (1,)), completions)


def test_half_solved_classes_come_more_often() -> None:
    stream = Curriculum(
        PROBLEMS, 100, 0, CurriculumSection(draw="pass_rate", memory=0.0, least=0.1)
    )
    assert 30 < Counter(len(p.columns["nums"]) for p in stream.at(1))[3] < 70
    record = stream.next(1, [group(PROBLEMS[0], True, True), group(PROBLEMS[10], True, False)])
    # Three numbers: rate 1, so the least weight, 0.1; four: rate 1/2, so 1. One in eleven.
    assert (record["curriculum/rate/3 numbers"], record["curriculum/rate/4 numbers"]) == (1.0, 0.5)
    assert 2 <= Counter(len(p.columns["nums"]) for p in stream.at(2))[3] <= 20


def test_a_running_rate_by_hand() -> None:
    stream = Curriculum(PROBLEMS, 2, 0, CurriculumSection(draw="pass_rate", memory=0.8))
    for step in (1, 2):
        record = stream.next(
            step, [group(PROBLEMS[0], True, True), group(PROBLEMS[1], True, False)]
        )
    # 0.8 * 0.5 + 0.2 * 0.75 = 0.55, then 0.8 * 0.55 + 0.15 = 0.59.
    assert record["curriculum/rate/3 numbers"] == pytest.approx(0.59)
    assert record["curriculum/rate/4 numbers"] == 0.5


def test_problems_without_signal_rest_and_come_back() -> None:
    stream = Curriculum(PROBLEMS[:6], 2, 0, CurriculumSection(rest_steps=2))
    drawn = []
    for step in range(1, 6):
        problems = stream.at(step)
        assert stream.at(step) == problems
        drawn.append({p.key for p in problems})
        # The first of the two teaches nothing.
        stream.next(step, [group(problems[0], False, False), group(problems[1], True, False)])
        drawn[-1] = {problems[0].key}, drawn[-1]
    for step in range(4):
        (resting,), _ = drawn[step]
        assert all(resting not in keys for _, keys in drawn[step + 1 : step + 3])
    later = set[str]().union(*(keys for _, keys in drawn[3:]))
    assert drawn[0][0] & later, "the first one comes back"


def test_every_problem_comes_once_a_turn_without_rests() -> None:
    stream = Curriculum(PROBLEMS[:6], 3, 0, CurriculumSection(rest_steps=1))
    seen = list[str]()
    for step in (1, 2, 3, 4):
        problems = stream.at(step)
        seen += [p.key for p in problems]
        stream.next(step, [group(p, True, False) for p in problems])
    assert sorted(seen[:6]) == sorted(seen[6:]) == sorted(p.key for p in PROBLEMS[:6])
    assert stream.epoch(4) == 2.0


def test_a_resumed_run_draws_the_same_problems(tmp_path: Path) -> None:
    changes = [
        *SMALL, "task.sizes=[3, 4]", "task.num_train=12", "curriculum.draw=pass_rate",
        "curriculum.rest_steps=2", "train.max_steps=5",
    ]  # fmt: skip
    whole = start_run(load_recipe("countdown-tiny", changes), tmp_path / "whole")
    part = load_recipe("countdown-tiny", [*changes, "train.max_steps=3"])
    start_run(part, tmp_path / "parts")
    resume_run(tmp_path / "parts", ["train.max_steps=5"], allow_change=True)
    first, second = (
        [
            {key: value for key, value in record.items() if key.startswith(("curriculum", "acc"))}
            for record in run.metrics()
        ]
        for run in (whole, RunDirectory.open(tmp_path / "parts"))
    )
    assert first == second
    assert {"curriculum/rate/3 numbers", "curriculum/drawn/4 numbers", "curriculum/rested"} <= set(
        first[-1]
    )


def test_easy_steps_and_pass_rates_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"task\.easy_steps is 5; allowed with"):
        load_recipe("countdown-tiny", ["task.easy_steps=5", "curriculum.draw=pass_rate"])
