"""Rewards by name: `load_reward("format", full=0.5)(prompts=..., completions=..., **columns)`."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from aha.rewards.accuracy import AccuracyReward, CorrectnessReward, EquationReward
from aha.rewards.base import Reward
from aha.rewards.custom import CustomReward, load_custom
from aha.rewards.layout import (
    FormatReward,
    IntReward,
    SoftFormatReward,
    StrictFormatReward,
    XmlCountReward,
)
from aha.rewards.length import (
    CosineReward,
    EosReward,
    LengthPenaltyReward,
    LengthReward,
    SoftOverlongReward,
)
from aha.rewards.prose import ReasoningStepsReward, ReflectionReward, RepetitionPenaltyReward
from aha.types import UserError
from aha.visible import did_you_mean, quoted

_SHIPPED: tuple[type[Reward], ...] = (
    AccuracyReward,
    CorrectnessReward,
    CosineReward,
    EosReward,
    EquationReward,
    FormatReward,
    IntReward,
    LengthPenaltyReward,
    LengthReward,
    ReasoningStepsReward,
    ReflectionReward,
    RepetitionPenaltyReward,
    SoftFormatReward,
    SoftOverlongReward,
    StrictFormatReward,
    XmlCountReward,
)
REWARDS: dict[str, type[Reward]] = {reward.name: reward for reward in _SHIPPED}


def load_reward(name: str, /, **options: Any) -> Reward | CustomReward:
    """A reward by its recipe name, or as `module:function` or `path/file.py:function`.

    Errors: UserError naming the reward, or the option, its value and what is allowed.
    """
    if ":" in name:
        return load_custom(name, options)
    if name not in REWARDS:
        raise UserError(
            f"rewards: {quoted(name)} is unknown; allowed are {', '.join(sorted(REWARDS))}, "
            f"module:function and path/file.py:function.{did_you_mean(name, REWARDS)}"
        )
    try:
        return REWARDS[name](**options)
    except ValidationError as error:
        raise UserError(_sentence(name, error)) from None


def _sentence(name: str, error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        options = REWARDS[name].model_fields
        return (
            f"rewards.{name}.options: {field!r} is unknown; allowed are "
            f"{', '.join(options) or 'none'}.{did_you_mean(field, options)}"
        )
    return f"rewards.{name}.options.{field} is {quoted(first['input'])}; {first['msg'].lower()}."


__all__ = ["REWARDS", "CustomReward", "Reward", "load_reward"]
