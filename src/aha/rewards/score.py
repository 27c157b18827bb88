"""Scoring a batch: every reward of the recipe on every completion, weighted and summed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aha.recipe import Recipe
from aha.rewards import CustomReward, Reward, load_reward
from aha.rewards.call import OnError, RewardFault, call, values_of
from aha.types import Completion, Problem, Prompt, RunFailure, Score, UserError
from aha.visible import quoted

# A model may write anything, so a reward must take anything.
_MADE_UP = " 1 + 1 = 2 </think> <answer> 1 + 1 </answer>"


@dataclass(frozen=True)
class WeightedReward:
    """A reward with its weight in the sum."""

    reward: Reward | CustomReward
    weight: float
    on_error: OnError = "stop"
    timeout_s: float | None = None


def rewards_of(
    recipe: Recipe, functions: Mapping[str, CustomReward] = MappingProxyType({})
) -> tuple[WeightedReward, ...]:
    """The recipe's rewards; a reward with a length limit of none gets the recipe's.

    `functions` are rewards by their names in the recipe that no file holds.
    """
    loaded = []
    for section in recipe.rewards:
        reward = functions.get(section.name) or load_reward(section.name, **section.options)
        if isinstance(reward, Reward) and getattr(reward, "max_length", 0) is None:
            limit = recipe.generation.max_completion_length
            reward = reward.model_copy(update={"max_length": limit})
        loaded.append(WeightedReward(reward, section.weight, section.on_error, section.timeout_s))
    return tuple(loaded)


def score(
    rewards: Sequence[WeightedReward],
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
) -> tuple[Score, ...]:
    """One Score per row; the three sequences are aligned.

    A reward that is None does not apply; if none applies, the total is NaN.
    Errors: RunFailure naming the reward, and the row and value where there is one.
    """
    columns = _arguments(problems, prompts, completions)
    rows = len(completions)
    raw = {
        item.reward.name: call(item.reward, columns, rows, item.on_error, item.timeout_s)
        for item in rewards
    }
    scores = []
    for row in range(rows):
        values = {name: column[row] for name, column in raw.items()}
        weighted = {
            item.reward.name: item.weight * value
            for item in rewards
            if (value := values[item.reward.name]) is not None
        }
        total = sum(weighted.values()) if weighted else math.nan
        scores.append(Score(values, weighted, total))
    if not any(score.weighted for score in scores):
        names = sorted({name for problem in problems for name in problem.columns})
        raise RunFailure(
            f"no reward applies to any completion: {', '.join(raw)} gave none for all; the data "
            f"has the columns {', '.join(names)}."
        )
    return tuple(scores)


def _arguments(
    problems: Sequence[Problem], prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> dict[str, Any]:
    """All arguments of a reward by name, in TRL's convention: each has one value a row."""
    names = {name for problem in problems for name in problem.columns}
    return {
        **{name: [problem.columns.get(name) for problem in problems] for name in sorted(names)},
        "completion_ids": [list(c.token_ids) for c in completions],
        "prompts": [prompt.for_rewards for prompt in prompts],
        "completions": [p.reply(c.text) for p, c in zip(prompts, completions, strict=True)],
    }


def try_rewards(
    rewards: Sequence[WeightedReward],
    problem: Problem,
    prompt: Prompt,
    encode: Callable[[str], Sequence[int]],
) -> None:
    """Call each reward that may not fail once, on a made-up completion of one problem.

    Errors: UserError naming the reward and the problem.
    """
    completion = Completion(_MADE_UP, tuple(encode(_MADE_UP)), (), "stop")
    arguments = _arguments([problem], [prompt], [completion])
    for item in rewards:
        if item.on_error == "none":
            continue
        try:
            values_of(item.reward, arguments, 1, item.timeout_s)
        except RewardFault as fault:
            raise UserError(
                f"{str(fault).rstrip('.')} (tried before the start on a made-up completion of the "
                f"first problem, {quoted(dict(problem.columns))})."
            ) from None


def require_known(recipe: Recipe) -> None:
    """Check the rewards of a run that starts elsewhere or later; a user's own code is not run.

    Errors: UserError for an unknown name or option of a shipped reward.
    """
    for section in recipe.rewards:
        if ":" not in section.name:
            load_reward(section.name, **section.options)
