from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aha.recipe import load_recipe
from aha.rewards import REWARDS, load_reward
from aha.rewards.reward import CustomReward
from aha.rewards.score import WeightedReward, rewards_of, score, try_rewards
from aha.tasks import check_completion
from aha.types import Completion, Problem, Prompt, RunFailure, UserError

PROMPT = "Make 65 from 55 10 . <think>"
COLUMNS: Mapping[str, Any] = {"target": [65], "nums": [[55, 10]]}


def completion(answer: str) -> str:
    return f"thoughts </think> <answer>{answer}</answer>"


def value_of(name: str, text: str, prompt: str = PROMPT, **options: Any) -> float | None:
    return load_reward(name, **options)(
        prompts=[prompt], completions=[text], completion_ids=[[0] * len(text)], **COLUMNS
    )[0]


@pytest.mark.parametrize(
    ("answer", "equation", "accuracy"),
    [
        ("55 + 10", 2.0, 1.0),
        ("65 = 55 + 10", 2.0, 1.0),
        ("55 + 10 = 65", 2.0, 1.0),
        ("10 + 55", 2.0, 1.0),
        ("55 - 10", 0.1, 0.0),
        ("55 + 10 + 0", 0.1, 0.0),
        ("65", 0.1, 0.0),
        ("55 + 5 + 5", 0.1, 0.0),
        ("5.5 * 10 + 10", 0.0, 0.0),
        ("55 + 10 # sure", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("55**10", 0.0, 0.0),
    ],
)
def test_equation_and_accuracy(answer: str, equation: float, accuracy: float) -> None:
    assert value_of("equation", completion(answer)) == equation
    assert value_of("accuracy", completion(answer)) == accuracy


def test_decimals_do_not_slip_through() -> None:
    reward = load_reward("equation")
    scores = reward(
        prompts=[PROMPT], completions=[completion("1.5*2")], target=[3], nums=[[1, 5, 2]]
    )
    assert scores == [0.0]


def test_the_last_answer_counts() -> None:
    text = "x </think> <answer>55 + 10</answer> <answer>55 - 10</answer>"
    assert value_of("equation", text) == 0.1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (completion("1"), 0.5),
        (completion("1") + " more", 0.1),
        ("<answer>1</answer> <think>x</think>", 0.1),
        ("x </think>", 0.0),
        ("", 0.0),
    ],
)
def test_format_of_minir1(text: str, expected: float) -> None:
    assert value_of("format", text, full=0.5, partial=0.1) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0.0), (80, 0.0), (90, -0.25), (100, -0.5), (500, -0.5)]
)
def test_length_penalty_counts_tokens(tokens: int, expected: float) -> None:
    reward = load_reward("length_penalty", max_length=100)
    values = reward(prompts=[PROMPT], completions=["x" * 9999], completion_ids=[[7] * tokens])
    assert values == [pytest.approx(expected)]


def test_chat_messages_score_like_text() -> None:
    reward = load_reward("accuracy")
    messages = [{"role": "assistant", "content": completion("55 + 10")}]
    assert reward(prompts=[PROMPT], completions=[messages], **COLUMNS) == [1.0]


def test_every_reward_has_a_contract_and_a_label() -> None:
    for name in REWARDS:
        reward = load_reward(name)
        assert reward.__name__ == name
        assert reward.__doc__


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("formatt", {}, ["formatt", "accuracy", "xmlcount", "module:function"]),
        ("format", {"ful": 1.0}, ["ful", "full, partial, tags"]),
        ("format", {"full": "high"}, ["rewards.format.options.full", "'high'"]),
        ("length_penalty", {"start": 2.0}, ["start", "2.0", "less than 1"]),
    ],
)
def test_a_wrong_reward_is_one_sentence(
    name: str, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load_reward(name, **options)
    assert all(word in str(caught.value) for word in words)


def test_strict_and_lenient_verdicts_differ_on_layout_only() -> None:
    columns = {"target": 65, "nums": [55, 10]}
    good = check_completion(PROMPT, completion("55 + 10"), columns)
    assert (good.strict, good.lenient, good.well_formed) == (True, True, True)
    sloppy = check_completion(PROMPT, completion("55 + 10") + " ok", columns)
    assert (sloppy.strict, sloppy.lenient, sloppy.well_formed) == (False, True, False)
    wrong = check_completion(PROMPT, completion("55 - 10"), columns)
    assert (wrong.strict, wrong.lenient, wrong.well_formed) == (False, False, True)


def score_texts(rewards: list[WeightedReward], texts: list[str]) -> Any:
    problem = Problem("countdown", "k", {"target": 65, "nums": [55, 10]})
    completions = [Completion(t, (1, 2), (0.0, 0.0), "stop") for t in texts]
    count = len(texts)
    return score(rewards, [problem] * count, [Prompt(PROMPT, "<think>", ())] * count, completions)


def test_scores_keep_raw_and_weighted_values_apart() -> None:
    rewards = [
        WeightedReward(load_reward("equation"), 0.5),
        WeightedReward(load_reward("format"), 0.1),
    ]
    good, bad = score_texts(rewards, [completion("55 + 10"), "nothing"])
    assert good.raw == {"equation": 2.0, "format": 1.0}
    assert good.weighted == {"equation": 1.0, "format": 0.1}
    assert good.reward == pytest.approx(1.1)
    assert bad.reward == 0.0


class _Fixed:
    __name__ = "fixed"

    def __init__(self, values: Any) -> None:
        self.values = values
        self.name = "fixed"

    def __call__(self, **_: Any) -> Any:
        return self.values


def test_a_reward_that_does_not_apply_anywhere_gives_no_total() -> None:
    rewards: Any = [WeightedReward(_Fixed([None, 1.0]), 2.0)]  # type: ignore[arg-type]
    nothing, something = score_texts(rewards, ["a", "b"])
    assert math.isnan(nothing.reward)
    assert something.reward == 2.0


def test_arrays_are_lists_of_numbers() -> None:
    rewards: Any = [WeightedReward(_Fixed(np.array([1, 0.5], dtype=np.float32)), 1.0)]  # type: ignore[arg-type]
    assert [s.reward for s in score_texts(rewards, ["a", "b"])] == [1.0, 0.5]


def test_numbers_that_are_not_whole_are_refused() -> None:
    reward = load_reward("equation")
    text = completion("55 + 10")
    with pytest.raises(ValueError, match="must be an integer"):
        reward(prompts=[PROMPT], completions=[text], target=[65.5], nums=[[55, 10]])


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan")], [1.0, "x"], None])
def test_a_faulty_reward_is_named(values: Any) -> None:
    rewards: Any = [WeightedReward(_Fixed(values), 1.0)]  # type: ignore[arg-type]
    with pytest.raises(RunFailure, match="fixed"):
        score_texts(rewards, ["a", "b"])


def test_the_recipe_tells_length_penalty_its_limit() -> None:
    recipe = load_recipe(
        "countdown-tiny",
        ["rewards=[{name: length_penalty}]", "generation.max_completion_length=50"],
    )
    (item,) = rewards_of(recipe)
    assert item.reward.max_length == 50  # type: ignore[attr-defined]


def test_an_option_may_have_any_name_and_is_refused_by_it() -> None:
    with pytest.raises(UserError, match=r"rewards\.accuracy\.options: 'name' is unknown"):
        load_reward("accuracy", **{"name": "x"})


def test_an_option_that_is_not_finite_is_refused() -> None:
    for value in (float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"rewards\.equation\.options\.valid is (inf|nan)"):
            load_reward("equation", valid=value)


def test_a_near_reward_or_option_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Did you mean 'accuracy'\?$"):
        load_reward("acuracy")
    with pytest.raises(UserError, match=r"Did you mean 'partial'\?$"):
        load_reward("format", partail=1.0)
    path = tmp_path / "mine.py"
    path.write_text("def brevity(completions, words=50):\n    return [0.0] * len(completions)\n")
    with pytest.raises(UserError, match=r"Did you mean 'brevity'\?$"):
        load_reward(f"{path}:brevety")
    with pytest.raises(UserError, match=r"Did you mean 'words'\?$"):
        load_reward(f"{path}:brevity", word=3)


def test_rewards_are_tried_once_on_one_completion() -> None:
    problem = Problem("countdown", "k", {"target": 65, "nums": [55, 10]})
    chat = [{"role": "user", "content": "?"}]
    calls: list[dict[str, Any]] = []

    def mine(**columns: Any) -> list[float]:
        calls.append(columns)
        return [0.0]

    rewards = [WeightedReward(CustomReward("mine", mine, {}), 1.0)]
    try_rewards(rewards, problem, Prompt("?", "", (1,), tuple(chat)), lambda text: [7] * len(text))
    (columns,) = calls
    assert (columns["target"], columns["nums"], columns["prompts"]) == ([65], [[55, 10]], [chat])
    (((turn,),), (token_ids,)) = columns["completions"], columns["completion_ids"]
    assert turn["role"] == "assistant"
    assert token_ids == [7] * len(turn["content"])


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (1.0, "reward 'mine' returned 1.0; it must be a list"),
        ([1.0, 2.0], "reward 'mine' returned 2 values for 1"),
        (["x"], "reward 'mine' returned 'x' for row 0"),
        (ValueError("no"), "reward 'mine' raised ValueError: no"),
    ],
)
def test_a_reward_at_fault_ends_the_start(returned: Any, words: str) -> None:
    problem = Problem("countdown", "k", {"target": 65, "nums": [55, 10]})

    def mine(completions: Any) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    reward = CustomReward("mine", mine, {})
    with pytest.raises(UserError, match=f"{words}.*first problem, {{'target': 65"):
        try_rewards([WeightedReward(reward, 1.0)], problem, Prompt("?", "", ()), list)  # type: ignore[arg-type]
    try_rewards([WeightedReward(reward, 1.0, "none")], problem, Prompt("?", "", ()), list)  # type: ignore[arg-type]


def test_a_shipped_reward_without_its_column_ends_the_start() -> None:
    recipe = load_recipe("countdown-tiny", ["rewards=[{name: equation}]"])
    problem = Problem("gsm8k", "k", {"problem": "1 + 1?", "answer": "2"})
    with pytest.raises(UserError, match="'equation' needs the column 'target'"):
        try_rewards(rewards_of(recipe), problem, Prompt("?", "", ()), lambda text: [])
