"""Shares and means of a sample with 95 % intervals, and the step at which a curve rose.

Shares have Wilson's interval, which stays within 0 and 1 and holds for few texts and rare events.
Left out: corrections for looking at many behaviours at once, and clusters. Completions of one
problem are not independent, so an interval over whole groups is too narrow. Over an evaluation,
with one completion a problem, it is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

_TAIL = 0.975  # of a two-sided interval of 95 %
_Z = NormalDist().inv_cdf(_TAIL)


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval and the number of texts it rests on."""

    value: float
    low: float
    high: float
    n: int


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, within 0..1; counts need not be whole numbers.

    Errors: ValueError unless 0 <= successes <= n and n > 0.
    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is not a share")
    share, squared = successes / n, _Z * _Z
    centre = share + squared / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    low, high = (centre - half) / (1 + squared / n), (centre + half) / (1 + squared / n)
    # Rounding must not put a share of exactly 0 or 1 outside its own interval.
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def share(flags: Sequence[bool]) -> Estimate:
    """The share of true flags, 0 to 1, with Wilson's interval. Errors: ValueError for none."""
    if not flags:
        raise ValueError("a share of no texts")
    n, true = len(flags), sum(map(bool, flags))
    return Estimate(true / n, *wilson_interval(true, n), n)


def rise(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """The mean of `after - before`, pair by pair, with Student's t interval; flags are 0 and 1.

    Errors: ValueError for unequal lengths and for fewer than two pairs, which have no spread.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before, {len(after)} after")
    if len(before) < 2:
        raise ValueError("a rise needs at least two pairs")
    return student([float(b) - float(a) for a, b in zip(before, after, strict=True)])


def student(values: Sequence[float]) -> Estimate:
    """The mean with Student's t interval, which is infinite for a single value."""
    from scipy.special import stdtrit  # scipy is slow to import, and only this needs it

    mean, n = fmean(values), len(values)
    half = math.inf
    if n > 1:
        half = float(stdtrit(n - 1, _TAIL)) * stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def lift(shows: Sequence[bool], correct: Sequence[bool]) -> Estimate | None:
    """P(correct | shows) - P(correct | does not), -1 to 1; None when all or none show it.

    `n` counts both sides. It is an association only: hard problems get more reflection and fewer
    right answers. Errors: ValueError for unequal lengths.
    Source: method 10 of Newcombe 1998, from the two shares' Wilson intervals,
    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I.
    """
    if len(shows) != len(correct):
        raise ValueError(f"{len(shows)} texts, {len(correct)} verdicts")
    with_it = [right for shown, right in zip(shows, correct, strict=True) if shown]
    without = [right for shown, right in zip(shows, correct, strict=True) if not shown]
    if not with_it or not without:
        return None
    one, two = share(with_it), share(without)
    value = one.value - two.value
    below = math.hypot(one.value - one.low, two.high - two.value)
    above = math.hypot(one.high - one.value, two.value - two.low)
    return Estimate(value, value - below, value + above, len(shows))


def first_step_at(
    metrics: Sequence[Mapping[str, Any]], key: str, threshold: float, window: int = 5
) -> int | None:
    """The first step at which the mean over the last `window` records reaches the threshold.

    Records without a number under `key` are left out; None if the mean never reaches it.
    Errors: ValueError for a window below 1.
    """
    if window < 1:
        raise ValueError(f"a window of {window} records")
    known = [
        record
        for record in metrics
        if isinstance(record.get(key), int | float) and not math.isnan(record[key])
    ]
    for last in range(window, len(known) + 1):
        mean = fmean(record[key] for record in known[last - window : last])
        if mean >= threshold or math.isclose(mean, threshold):
            return int(known[last - 1]["step"])
    return None
