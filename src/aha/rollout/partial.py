"""What a completion in the making looks like to those who look on.

Left out: how long it took. Whoever consumes the stream knows when each look was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from aha.types import Completion

# What a decoder writes for bytes that make no character, or not yet.
INCOMPLETE = "\ufffd"

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Partial:
    """What one row has written so far; `finish_reason` is None while it writes.

    `token_ids` and `logprobs` are those of `Completion`. The text of a row that still writes is
    without a last character of which only some bytes are there.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"] | None

    @property
    def completion(self) -> Completion:
        """The completion that it has become. Errors: ValueError while the row writes."""
        if self.finish_reason is None:
            raise ValueError("the row is still writing")
        return Completion(self.text, self.token_ids, self.logprobs, self.finish_reason)


def unfinished_text(decoded: str) -> str:
    """A decoded beginning without the character whose bytes are not all there yet."""
    return decoded.rstrip(INCOMPLETE)


def in_groups(rows: Sequence[_Row], num_generations: int) -> list[tuple[_Row, ...]]:
    """Rows in order as one tuple a prompt."""
    starts = range(0, len(rows), num_generations)
    return [tuple(rows[start : start + num_generations]) for start in starts]
