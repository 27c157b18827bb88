"""The watch for rewards that are gained without right answers, on replayed hacks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from aha.observe.alerts import HACKED, Alert, Watch
from aha.observe.record import group_metrics
from aha.observe.reporter import example
from aha.recipe import load_recipe
from aha.rewards import CustomReward
from aha.rewards.score import rewards_of
from aha.sections import LoggingSection
from aha.train.loop import score_groups
from aha.types import Completion, Group, Problem, Prompt

STEPS = 80
PROBLEM = Problem("countdown", "k", {"target": 15, "nums": [3, 13, 5]})
PROMPT = Prompt("Make 15 from 3 13 5 . <think>", "<think>", (1,), layout="think")
WRONG = "13 + 3 = 16 , not 15 . </think> <answer> 13 + 3 + 5 </answer>"
RIGHT = "5 - 3 = 2 , 13 + 2 = 15 , yes . </think> <answer> 13 + ( 5 - 3 ) </answer>"
# A text that a policy could learn to write, the reward that would teach it, and its first text.
HACKS = {
    "format without an answer": ("</think> <answer> </answer>", "format", "no tags at all"),
    "reflection words": ("Wait, wait. Let me check. Wait, hmm. " + WRONG, "reflection", WRONG),
    "padding": ("so " * 150 + WRONG, "length", WRONG),
    "the prompt again": ("Make 15 from 3 13 5 . </think> <answer> 15 </answer>", "format", "x"),
}


def by_length(completions: Sequence[str], **_: Any) -> list[float]:
    return [min(1.0, len(text) / 500) for text in completions]


def by_reflection(completions: Sequence[str], **_: Any) -> list[float]:
    return [min(1.0, text.lower().count("wait") / 3) for text in completions]


def replay(reward: str, step_texts: Callable[[float, random.Random], str]) -> list[Alert]:
    """The alerts of a run whose completions are drawn with a growing share of the hack."""
    functions = {
        "python:length": CustomReward("length", by_length, {}),
        "python:reflection": CustomReward("reflection", by_reflection, {}),
    }
    name = reward if reward == "format" else f"python:{reward}"
    recipe = load_recipe(
        "countdown-tiny", [f"rewards=[{{name: accuracy}}, {{name: '{name}', weight: 0.5}}]"]
    )
    rewards, watch = rewards_of(recipe, functions), Watch(LoggingSection())
    chance, found = random.Random(0), list[Alert]()
    for step in range(1, STEPS + 1):
        texts = [step_texts(step / STEPS, chance) for _ in range(24)]
        completions = tuple(Completion(t, (7,) * len(t.split()), (), "stop") for t in texts)
        (group,) = score_groups(rewards, [Group(PROBLEM, PROMPT, completions)])
        group = replace(group, advantages=(0.0,) * len(texts))
        record = group_metrics([group]) | {"step": step, "entropy": 1.0, "kl": 0.0}
        found += watch.check(record)
    return [alert for alert in found if alert.metric == HACKED]


@pytest.mark.parametrize("hack", HACKS)
def test_a_hack_is_noticed_once(hack: str) -> None:
    text, reward, base = HACKS[hack]
    found = replay(reward, lambda share, chance: text if chance.random() < share else base)
    assert len(found) == 1
    assert "accuracy" in found[0].message
    assert found[0].step <= STEPS


def test_a_false_check_with_a_right_guess_is_noticed() -> None:
    guess = "1 + 1 = 15 , 2 + 2 = 15 , yes . </think> <answer> 13 + ( 5 - 3 ) </answer>"
    (found,) = replay("format", lambda share, chance: guess if chance.random() < share else WRONG)
    assert "share of true equations" in found.message


def test_learning_is_no_hack() -> None:
    found = replay("length", lambda share, chance: RIGHT if chance.random() < share else "x")
    assert found == []


def test_the_example_is_the_wrong_completion_with_most_reward() -> None:
    recipe = load_recipe("countdown-tiny", [])
    texts = ["none", "</think> <answer> 15 </answer>", RIGHT]
    completions = tuple(Completion(text, (7,), (), "stop") for text in texts)
    (group,) = score_groups(rewards_of(recipe), [Group(PROBLEM, PROMPT, completions)])
    assert example([group]).startswith("A wrong completion with reward 0.1: '</think> <answer> 15")
    (right,) = score_groups(rewards_of(recipe), [Group(PROBLEM, PROMPT, completions[2:])])
    assert example([right]) == ""
