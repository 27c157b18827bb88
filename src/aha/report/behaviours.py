"""The four behaviours before and after training, whether they go with being right, and when.

Base models reflect too (Liu et al. 2025, arXiv:2503.20783), so every share stands beside the
untrained model's. A rise is not yet a use: `lift` says whether completions that show a behaviour
are right more often than those that do not.
Left out: cause. A behaviour may go with harder problems and so with being wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from aha.reasoning.behaviours import BEHAVIOURS
from aha.reasoning.compare import Estimate, first_step_at, lift, rise, share
from aha.report.charts import BarChart, Bars
from aha.report.data import Metrics, RunData, Written, counts, pairs, values

THRESHOLDS = (0.1, 0.5)
CORRECTED = "corrected"


@dataclass(frozen=True)
class Reach:
    """The first step at which a behaviour's share reached a threshold; None: it never did."""

    threshold: float
    step: int | None


@dataclass(frozen=True)
class Row:
    """A behaviour: shares and lifts are 0..1, `passages` the mean number a completion before and
    after; what a run did not record is None or empty."""

    name: str
    label: str
    before: Estimate
    after: Estimate
    rise: Estimate | None
    passages: tuple[float, float] | None
    lift_before: Estimate | None
    lift_after: Estimate | None
    reaches: tuple[Reach, ...]


@dataclass(frozen=True)
class TrueSteps:
    """Equations written out: how many were judged, and the share of them that are true."""

    judged: int
    share: float | None


@dataclass(frozen=True)
class Behaviours:
    """The section: a row a behaviour, and the written equations before and after."""

    rows: tuple[Row, ...]
    steps_before: TrueSteps
    steps_after: TrueSteps
    phrases_before: float
    phrases_after: float


def behaviours(data: RunData) -> Behaviours | None:
    """The section of a run; None without two evaluations."""
    if not (data.before and data.after):
        return None
    rows = [_row(data, name, label(name), partial(_shows, name)) for name in BEHAVIOURS]
    rows.append(_row(data, CORRECTED, "corrected itself", _corrected))
    return Behaviours(
        tuple(rows),
        true_steps(data.before),
        true_steps(data.after),
        fmean(w.analysis.reflections for w in data.before),
        fmean(w.analysis.reflections for w in data.after),
    )


def label(name: str) -> str:
    """A behaviour's name for people."""
    return "self-check" if name == "self_check" else name.replace("_", " ")


def _shows(behaviour: str, one: Written) -> bool:
    return one.analysis.shows(behaviour)


def _corrected(one: Written) -> bool:
    return one.analysis.corrected


def _row(data: RunData, name: str, label: str, shows: Callable[[Written], bool]) -> Row:
    both = pairs(data.before, data.after)
    paired = [(float(shows(one)), float(shows(two))) for one, two in both]
    # To have corrected oneself is to be right in the end, so it has no lift to speak of.
    lifts = [None if name == CORRECTED else _lift(w, shows) for w in (data.before, data.after)]
    passages = tuple(fmean(counts(side, name)) for side in (data.before, data.after))
    return Row(
        name,
        label,
        share([shows(w) for w in data.before]),
        share([shows(w) for w in data.after]),
        rise([a for a, _ in paired], [b for _, b in paired]) if len(paired) > 1 else None,
        None if name == CORRECTED else (passages[0], passages[1]),
        lifts[0],
        lifts[1],
        reaches(data.metrics, f"reasoning/{name}_rate"),
    )


def reaches(metrics: Metrics, key: str) -> tuple[Reach, ...]:
    """When the mean of five steps reached each threshold; empty when the run has no such key."""
    known = [record for record in metrics if record.get(key) is not None]
    if not known:
        return ()
    return tuple(Reach(part, first_step_at(known, key, part)) for part in THRESHOLDS)


def true_steps(written: Sequence[Written]) -> TrueSteps:
    """The judged equations of all completions together."""
    steps = [step.true for one in written for step in one.analysis.steps]
    return TrueSteps(len(steps), fmean(steps) if steps else None)


def shares_chart(sides: Sequence[tuple[str, Sequence[Row], bool]]) -> BarChart:
    """The shares as bars with intervals; each side is (label, rows, whether after training)."""
    bars = []
    for label, rows, trained in sides:
        found = [row.after if trained else row.before for row in rows]
        bars.append(
            Bars(label, [e.value for e in found], [e.low for e in found], [e.high for e in found])
        )
    labels = [row.label for row in sides[0][1]]
    return BarChart("Completions that show each behaviour", "percent", labels, tuple(bars))


def recorded(metrics: Metrics) -> bool:
    """Whether the run recorded behaviours at its steps."""
    return bool(values(metrics, f"reasoning/{BEHAVIOURS[0]}_rate"))


def _lift(written: Sequence[Written], shows: Callable[[Written], bool]) -> Estimate | None:
    return lift([shows(one) for one in written], [one.correct for one in written])
