"""What is to be seen at one moment of a game: plain values, for the terminal and for the page."""

from __future__ import annotations

from dataclasses import dataclass

from aha.rollout.partial import Partial
from aha.tasks import Verdict
from aha.types import Problem


@dataclass(frozen=True)
class Row:
    """One completion in the making; judged once it has ended, with `why` it is not right."""

    partial: Partial
    verdict: Verdict | None = None
    why: str = ""


@dataclass(frozen=True)
class Lane:
    """One model's rows.

    `written` tokens took its own steps `seconds`, reading the prompt included and the other model
    not; a scene may show fewer of them.
    """

    name: str
    rows: tuple[Row, ...]
    written: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """How many tokens are shown, of all rows together."""
        return sum(len(row.partial.token_ids) for row in self.rows)

    @property
    def speed(self) -> float | None:
        """Tokens a second, all rows together; None before there are any."""
        return self.written / self.seconds if self.written and self.seconds else None

    @property
    def over(self) -> bool:
        return all(row.partial.finish_reason is not None for row in self.rows)

    @property
    def right(self) -> int:
        """How many rows are right, strictly."""
        return sum(row.verdict is not None and row.verdict.strict for row in self.rows)

    @property
    def judged(self) -> int:
        """How many rows have a verdict that is worth one."""
        return sum(row.verdict is not None and row.verdict.known for row in self.rows)


@dataclass(frozen=True)
class Scene:
    """One problem, what is to be known of it, and every model's rows as they stand."""

    problem: Problem
    lanes: tuple[Lane, ...]
    notes: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        return all(lane.over for lane in self.lanes)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(
            (len(row.partial.token_ids) for lane in self.lanes for row in lane.rows), default=0
        )
