"""How difficult a problem is, in the words of its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aha.rewards.accuracy import is_countdown

# GSM8K marks each computation of a gold solution so.
_COMPUTATION = "<<"


def difficulty(columns: Mapping[str, Any]) -> str | None:
    """Countdown: how many numbers. MATH: its level. GSM8K: computations of the gold solution.

    None where the row says nothing of it.
    """
    if is_countdown(columns):
        return f"{len(columns['nums'])} numbers"
    level = columns.get("level")
    if level is not None:
        text = str(level)
        return text if text.lower().startswith("level") else f"level {text}"
    steps = str(columns.get("answer", "")).count(_COMPUTATION)
    return f"{steps:2d} steps" if steps else None
