"""Figures as people read them: one way to write a share, a difference, a duration.

Left out: locales. The page is in English and writes numbers as English papers do.
"""

from __future__ import annotations

import math
from typing import TypeGuard

from aha.reasoning.compare import Estimate

NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share 0..1 as per cent; a dash for what is not known."""
    if not known(value):
        return NONE
    return f"{_minus(f'{value * 100:.{digits}f}')}{_SPACE}%"


def number(value: float | None) -> str:
    """Three figures or so; a dash for what is not known."""
    if not known(value):
        return NONE
    size = abs(value)
    if size >= 100 or value == 0:
        return _minus(f"{value:,.0f}")
    if size >= 10:
        return _minus(f"{value:.1f}")
    if size >= 0.01:
        return _minus(f"{value:.2f}" if size >= 1 else f"{value:.3f}")
    return _minus(f"{value:.1e}")


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return NONE if not known(value) else _minus(f"{value * 100:+.1f}")


def difference(value: float | None) -> str:
    """A difference with its sign."""
    if not known(value):
        return NONE
    text = number(abs(value))
    return f"{_MINUS}{text}" if value < 0 else f"+{text}"


def between(estimate: Estimate | None, form: str) -> str:
    """An interval, "15.2 to 22.0"; `form`: percent, points, difference or number."""
    if estimate is None or not (known(estimate.low) and known(estimate.high)):
        return NONE
    low, high = (write(value, form) for value in (estimate.low, estimate.high))
    return f"{low.removesuffix(f'{_SPACE}%')} to {high}"


def write(value: float | None, form: str) -> str:
    """A value in one of the forms percent, points, difference, number."""
    forms = {"percent": percent, "points": points, "difference": difference, "number": number}
    return forms[form](value)


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 4.2 min, 3.1 h."""
    if seconds < 120:
        return f"{seconds:.0f}{_SPACE}s"
    if seconds < 7200:
        return f"{seconds / 60:.1f}{_SPACE}min"
    return f"{seconds / 3600:.1f}{_SPACE}h"


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number at all."""
    return value is not None and math.isfinite(value)


def _minus(text: str) -> str:
    return text.replace("-", _MINUS)
