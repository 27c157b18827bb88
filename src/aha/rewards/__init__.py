"""Rewards by name: `load_reward("format", full=0.5)(prompts=..., completions=..., **columns)`.

To add one, write its class in a family's module; for a new family, add its module to `_FAMILIES`.
"""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import ValidationError

from aha.rewards import accuracy, form, length
from aha.rewards.reward import CustomReward, Reward, load_custom
from aha.types import UserError
from aha.visible import did_you_mean, quoted

_FAMILIES = (accuracy, form, length)
REWARDS: dict[str, type[Reward]] = {
    kind.name: kind
    for family in _FAMILIES
    for kind in vars(family).values()
    if inspect.isclass(kind) and issubclass(kind, Reward) and hasattr(kind, "name")
}


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
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"rewards.{name}.options"
        if first["type"] == "extra_forbidden":
            known = REWARDS[name].model_fields
            raise UserError(
                f"{where}: {field!r} is unknown; allowed are {', '.join(known) or 'none'}."
                f"{did_you_mean(field, known)}"
            ) from None
        raise UserError(
            f"{where}.{field} is {quoted(first['input'])}; {first['msg'].lower()}."
        ) from None


__all__ = ["REWARDS", "CustomReward", "Reward", "load_reward"]
