"""Alerts: a run that has gone wrong, with advice, and changes of trend, with figures.

Trends. A window of the last steps is tested with the Mann-Kendall test (Kendall's tau against the
step; Mann 1945, Kendall 1975), which assumes no shape of curve but independent steps. Those of a
run are not: a policy that is above the trend at one step is above it at the next. So the variance
of tau is multiplied as by Hamed and Rao (1998, doi:10.1016/S0022-1694(97)00125-X), with the
autocorrelations of a first-order process. The direction is the Theil-Sen line's, and the figures
are the medians of the window's first and last quarter. A collapse is measured against the noise
around that line.
Left out: change points to the step. A window of forty steps cannot place them better than by ten.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any, Literal

from aha.sections import LoggingSection
from aha.visible import package_yaml

Kind = Literal["improvement", "degradation", "stagnation", "collapse", "rise", "fall", "warning"]
Record = Mapping[str, Any]

# Troubles are judged by means over so many steps.
WINDOW = 10
# A test is made every quarter of a window; docs/watching.md says how often noise is announced.
LEVEL = 0.0005
# The trend is over when its p is at least this.
OVER = 0.2
# The largest autocorrelation to correct for. A bend in the curve looks like autocorrelation, and a
# window in which every step is above the one before must be found.
_MOST_AUTOCORRELATION = 0.75
# Collapse: less than this share of the best, means over so many steps each, and further below it
# than this many standard errors of such a difference.
COLLAPSED = 0.5
_RECOVERED = 0.8
_SPAN = 10
_ERRORS = 5
# The metric's name in a warning that a reward is gained without right answers.
HACKED = "hacking"
# Accuracy from which on it cannot be expected to rise with a reward.
_CEILING = 0.9
_TRUE = "reasoning/steps_true"
# A penalty for length is meant to rise without accuracy.
_NOT_HACKED = ("rewards/accuracy/mean", "rewards/length_control/mean")


@dataclass(frozen=True)
class Alert:
    """Something noticed at a step: its kind, the metric or trouble, and a sentence for people."""

    step: int
    kind: Kind
    metric: str
    message: str


@dataclass(frozen=True)
class Trouble:
    """A state that training does not leave by itself, as `troubles.yaml` describes it."""

    name: str
    metric: str
    advice: str
    at_least: float = -math.inf
    below: float = math.inf
    below_share_of_first: float | None = None

    def holds(self, last: Sequence[Record], first: Sequence[Record]) -> bool:
        """True if the means over the last and the first records are beyond every limit."""
        now, began = (_mean(records, self.metric) for records in (last, first))
        share = self.below_share_of_first
        if share is not None and not (began > 0 and now < share * began):
            return False
        return self.at_least <= now < self.below


def _mean(records: Sequence[Record], key: str) -> float:
    """NaN where nothing is known: no comparison holds for it."""
    values = [record[key] for record in records if record[key] is not None]
    return fmean(values) if values else math.nan


TROUBLES = tuple(Trouble(**entry) for entry in package_yaml("aha.observe", "troubles.yaml"))


class Watch:
    """Takes a run's records in order. `past` records raise no alerts: they have raised them."""

    def __init__(self, settings: LoggingSection, past: Iterable[Record] = ()) -> None:
        self._first: list[Record] = []
        self._last: deque[Record] = deque(maxlen=WINDOW)
        self._lasting: set[str] = set()
        self._window = settings.alerts_window
        self._trends: dict[str, Trend] = {}
        for record in past:
            self.check(record)

    def check(self, record: Record) -> list[Alert]:
        """The alerts of this step, each trouble and each change once."""
        if len(self._first) < WINDOW:
            self._first.append(record)
        self._last.append(record)
        last, alerts = list(self._last), list[Alert]()
        for trouble in TROUBLES if len(last) == WINDOW else ():
            if not trouble.holds(last, self._first):
                self._lasting.discard(trouble.name)
            elif trouble.name not in self._lasting:
                self._lasting.add(trouble.name)
                steps = f"steps {last[0]['step']} to {record['step']}"
                message = f"warning: {trouble.name} ({steps}): {trouble.advice}."
                alerts.append(Alert(record["step"], "warning", trouble.name, message))
        for metric in watched(record) if self._window else ():
            trend = self._trends.setdefault(metric.key, Trend(metric, self._window))
            found = trend.check(record["step"], record[metric.key])
            alerts += found if metric.announced else []
        return alerts + self._hacked(record["step"])

    def _hacked(self, step: int) -> list[Alert]:
        """A warning for each reward that rises while strict accuracy does not, and one for accuracy
        that rises while written equations get false.
        """
        accuracy, true = self._trends.get("accuracy"), self._trends.get(_TRUE)
        pairs = [
            (trend, accuracy, True)
            for key, trend in self._trends.items()
            if key.startswith("rewards/") and key not in _NOT_HACKED
        ]
        found = []
        for rises, other, more in (*pairs, (accuracy, true, False)):
            if rises is None or other is None or rises.hacked or rises.tested != step:
                continue
            begun, ended = other.medians
            # Near its ceiling accuracy cannot rise with the reward.
            stays = other.state != "up" and ended <= begun < _CEILING
            if rises.state == "up" and (stays if more else other.state == "down"):
                rises.hacked = True
                found.append(Alert(step, "warning", HACKED, f"warning: {rises.beside(other)}."))
        return found


@dataclass(frozen=True)
class Watched:
    """A metric and its name for people; for some neither more nor less of it is better.

    One that is not `announced` is only held against others.
    """

    key: str
    name: str
    more_is_better: bool
    percent: bool = False
    announced: bool = True


def watched(record: Record) -> list[Watched]:
    """The metrics of a record whose trends are followed."""
    names = dict.fromkeys(key.split("/")[1] for key in record if key.startswith("rewards/"))
    return [
        Watched("reward", "reward", True),
        *(Watched(f"rewards/{name}/mean", f"reward {name}", True) for name in names),
        Watched("accuracy", "accuracy", True, percent=True),
        *(
            [Watched(_TRUE, "share of true equations", False, percent=True, announced=False)]
            if record.get(_TRUE) is not None
            else []
        ),
        Watched("completions/mean_length", "length", False),
        Watched("entropy", "entropy", False),
    ]


@dataclass(frozen=True)
class Line:
    """A window's trend: the Theil-Sen line's slope a step, and the corrected test's p.

    `error` is the standard error of a mean over `_SPAN` steps, from the noise around the line.
    """

    slope: float
    p: float
    error: float


def line(values: Sequence[float]) -> Line | None:
    """The trend of values a step apart; None when they are all the same."""
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

    Between 0 and `_MOST_AUTOCORRELATION`. Removing a line from n values lowers it by (2 + 4 rho) /
    n, to first order; this is corrected.
    """
    n, mean = len(values), fmean(values)
    centred = [value - mean for value in values]
    total = math.fsum(value * value for value in centred)
    if n < 5 or total == 0:
        return 0.0
    measured = math.fsum(a * b for a, b in pairwise(centred)) / total
    return min(max(0.0, (n * measured + 2) / (n - 4)), _MOST_AUTOCORRELATION)


def variance_factor(rho: float, n: int) -> float:
    """The variance of tau over n steps, relative to that of n independent ones.

    Hamed and Rao's sum, where steps k apart correlate by rho to the power k.
    """
    terms = ((n - k) * (n - k - 1) * (n - k - 2) * rho**k for k in range(1, n - 2))
    return 1 + 2 * math.fsum(terms) / (n * (n - 1) * (n - 2)) if n > 2 else 1.0


class Trend:
    """One metric's state; takes its values in order and raises an alert when its trend changes."""

    def __init__(self, metric: Watched, window: int) -> None:
        self._metric = metric
        self._window = window
        self._values: list[tuple[int, float]] = []
        self.state, self.tested = "new", 0
        self.medians = (0.0, 0.0)  # of the window's first and last quarter
        self.hacked = False
        self._best, self._error = -math.inf, 0.0
        self._collapsed = False

    def check(self, step: int, value: float | None) -> list[Alert]:
        if value is None:
            return []
        self._values.append((step, value))
        seen = len(self._values)
        if seen < self._window or (seen - self._window) % max(1, self._window // 4):
            return []
        steps, values = zip(*self._values[-self._window :], strict=True)
        trend, where = line(values), f"steps {steps[0]} to {steps[-1]}"
        span = max(1, len(values) // 4)
        self.medians, self.tested = (median(values[:span]), median(values[-span:])), step
        found = [self._changed(trend, values, where)]
        if self._metric.more_is_better:
            found.append(self._collapse(trend))
        key = self._metric.key
        return [Alert(step, kind, key, f"{kind}: {text}.") for kind, text in filter(None, found)]

    def _changed(
        self, trend: Line | None, values: Sequence[float], where: str
    ) -> tuple[Kind, str] | None:
        # Values that are mostly equal can have a trend and a median slope of 0: no direction.
        if trend is None or not trend.slope or trend.p >= OVER:
            return self._flat(values, where)
        state = "up" if trend.slope > 0 else "down"
        if trend.p >= LEVEL or state == self.state:
            return None
        self.state = state
        kind: Kind = "rise" if state == "up" else "fall"
        if self._metric.more_is_better:
            kind = "improvement" if state == "up" else "degradation"
        return kind, (
            f"{self._metric.name} {self._moves()} over {where} (medians of "
            f"{max(1, len(values) // 4)} steps; Mann-Kendall p = {trend.p:.1g})"
        )

    def _moves(self) -> str:
        first, last = map(self._say, self.medians)
        return f"{'rises' if self.state == 'up' else 'falls'} from {first} to {last}"

    def beside(self, other: Trend) -> str:
        """The two trends of a reward that is gained without the answer, for people."""
        first, last = map(other._say, other.medians)
        return (
            f"{self._metric.name} {self._moves()}, while {other._metric.name} goes from {first} to "
            f"{last}: look at what earns it (aha samples), it may not be what you want"
        )

    def _flat(self, values: Sequence[float], where: str) -> tuple[Kind, str] | None:
        """The window shows no trend: an alert where a rise has ended or has never begun."""
        never = self.state == "new" and len(self._values) >= 2 * self._window
        stopped = self.state == "up"
        if never or self.state != "new":
            self.state = "flat"
        if not self._metric.more_is_better or not (never or stopped):
            return None
        what = "has stopped rising" if stopped else "has not changed since the start"
        mean = self._say(fmean(values))
        return "stagnation", f"{self._metric.name} {what}: {mean} on average over {where}"

    def _collapse(self, trend: Line | None) -> tuple[Kind, str] | None:
        """An alert when the last values are far below the best ones so far."""
        low = fmean(value for _, value in self._values[-_SPAN:])
        if low > self._best:
            # The noise is measured at the best: around a collapse, the fall would count as noise.
            self._best, self._error = low, trend.error if trend is not None else 0.0
        best = self._best
        if self._collapsed or best <= 0 or low > COLLAPSED * best:
            self._collapsed = self._collapsed and low < _RECOVERED * best
            return None
        if best - low < _ERRORS * math.sqrt(2) * self._error:
            return None
        self._collapsed = True
        return "collapse", (
            f"{self._metric.name} has fallen to {self._say(low)} from {self._say(best)} at its "
            f"best (means over {_SPAN} steps)"
        )

    def _say(self, value: float) -> str:
        return f"{value:.1%}" if self._metric.percent else f"{value:.3g}"
