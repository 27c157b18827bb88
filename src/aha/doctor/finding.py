"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """`found` on `what`; a problem says in one sentence what to do.

    `stops` is true where training cannot work until it is mended.
    """

    what: str
    state: State
    found: str
    advice: str = ""
    stops: bool = False


def ok(what: str, found: str) -> Finding:
    return Finding(what, "ok", found)


def note(what: str, found: str, advice: str = "") -> Finding:
    return Finding(what, "note", found, advice)


def problem(what: str, found: str, advice: str, stops: bool = False) -> Finding:
    return Finding(what, "problem", found, advice, stops)
