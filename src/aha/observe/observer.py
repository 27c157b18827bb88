"""What watches a run; each observer gets every step's record and groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from aha.types import Group


class Observer(Protocol):
    """Told of a run's steps in order."""

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None: ...

    def note(self, message: str) -> None:
        """A sentence for people: an evaluation's outcome, where a file is."""
        ...

    def close(self) -> None: ...
