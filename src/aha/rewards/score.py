"""Scoring a batch: every reward of the recipe on every completion, weighted and summed."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from aha.recipe import Recipe
from aha.rewards import CustomReward, Reward, load_reward
from aha.rewards.limit import TimeLimit, time_limit
from aha.types import Completion, Problem, Prompt, RunFailure, Score, UserError
from aha.visible import quoted

OnError = Literal["stop", "none"]
# A model may write anything, so a reward must take anything.
_MADE_UP = " 1 + 1 = 2 </think> <answer> 1 + 1 </answer>"


@dataclass(frozen=True)
class WeightedReward:
    """A reward with its weight in the sum."""

    reward: Reward | CustomReward
    weight: float
    on_error: OnError = "stop"
    timeout_s: float | None = None


def require_known(recipe: Recipe) -> None:
    """For a run that begins elsewhere or later: code of the user's own is not run here.

    Errors: UserError for an unknown name or option of a shipped reward.
    """
    for section in recipe.rewards:
        if ":" not in section.name:
            load_reward(section.name, **section.options)


def rewards_of(recipe: Recipe) -> tuple[WeightedReward, ...]:
    """The recipe's rewards; one that needs the length limit gets it from the recipe."""
    loaded = []
    for section in recipe.rewards:
        reward = load_reward(section.name, **section.options)
        if isinstance(reward, Reward) and getattr(reward, "max_length", 0) is None:
            limit = recipe.generation.max_completion_length
            options = {**section.options, "max_length": limit}
            reward = load_reward(section.name, **options)
        loaded.append(WeightedReward(reward, section.weight, section.on_error, section.timeout_s))
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
    columns = _arguments(problems, prompts, completions)
    rows = len(completions)
    raw = {
        item.reward.name: call(item.reward, columns, rows, item.on_error, item.timeout_s)
        for item in rewards
    }
    weights = {item.reward.name: item.weight for item in rewards}
    scores = tuple(_total(raw, weights, row) for row in range(len(completions)))
    if not any(score.weighted for score in scores):
        raise RunFailure(
            f"no reward applies to any completion: {', '.join(raw)} gave none for all; the data "
            f"has the columns {', '.join(sorted(_columns(problems)))}."
        )
    return scores


def try_rewards(
    rewards: Sequence[WeightedReward],
    problem: Problem,
    prompt: Prompt,
    encode: Callable[[str], Sequence[int]],
) -> None:
    """Call each reward once, on a made-up completion of one problem, before anything takes long.

    Those with `on_error` "none" may fail and are not called.
    Errors: UserError naming the reward and the problem.
    """
    completion = Completion(_MADE_UP, tuple(encode(_MADE_UP)), (), "stop")
    arguments = _arguments([problem], [prompt], [completion])
    for item in rewards:
        if item.on_error == "none":
            continue
        try:
            _checked(item.reward.name, _values(item.reward, arguments, item.timeout_s), 1)
        except _Fault as fault:
            raise UserError(
                f"{str(fault).rstrip('.')} (tried before the start on a made-up completion of the "
                f"first problem, {quoted(dict(problem.columns))})."
            ) from None


def call(
    reward: Reward | CustomReward,
    columns: dict[str, Any],
    rows: int,
    on_error: OnError = "stop",
    timeout_s: float | None = None,
) -> list[float | None]:
    """A reward's values for a batch, checked.

    A reward that raises, hangs, or returns something else than a number for each row is at fault.
    With `on_error` "stop" that is a RunFailure naming the reward, its row and the value; with
    "none" the rows at fault get no score.
    """
    try:
        return _checked(reward.name, _values(reward, columns, timeout_s), rows)
    except _Fault as fault:
        # A row at a time, to find which one it is: rewards are functions of their rows.
        limit = None if timeout_s is None else max(1.0, timeout_s / rows)
        values: list[float | None] = []
        for row in range(rows):
            single = {name: [column[row]] for name, column in columns.items()}
            try:
                values += _checked(reward.name, _values(reward, single, limit), 1)
            except _Fault as own:
                if on_error == "stop":
                    text = str(columns["completions"][row])
                    raise RunFailure(f"{own} (row {row}, completion {text!r:.200})") from None
                values.append(None)
        if None not in values and on_error == "stop":
            raise RunFailure(f"{fault} (no single row does it)") from None
        return values


class _Fault(Exception):
    """What a reward did wrong, in a sentence."""


def _values(reward: Reward | CustomReward, columns: dict[str, Any], timeout_s: float | None) -> Any:
    try:
        with time_limit(timeout_s):
            return reward(**columns)
    except TimeLimit:
        raise _Fault(f"reward {reward.name!r} did not return within {timeout_s:g} s") from None
    except Exception as error:  # anyone's code: whatever it raises, the run must name it
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise _Fault(
            f"reward {reward.name!r} raised {type(error).__name__}: "
            f"{' '.join(str(error).split())} ({last.filename}, line {last.lineno})"
        ) from error


def _arguments(
    problems: Sequence[Problem], prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> dict[str, Any]:
    """What a reward is called with, by name: a value a row."""
    return {
        **_columns(problems),
        "completion_ids": [list(c.token_ids) for c in completions],
        "prompts": [prompt.for_rewards for prompt in prompts],
        "completions": [p.reply(c.text) for p, c in zip(prompts, completions, strict=True)],
    }


def _columns(problems: Sequence[Problem]) -> dict[str, Any]:
    names = {name for problem in problems for name in problem.columns}
    return {name: [problem.columns.get(name) for problem in problems] for name in sorted(names)}


def _checked(name: str, returned: Any, rows: int) -> list[float | None]:
    """The values as floats, also from an array or a tensor."""
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, list | tuple):
        raise _Fault(f"reward {name!r} returned {values!r:.80}; it must be a list of numbers.")
    if len(values) != rows:
        raise _Fault(
            f"reward {name!r} returned {len(values)} values for {rows} completions; one each."
        )
    for row, value in enumerate(values):
        if value is not None and (not isinstance(value, Real) or not math.isfinite(value)):
            raise _Fault(
                f"reward {name!r} returned {value!r:.80} for row {row}; "
                "allowed is a finite number or None."
            )
    return [None if value is None else float(value) for value in values]


def _total(raw: dict[str, list[float | None]], weights: dict[str, float], row: int) -> Score:
    values = {name: column[row] for name, column in raw.items()}
    weighted = {name: weights[name] * v for name, v in values.items() if v is not None}
    return Score(values, weighted, sum(weighted.values()) if weighted else math.nan)
