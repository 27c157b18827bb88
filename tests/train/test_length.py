"""Length control: each rule by hand, and a run under all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from aha.model.llama import blocks_of
from aha.recipe import Recipe, load_recipe
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.runs import RunDirectory
from aha.tasks.prompts import ask
from aha.train.length import NAME, LengthState, kept, missed, penalised, penalties
from aha.train.start import resume_run, start_run
from aha.types import Completion, Group, Problem, Prompt, Score, UserError

SMALL = (
    "evaluation.n=0", "grpo.prompts_per_step=3", "generation.num_generations=4",
    "generation.max_completion_length=40", "logging.report_to=[]", "train.save_steps=2",
)  # fmt: skip


WISH = ("length.penalty=wish", "length.wish=[10, 30]")


def recipe(*changes: str) -> Recipe:
    return load_recipe("countdown-tiny", [*SMALL, *changes])


def group(*rows: tuple[int, bool, bool]) -> Group:
    """Completions as (length, right, cut off) of "make 5 from 2 and 3"."""
    completions, scores = [], []
    for length, right, cut in rows:
        text = "x </think> <answer> 2 + 3 </answer>" if right else "x"
        reason: Any = "length" if cut else "stop"
        completions.append(Completion(text, (7,) * length, (0.0,) * length, reason))
        reward = float(right)
        scores.append(Score({"accuracy": reward}, {"accuracy": reward}, reward))
    problem = Problem("countdown", "k", {"target": 5, "nums": [2, 3]})
    prompt = Prompt("Make 5 from 2 3 . <think>", "<think>", (1,))
    return Group(problem, prompt, tuple(completions), tuple(scores))


def test_penalties_by_hand() -> None:
    lengths, right = [10, 20, 30], [True, False, True]
    assert penalties(lengths, right, 40.0, "fixed") == [-0.25, -0.5, -0.75]
    assert penalties(lengths, right, 40.0, "held") == [-0.25, -0.5, -0.75]
    # 1/2 - (n - 10) / 20, and a wrong one gets nothing for being short.
    assert penalties(lengths, right, 40.0, "kimi") == [0.5, 0.0, -0.5]
    assert penalties([10, 20, 30], [False] * 3, 40.0, "kimi") == [0.0, 0.0, -0.5]
    assert penalties([10, 10], [True, False], 40.0, "kimi") == [0.0, 0.0]
    # Two of three are right; the longest has 30 tokens.
    assert penalties(lengths, right, 40.0, "alp") == pytest.approx([-2 / 9, -4 / 9, -2 / 3])
    assert penalties(lengths, [False] * 3, 40.0, "alp") == [0.0, 0.0, 0.0]


def test_the_penalty_is_a_reward_beside_the_others() -> None:
    settings = recipe("length.penalty=alp", "length.penalty_weight=0.5").length
    (found,) = penalised([group((10, True, False), (20, False, False))], state(40.0, 0.5), settings)
    assert [score.raw[NAME] for score in found.scores] == [-0.25, -0.5]
    assert [score.weighted[NAME] for score in found.scores] == [-0.125, -0.25]
    assert [score.reward for score in found.scores] == [0.875, -0.25]
    assert [score.raw["accuracy"] for score in found.scores] == [1.0, 0.0]


def state(limit: float = 40.0, strength: float = 0.0, stage: int = -1) -> LengthState:
    return LengthState(limit, stage, strength)


def test_a_schedule_by_step_and_by_the_share_that_is_cut_off() -> None:
    stages = (
        "[{limit: 10, from_step: 1}, {limit: 20, clipped_below: 0.5}, {limit: 30, from_step: 9}]"
    )
    one = recipe(f"length.schedule={stages}")
    begun = LengthState.begin(one)
    assert (begun.limit, begun.stage) == (10.0, 0)
    half = [group((10, False, True), (5, True, False))]
    assert begun.next(1, half, one) == begun
    few = [group((5, False, False), (5, True, False))]
    second = begun.next(2, few, one)
    assert (second.limit, second.stage) == (20.0, 1)
    assert second.next(7, few, one) == second
    third = second.next(8, few, one)
    assert (third.limit, third.stage) == (30.0, 2)
    assert third.next(20, few, one) == third


def test_an_adaptive_limit_by_hand() -> None:
    one = recipe(
        "length.limit=adaptive", "length.percentile=0.5", "length.margin=2", "length.rate=0.5",
        "length.least=12",
    )  # fmt: skip
    # The right ones have 4 and 8 tokens: wanted 2 * 6 = 12, half of the way from 40 is 26.
    rows = [group((4, True, False), (8, True, False), (30, False, False))]
    assert state().next(1, rows, one).limit == 26.0
    assert state(12.0).next(1, rows, one).limit == 12.0
    # Without right ones it stays. It never leaves its bounds.
    assert state().next(1, [group((4, False, False))], one).limit == 40.0
    assert state(13.0).next(1, [group((2, True, False))], one).limit == 12.0
    assert state(39.0).next(1, [group((39, True, False))], one).limit == 40.0


def test_an_adaptive_limit_for_each_difficulty_by_hand(
    random_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    one = recipe(
        "length.limit=adaptive", "length.by_difficulty=true", "length.percentile=1",
        "length.margin=1", "length.rate=1", "length.least=2",
    )  # fmt: skip
    two, three = group((4, True, False)), group((9, True, False), (30, False, False))
    right, wrong = three.completions
    three = replace(
        three,
        problem=replace(three.problem, columns={"target": 5, "nums": [2, 3, 1]}),
        completions=(replace(right, text="x </think> <answer> 2 + 3 * 1 </answer>"), wrong),
    )
    moved = state().next(1, [two, three], one)
    assert moved.limits == {"2 numbers": 4.0, "3 numbers": 9.0}
    assert (moved.limit_of(two.problem), moved.limit_of(three.problem)) == (4.0, 9.0)
    assert LengthState.after([moved.record], one) == moved
    unseen = replace(two.problem, columns={"target": 5, "nums": [2, 3, 7, 1]})
    assert moved.limit_of(unseen) == 40.0
    # The engine keeps each prompt's own limit.
    engine = NativeEngine(model := random_model(), tokenizer, blocks_of(model))
    prompts = [two.prompt, three.prompt]
    settings = SamplingSettings(9, ignore_end=True)
    groups = engine.generate(prompts, 3, settings, 0, limits=[4, 9])
    assert [{len(c.token_ids) for c in found} for found in groups] == [{4}, {9}]
    free = engine.generate(prompts, 3, settings, 0)
    assert groups[1] == free[1]
    assert [c.token_ids for c in groups[0]] == [c.token_ids[:4] for c in free[0]]


def test_a_wish_stands_in_the_prompt_and_is_missed_by_hand(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    one = recipe("length.penalty=wish", "length.wish=[10, 30]", "length.penalty_weight=0.5")
    problem = group((1, True, False)).problem
    (asked,) = ask([problem], one, tokenizer, [20])
    assert (asked.text, asked.wish) == ("Make 5 from 2 3 . 20 <think>", 20)
    (own,) = ask([problem], one, tokenizer)
    assert own == ask([problem], one, tokenizer)[0]
    assert own.wish is not None
    assert 10 <= own.wish <= 30
    (words,) = ask([problem], recipe("prompt.style=r1", *WISH), tokenizer, [20])
    assert "Think for 20 tokens." in words.text
    wished = replace(group((15, True, False), (24, False, False)), prompt=asked)
    (found,) = penalised([wished], state(40.0, 0.5), one.length)
    # Distances of 5 and 4 tokens over a limit of 40.
    assert [score.raw[NAME] for score in found.scores] == [-0.125, -0.1]
    assert missed([wished]) == 4.5


def test_a_held_length_by_hand() -> None:
    one = recipe("length.penalty=held", "length.target=10", "length.gain=0.1")
    assert LengthState.begin(one).strength == 0.0
    # A mean of 15 tokens is half too long: 0.1 * 0.5.
    longer = state().next(1, [group((10, True, False), (20, True, False))], one)
    assert longer.strength == pytest.approx(0.05)
    assert longer.next(2, [group((5, True, False))], one).strength == pytest.approx(0.0)
    # At most the weight, 0.1.
    assert state(40.0, 0.09).next(1, [group((40, True, True))], one).strength == 0.1


def test_only_some_completions_are_kept_by_hand() -> None:
    rows = [group((30, True, False), (10, False, False), (20, True, False), (20, False, False))]
    rewards = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    shortest = kept(rows, rewards, recipe("length.keep=2").length)
    assert shortest.isnan().tolist() == [[True, False, False, True]]
    best = kept(rows, rewards, recipe("length.keep=2", "length.keep_by=efficient").length)
    assert best.isnan().tolist() == [[False, True, False, True]]
    nothing = torch.tensor([[math.nan, 0.0, 1.0, 0.0]])
    found = kept(rows, nothing, recipe("length.keep=4").length)
    assert found.isnan().tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["length.schedule=[{limit: 9}]"], "exactly one of from_step"),
        (["length.schedule=[{limit: 41, from_step: 1}]"], "allowed is at most"),
        (["length.keep=5"], "length.keep is 5"),
        (["length.penalty=held"], "target goes with penalty 'held'"),
        (["length.target=9"], "target goes with penalty 'held'"),
        (
            ["length.limit=adaptive", "length.schedule=[{limit: 9, from_step: 1}]"],
            "allowed is one of them",
        ),
        (["length.penalty=wish"], "wish goes with penalty 'wish'"),
        (["length.wish=[5, 9]"], "wish goes with penalty 'wish'"),
        (["length.penalty=wish", "length.wish=[9, 5]"], "the first may not be above"),
        (["length.penalty=wish", "length.wish=[5, 41]"], "allowed here is at most 40"),
        (["length.by_difficulty=true"], "it goes with 'adaptive'"),
        (["length.penalty=alp", "grpo.advantage_estimator=gdpo"], "length.penalty is 'alp'"),
    ],
)
def test_settings_that_exclude_each_other(changes: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe(*changes)


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    "changes",
    [
        ("length.limit=adaptive", "length.penalty=held", "length.target=20", "length.keep=3"),
        ("length.schedule=[{limit: 10, from_step: 1}, {limit: 30, from_step: 3}]",
         "length.penalty=kimi", "grpo.advantage_estimator=rloo"),
        ("length.limit=adaptive", "length.by_difficulty=true", "length.penalty=wish",
         "length.wish=[10, 30]"),
    ],
    ids=["adaptive", "schedule", "wish"],
)  # fmt: skip
def test_a_resumed_run_is_the_same(changes: tuple[str, ...], tmp_path: Path) -> None:
    whole = start_run(recipe(*changes, "train.max_steps=4"), tmp_path / "whole")
    start_run(recipe(*changes, "train.max_steps=2"), tmp_path / "halved")
    halved = resume_run(tmp_path / "halved", ["train.max_steps=4"], allow_change=True)
    keys = ("length/limit", "length/stage", "length/strength", "completions/mean_length", "loss")

    def figures(run: RunDirectory) -> list[list[float]]:
        return [[record[key] for key in keys] for record in run.metrics()]

    assert figures(whole) == figures(halved)
    records = whole.metrics()
    key = "length/limit/3 numbers" if "length.by_difficulty=true" in changes else "length/limit"
    assert len({record[key] for record in records}) > 1
    for before, record in zip([{"length/limit": 10.0}, *records], records, strict=False):
        limit = before["length/limit"] if changes[0].startswith("length.schedule") else 40
        assert record["completions/max_length"] <= limit
