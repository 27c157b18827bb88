"""Scoring a batch: every reward of the recipe on every completion, weighted and summed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aha.recipe import Recipe
from aha.rewards import Reward, load_reward
from aha.types import Completion, Problem, Prompt, RunFailure, Score


@dataclass(frozen=True)
class WeightedReward:
    """A reward with its weight in the sum."""

    reward: Reward
    weight: float


def rewards_of(recipe: Recipe) -> tuple[WeightedReward, ...]:
    """The recipe's rewards; one that needs the length limit gets it from the recipe."""
    loaded = []
    for section in recipe.rewards:
        reward = load_reward(section.name, **section.options)
        if "max_length" in type(reward).model_fields and "max_length" not in section.options:
            limit = recipe.generation.max_completion_length
            reward = load_reward(section.name, **section.options, max_length=limit)
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
    texts = [c.text for c in completions]
    raw = {
        item.reward.name: _checked(
            item.reward.name,
            item.reward(prompts=[p.text for p in prompts], completions=texts, **columns),
            len(texts),
        )
        for item in rewards
    }
    weights = {item.reward.name: item.weight for item in rewards}
    return tuple(_total(raw, weights, row) for row in range(len(texts)))


def _columns(problems: Sequence[Problem]) -> dict[str, Any]:
    names = {name for problem in problems for name in problem.columns}
    return {name: [problem.columns.get(name) for problem in problems] for name in sorted(names)}


def _checked(name: str, values: Any, rows: int) -> list[float | None]:
    if not isinstance(values, list) or len(values) != rows:
        count = len(values) if isinstance(values, list) else type(values).__name__
        raise RunFailure(f"reward {name!r} returned {count} for {rows} completions; one each.")
    for row, value in enumerate(values):
        if value is not None and (not isinstance(value, int | float) or not math.isfinite(value)):
            raise RunFailure(f"reward {name!r} returned {value!r} for row {row}; a finite number.")
    return values


def _total(raw: dict[str, list[float | None]], weights: dict[str, float], row: int) -> Score:
    values = {name: column[row] for name, column in raw.items()}
    weighted = {name: weights[name] * v for name, v in values.items() if v is not None}
    return Score(values, weighted, sum(weighted.values()) if weighted else math.nan)
