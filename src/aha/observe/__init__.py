"""Observers of a run: the console, samples, trackers, and alerts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aha.types import Group


class Observer:
    """Follows a run: gets every step in order. A subclass overrides the methods it needs."""

    def on_step(self, record: dict[str, Any], groups: Sequence[Group]) -> None:
        """A step's record and all groups that were drawn for it."""

    def note(self, message: str) -> None:
        """A sentence for people, such as an evaluation's result or the path of a file."""

    def close(self) -> None:
        """The run is over or has stopped."""
