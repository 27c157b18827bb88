"""Rewards by name: `load_reward("format", full=0.5)(prompts=..., completions=..., **columns)`."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from aha.rewards.accuracy import AccuracyReward
from aha.rewards.base import Reward
from aha.rewards.countdown import EquationReward
from aha.rewards.layout import FormatReward
from aha.rewards.length import LengthPenaltyReward
from aha.types import UserError

REWARDS: dict[str, type[Reward]] = {
    reward.name: reward
    for reward in (AccuracyReward, EquationReward, FormatReward, LengthPenaltyReward)
}


def load_reward(name: str, **options: Any) -> Reward:
    """A reward by its recipe name, with options.

    Errors: UserError naming the reward, or the option, its value and what is allowed.
    """
    if name not in REWARDS:
        raise UserError(f"rewards: {name!r} is unknown; allowed are {', '.join(sorted(REWARDS))}.")
    try:
        return REWARDS[name](**options)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            allowed = ", ".join(REWARDS[name].model_fields) or "none"
            raise UserError(
                f"rewards.{name}.options: {field!r} is unknown; allowed are {allowed}."
            ) from None
        raise UserError(
            f"rewards.{name}.options.{field} is {first['input']!r}; {first['msg'].lower()}."
        ) from None


__all__ = ["REWARDS", "Reward", "load_reward"]
