from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import aha.train.checkpoint as checkpoint
from aha.recipe import load_recipe
from aha.rollout.base import rollout_seed
from aha.sections import GrpoSection, OptimizerSection
from aha.tasks import load_problems
from aha.train.schedule import EntropyBonus, ProblemStream, learning_rate_at
from aha.types import Problem


def rates(max_steps: int, **settings: Any) -> list[float]:
    section = OptimizerSection(learning_rate=1.0, **settings)
    return [learning_rate_at(step, max_steps, section) for step in range(1, max_steps + 1)]


def test_schedules_by_hand() -> None:
    assert rates(4, lr_scheduler_type="constant") == [1.0] * 4
    assert rates(4, lr_scheduler_type="linear") == [1.0, 0.75, 0.5, 0.25]
    assert rates(4, lr_scheduler_type="cosine") == pytest.approx(
        [1.0, 0.853553, 0.5, 0.146447], abs=1e-6
    )
    assert rates(4, lr_scheduler_type="linear", min_lr_ratio=0.5) == [1.0, 0.875, 0.75, 0.625]
    assert rates(4, lr_scheduler_type="constant", warmup_ratio=0.5) == [0.5, 1.0, 1.0, 1.0]


def test_a_step_of_warm_up_already_learns() -> None:
    assert rates(10, lr_scheduler_type="cosine", warmup_ratio=0.3)[0] == pytest.approx(1 / 3)


def test_problems_come_once_an_epoch_in_a_new_order() -> None:
    problems = [Problem("t", str(i), {}) for i in range(12)]
    stream = ProblemStream(problems, per_step=4, seed=0)
    epochs = [[p.key for s in steps for p in stream.at(s)] for steps in ((1, 2, 3), (4, 5, 6))]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(p.key for p in problems)
    assert epochs[0] != epochs[1]
    assert stream.epoch(6) == 2.0


def test_a_step_does_not_depend_on_the_steps_before_it() -> None:
    problems = [Problem("t", str(i), {}) for i in range(10)]
    walked = ProblemStream(problems, per_step=4, seed=3)
    for step in range(1, 8):
        steps = walked.at(step)
    assert ProblemStream(problems, per_step=4, seed=3).at(7) == steps


def test_the_first_steps_may_draw_the_easiest_problems_only() -> None:
    section = load_recipe("word-problems-smollm2").task
    problems = load_problems(section, "train", 60).problems
    stream = ProblemStream(problems, per_step=4, seed=0, rounds=2, easy_steps=2)
    easy = [p for step in (1, 2) for round_ in (0, 1) for p in stream.at(step, round_)]
    assert {problem.columns["steps"] for problem in easy} == {1}
    later = [p for step in (3, 4, 5) for round_ in (0, 1) for p in stream.at(step, round_)]
    assert {problem.columns["steps"] for problem in later} == {1, 2, 3}
    epoch = [p for step in range(1, 8) for round_ in (0, 1) for p in stream.at(step, round_)]
    assert len({problem.key for problem in epoch}) == 56  # none twice in an epoch
    unknown = [Problem("custom", str(n), {"problem": str(n)}) for n in range(60)]
    plain = ProblemStream(unknown, per_step=4, seed=0)
    assert ProblemStream(unknown, per_step=4, seed=0, easy_steps=9).at(3) == plain.at(3)


def test_no_two_steps_share_a_random_stream() -> None:
    seeds = {rollout_seed(seed, step) for seed in range(20) for step in range(200)}
    assert len(seeds) == 20 * 200


def test_on_windows_files_are_flushed_and_folders_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Path, int]] = []

    def open_(path: Path, flags: int) -> int:
        opened.append((path, flags))
        return os.open(path, flags)

    (tmp_path / "weights").write_text("1")
    windows = SimpleNamespace(**{**vars(os), "open": open_})
    del windows.O_DIRECTORY
    monkeypatch.setattr(checkpoint, "os", windows)
    checkpoint._flush(tmp_path / "weights")
    checkpoint._flush(tmp_path)
    assert opened == [(tmp_path / "weights", os.O_RDWR)]


def test_the_bonus_for_entropy_follows_its_target() -> None:
    grpo = GrpoSection(
        entropy_coef=0.01, use_adaptive_entropy=True, entropy_target=0.5, entropy_coef_max=0.013
    )
    bonus, records, applied = EntropyBonus.after([], grpo), [], []
    for entropy in (0.7, 0.5, 0.3, math.nan, 0.9, 0.4):
        applied.append(bonus.applied(grpo))
        bonus = bonus.next(entropy, grpo)
        seen = None if math.isnan(entropy) else entropy
        records.append({"entropy": seen, "entropy_coef": bonus.coef})
        # A resumed run finds it in the record.
        assert EntropyBonus.after(records, grpo) == bonus
    # Off above the target; 0.005 less there, 0.005 more below, 0.013 at most.
    assert applied == pytest.approx([0.0, 0.0, 0.01, 0.013, 0.013, 0.0])
    assert bonus.coef == pytest.approx(0.013)


def test_a_constant_bonus_stays() -> None:
    grpo = GrpoSection(entropy_coef=0.02, entropy_target=0.5)
    bonus = EntropyBonus.after([], grpo).next(3.0, grpo)
    assert bonus.applied(grpo) == 0.02
    assert EntropyBonus.after([{"entropy": 3.0, "entropy_coef": 0.02}], grpo).applied(grpo) == 0.02
