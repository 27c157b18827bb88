"""Scoring a batch: every reward of the recipe on every completion, weighted and summed."""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from aha.recipe import Recipe
from aha.rewards import CustomReward, Reward, load_reward
from aha.types import Completion, Problem, Prompt, RunFailure, Score


@dataclass(frozen=True)
class WeightedReward:
    """A reward with its weight in the sum."""

    reward: Reward | CustomReward
    weight: float


def rewards_of(recipe: Recipe) -> tuple[WeightedReward, ...]:
    """The recipe's rewards; one that needs the length limit gets it from the recipe."""
    loaded = []
    for section in recipe.rewards:
        reward = load_reward(section.name, **section.options)
        if isinstance(reward, Reward) and getattr(reward, "max_length", 0) is None:
            limit = recipe.generation.max_completion_length
            options = {**section.options, "max_length": limit}
            reward = load_reward(section.name, **options)
        loaded.append(WeightedReward(reward, section.weight))
    return tuple(loaded)


def score(
    rewards: Sequence[WeightedReward],
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
) -> tuple[Score, ...]:
    """One Score per row; the three sequences are aligned.

    A reward that is None does not apply; where none applies, the total is NaN.
    Errors: RunFailure naming the reward, and the row and value where there is one.
    """
    columns = _columns(problems)
    columns["completion_ids"] = [list(c.token_ids) for c in completions]
    columns["prompts"] = [prompt.for_rewards for prompt in prompts]
    columns["completions"] = [p.reply(c.text) for p, c in zip(prompts, completions, strict=True)]
    raw = {item.reward.name: call(item.reward, columns, len(completions)) for item in rewards}
    weights = {item.reward.name: item.weight for item in rewards}
    scores = tuple(_total(raw, weights, row) for row in range(len(completions)))
    if not any(score.weighted for score in scores):
        raise RunFailure(
            f"no reward applies to any completion: {', '.join(raw)} gave none for all; the data "
            f"has the columns {', '.join(sorted(_columns(problems)))}."
        )
    return scores


def call(reward: Reward | CustomReward, columns: dict[str, Any], rows: int) -> list[float | None]:
    """A reward's values for a batch, checked. Errors: RunFailure naming its fault."""
    try:
        returned = reward(**columns)
    except Exception as error:  # anyone's code: whatever it raises, the run must name it
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise RunFailure(
            f"reward {reward.name!r} raised {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        ) from error
    return _checked(reward.name, returned, rows)


def _columns(problems: Sequence[Problem]) -> dict[str, Any]:
    names = {name for problem in problems for name in problem.columns}
    return {name: [problem.columns.get(name) for problem in problems] for name in sorted(names)}


def _checked(name: str, returned: Any, rows: int) -> list[float | None]:
    """The values as floats, also from an array or a tensor."""
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, list | tuple):
        raise RunFailure(f"reward {name!r} returned {values!r:.80}; it must be a list of numbers.")
    if len(values) != rows:
        raise RunFailure(
            f"reward {name!r} returned {len(values)} values for {rows} completions; one each."
        )
    for row, value in enumerate(values):
        if value is not None and (not isinstance(value, Real) or not math.isfinite(value)):
            raise RunFailure(
                f"reward {name!r} returned {value!r:.80} for row {row}; "
                "allowed is a finite number or None."
            )
    return [None if value is None else float(value) for value in values]


def _total(raw: dict[str, list[float | None]], weights: dict[str, float], row: int) -> Score:
    values = {name: column[row] for name, column in raw.items()}
    weighted = {name: weights[name] * v for name, v in values.items() if v is not None}
    return Score(values, weighted, sum(weighted.values()) if weighted else math.nan)
