"""Changes of trend in what a run measures, announced once with figures.

A window of the last steps is tested with the Mann-Kendall test (Kendall's tau against the step;
Mann 1945, Kendall 1975), which asks for no shape of curve. It takes steps as independent draws
around the trend. Those of a run are not: a policy that is above the trend at one step is above it
at the next. So the variance of tau is multiplied as by Hamed and Rao (1998,
doi:10.1016/S0022-1694(97)00125-X), with the autocorrelations of a first-order process. The trend's
direction is the Theil-Sen line's, and its figures are the medians of the window's first and last
quarter. A collapse is measured against the noise around that line, its autocorrelation included.
Left out: change points to the step. A window of forty steps cannot place them better than by ten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any, Literal

Kind = Literal["improvement", "degradation", "stagnation", "collapse", "rise", "fall", "warning"]

# A test is made every quarter of a window; docs/watching.md says how often noise is announced.
LEVEL = 0.0005
# The trend is over when the window says as little as this.
OVER = 0.2
# The most autocorrelation that is believed. A bend in the curve looks like it, and a window in
# which every step is above the one before must be found.
_MOST_AUTOCORRELATION = 0.75
# Collapse: less than this share of the best, means over so many steps each, and further below it
# than this many standard errors of such a difference.
COLLAPSED = 0.5
_RECOVERED = 0.8
_SPAN = 10
_ERRORS = 5


@dataclass(frozen=True)
class Alert:
    """What was noticed at a step, of which metric, in a sentence with figures."""

    step: int
    kind: Kind
    metric: str
    message: str


@dataclass(frozen=True)
class Watched:
    """A metric, its name for people, and whether more of it is better (none: neither)."""

    key: str
    name: str
    more_is_better: bool | None
    percent: bool = False


@dataclass(frozen=True)
class Line:
    """A window's trend: the Theil-Sen line's slope a step, and the corrected test's p.

    `error` is the standard error of a mean over `_SPAN` steps, from the noise around the line.
    """

    slope: float
    p: float
    error: float


def watched(record: Mapping[str, Any]) -> list[Watched]:
    """What is watched of a record: total reward, each reward, accuracy, length, entropy."""
    rewards = [key.split("/")[1] for key in record if key.startswith("rewards/")]
    names = list(dict.fromkeys(rewards))
    return [
        Watched("reward", "reward", True),
        *(Watched(f"rewards/{name}/mean", f"reward {name}", True) for name in names),
        Watched("accuracy", "accuracy", True, percent=True),
        Watched("completions/mean_length", "length", None),
        Watched("entropy", "entropy", None),
    ]


def line(values: Sequence[float]) -> Line | None:
    """The trend of values a step apart; none when they are all the same."""
    from scipy.special import ndtr, ndtri
    from scipy.stats import kendalltau, theilslopes

    if len(set(values)) < 2:
        return None
    places = range(len(values))
    slope = float(theilslopes(values, places).slope)
    around = [value - slope * place for place, value in enumerate(values)]
    rho = autocorrelation(around)
    z = ndtri(kendalltau(places, values).pvalue / 2)
    p = float(2 * ndtr(z / math.sqrt(variance_factor(rho, len(values)))))
    shares = math.fsum((1 - k / _SPAN) * rho**k for k in range(1, _SPAN))
    return Line(slope, p, stdev(around) * math.sqrt((1 + 2 * shares) / _SPAN))


def autocorrelation(values: Sequence[float]) -> float:
    """The correlation of each step's value with the next one's, of values without their trend.

    0 to the most that is believed. Taking a line out of n values lowers it by (2 + 4 rho) / n, to
    first order, which is given back.
    """
    n, mean = len(values), fmean(values)
    centred = [value - mean for value in values]
    total = math.fsum(value * value for value in centred)
    if n < 5 or total == 0:
        return 0.0
    measured = math.fsum(a * b for a, b in pairwise(centred)) / total
    return min(max(0.0, (n * measured + 2) / (n - 4)), _MOST_AUTOCORRELATION)


def variance_factor(rho: float, n: int) -> float:
    """By how much the variance of tau over n steps is larger than of independent ones.

    Hamed and Rao's sum, where steps k apart correlate by rho to the power k.
    """
    terms = ((n - k) * (n - k - 1) * (n - k - 2) * rho**k for k in range(1, n - 2))
    return 1 + 2 * math.fsum(terms) / (n * (n - 1) * (n - 2)) if n > 2 else 1.0


class Trend:
    """One metric's state; `check` takes its values in order and says what changes."""

    def __init__(self, metric: Watched, window: int) -> None:
        self._metric = metric
        self._window = window
        self._values: list[tuple[int, float]] = []
        self._state = "new"
        self._best, self._error = -math.inf, 0.0
        self._collapsed = False

    def check(self, step: int, value: float | None) -> list[Alert]:
        if value is None:
            return []
        self._values.append((step, value))
        seen = len(self._values)
        if seen < self._window or (seen - self._window) % max(1, self._window // 4):
            return []
        window = self._values[-self._window :]
        trend = line([value for _, value in window])
        found = [self._changed(trend, window), self._collapse(trend)]
        return [alert for alert in found if alert is not None]

    def _changed(self, trend: Line | None, window: Sequence[tuple[int, float]]) -> Alert | None:
        # Mostly equal values can have a trend whose median slope is none: nothing to speak of.
        if trend is not None and trend.p < LEVEL and trend.slope:
            state = "up" if trend.slope > 0 else "down"
            if state == self._state:
                return None
            self._state = state
            return self._alert(self._kind(state), self._moved(trend, window))
        if trend is not None and trend.p < OVER and trend.slope:
            return None
        return self._over(window)

    def _over(self, window: Sequence[tuple[int, float]]) -> Alert | None:
        """The window shows no trend: worth saying where a rise has ended or never began."""
        never = self._state == "new" and len(self._values) >= 2 * self._window
        stopped = self._state == "up"
        if never or self._state != "new":
            self._state = "flat"
        if not self._metric.more_is_better or not (never or stopped):
            return None
        mean = sum(value for _, value in window) / len(window)
        what = "has stopped rising" if stopped else "has not changed since the start"
        return self._alert(
            "stagnation",
            f"{self._metric.name} {what}: {self._say(mean)} on average over steps "
            f"{window[0][0]} to {window[-1][0]}",
        )

    def _collapse(self, trend: Line | None) -> Alert | None:
        """Whether the last values are far below the best ones so far."""
        if not self._metric.more_is_better:
            return None
        low = fmean(value for _, value in self._values[-_SPAN:])
        if low > self._best:
            # The noise is measured here: around a collapse it would be taken for noise itself.
            self._best, self._error = low, trend.error if trend is not None else 0.0
        best = self._best
        if self._collapsed or best <= 0 or low > COLLAPSED * best:
            self._collapsed = self._collapsed and low < _RECOVERED * best
            return None
        if best - low < _ERRORS * math.sqrt(2) * self._error:
            return None
        self._collapsed = True
        return self._alert(
            "collapse",
            f"{self._metric.name} has fallen to {self._say(low)} from {self._say(best)} at its "
            f"best (means over {_SPAN} steps)",
        )

    def _kind(self, state: str) -> Kind:
        if self._metric.more_is_better is None:
            return "rise" if state == "up" else "fall"
        return "improvement" if (state == "up") == self._metric.more_is_better else "degradation"

    def _moved(self, trend: Line, window: Sequence[tuple[int, float]]) -> str:
        verb = "rises" if trend.slope > 0 else "falls"
        values, span = [value for _, value in window], max(1, len(window) // 4)
        first, last = median(values[:span]), median(values[-span:])
        return (
            f"{self._metric.name} {verb} from {self._say(first)} to {self._say(last)} over steps "
            f"{window[0][0]} to {window[-1][0]} (medians of {span} steps; Mann-Kendall "
            f"p = {trend.p:.1g})"
        )

    def _say(self, value: float) -> str:
        return f"{value:.1%}" if self._metric.percent else f"{value:.3g}"

    def _alert(self, kind: Kind, message: str) -> Alert:
        return Alert(self._values[-1][0], kind, self._metric.key, f"{kind}: {message}.")


class Trends:
    """Takes each step's record and gives an alert for every trend that has just changed."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._trends: dict[str, Trend] = {}

    def check(self, record: Mapping[str, Any]) -> list[Alert]:
        alerts = []
        for metric in watched(record):
            trend = self._trends.setdefault(metric.key, Trend(metric, self._window))
            alerts += trend.check(record["step"], record[metric.key])
        return alerts
