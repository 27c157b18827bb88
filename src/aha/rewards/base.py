"""What a reward is: a callable with validated options and TRL's signature.

`reward(prompts=..., completions=..., **columns)` returns one float, or None for "does not
apply", per completion. So ours run in TRL's GRPOTrainer, and TRL's and open-r1's run here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from aha.answers.tags import Text


class Reward(BaseModel, ABC):
    """Base of the shipped rewards; fields are options, unknown options are errors.

    `name` is what a recipe writes. Subclasses implement `__call__`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]

    @property
    def __name__(self) -> str:  # TRL labels its metrics with it
        return self.name

    @abstractmethod
    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any
    ) -> list[float | None]:
        """One value per completion; `columns` holds one value a row for each data column."""


def column(columns: dict[str, Any], name: str, reward: str) -> Sequence[Any]:
    """A data column that a reward cannot do without.

    Errors: ValueError naming the reward and the column.
    """
    if name not in columns:
        raise ValueError(
            f"reward {reward!r} needs the column {name!r}; this data has "
            f"{sorted(key for key, value in columns.items() if isinstance(value, list))}."
        )
    values: Sequence[Any] = columns[name]
    return values
