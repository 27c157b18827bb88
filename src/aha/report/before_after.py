"""The held-out completions before and after training: lengths, behaviours and phrases.

Accuracy and other shares have Wilson's 95 % interval; differences are paired by problem, with
Student's t. Base models reflect too (Liu et al. 2025, arXiv:2503.20783), so every share stands
beside the untrained model's. `lift` tells if completions that show a behaviour are right more
often than the others.
Left out: cause. A behaviour may go with harder problems and so with being wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from aha.reasoning.behaviours import BEHAVIOURS
from aha.reasoning.compare import Estimate, first_step_at, lift, rise, share
from aha.reasoning.reflection import count_phrases
from aha.report.charts import Chart, Series
from aha.report.run_data import CORRECTED, RunData, Written, between, pairs, write
from aha.visible import text_template

LABELS = {
    **{name: name.replace("_", " ") for name in BEHAVIOURS},
    "self_check": "self-check",
    CORRECTED: "corrected itself",
}
_THRESHOLDS = (0.1, 0.5)
_PHRASES = 12  # at most, in the chart

Side = tuple[str, Sequence[Written]]  # a label and its completions
Rises = dict[str, Estimate]  # a difference by the name of its measure

# The label of its tile, its value for a completion, and the form of a mean.
_MEASURES: dict[str, tuple[str, Callable[[Written], float], str]] = {
    "accuracy": ("accuracy, strict", lambda w: w.correct, "percent"),
    "length": ("length, tokens", lambda w: w.tokens, "number"),
    "self_check": ("self-checks a completion", lambda w: w.passages("self_check"), "number"),
    "backtracking": ("backtracking a completion", lambda w: w.passages("backtracking"), "number"),
}


@dataclass(frozen=True)
class Row:
    """A behaviour. Shares (0..1), passages a completion and lifts are each before and after.

    `reaches` has each threshold with the first step that reached it (None: never). A value that
    the run did not record is None or empty.
    """

    label: str
    shares: Sequence[Estimate]
    rise: Estimate | None
    passages: Sequence[float]
    lifts: Sequence[Estimate | None]
    reaches: Sequence[tuple[float, int | None]]


@dataclass(frozen=True)
class Behaviours:
    """A row a behaviour; before and after, the written equations as (judged, share of true
    ones), and the mean number of reflection phrases a completion."""

    rows: Sequence[Row]
    steps: Sequence[tuple[int, float | None]]
    phrases: Sequence[float]


def rises(before: Sequence[Written], after: Sequence[Written]) -> Rises | None:
    """The paired difference after - before of each measure; None under two problems in common."""
    both = pairs(before, after)
    if len(both) < 2:
        return None
    return {
        name: rise([measure(one) for one, _ in both], [measure(two) for _, two in both])
        for name, (_, measure, _) in _MEASURES.items()
    }


def summary(data: RunData) -> list[str]:
    """The run in two sentences: from both evaluations, or from training while one is missing."""
    before, after = (
        share([one.correct for one in side]) if side else None for side in (data.before, data.after)
    )
    rewards = data.numbers("reward")
    tenth = max(1, len(rewards) // 10)
    text = text_template("aha.report", "summary.txt.j2", between=between, write=write).render(
        steps=data.metrics[-1]["step"],
        most=data.recipe.train.max_steps,
        rewards=[fmean(rewards[:tenth]), fmean(rewards[-tenth:])] if rewards else [],
        before=before,
        after=after,
        rises=rises(data.before, data.after),
        tested=data.recipe.task.tested,
    )
    return text.splitlines()


def tiles(data: RunData) -> list[tuple[str, str, str, str]]:
    """(label, before, after, change with its interval) of the large figures at the page's top.

    None without two evaluations; the change is empty under two problems in common.
    """
    if not (data.before and data.after):
        return []
    paired = rises(data.before, data.after)
    shown = []
    for name, (label, measure, form) in _MEASURES.items():
        before, after = (
            write(fmean(map(measure, side)), form) for side in (data.before, data.after)
        )
        change = ""
        if paired is not None:
            moved, unit = ("points", " points") if form == "percent" else ("difference", "")
            change = f"{write(paired[name].value, moved)}{unit} ({between(paired[name], moved)})"
        shown.append((label, before, after, change))
    return shown


def behaviours(data: RunData) -> Behaviours | None:
    """The table of behaviours of a run; None without two evaluations."""
    sides = (data.before, data.after)
    if not all(sides):
        return None
    both = pairs(*sides)
    rows = []
    for name, label in LABELS.items():
        shows = [[one.shows(name) for one in side] for side in sides]
        passages: list[float] = []
        lifts: list[Estimate | None] = [None, None]
        # A completion that corrected itself is right by definition, so it has no lift.
        if name != CORRECTED:
            passages = [fmean(one.passages(name) for one in side) for side in sides]
            lifts = [
                lift(shown, [one.correct for one in side])
                for shown, side in zip(shows, sides, strict=True)
            ]
        change = None
        if len(both) > 1:
            change = rise(
                [one.shows(name) for one, _ in both], [two.shows(name) for _, two in both]
            )
        key = f"reasoning/{name}_rate"
        recorded = _THRESHOLDS if data.numbers(key) else ()
        reaches = [(part, first_step_at(data.metrics, key, part)) for part in recorded]
        rows.append(Row(label, [share(shown) for shown in shows], change, passages, lifts, reaches))
    judged = [[step.true for one in side for step in one.analysis.steps] for side in sides]
    return Behaviours(
        rows,
        steps=[(len(true), fmean(true) if true else None) for true in judged],
        phrases=[fmean(one.analysis.reflections for one in side) for side in sides],
    )


def shares_chart(sides: Sequence[Side]) -> Chart:
    """The share of completions that show each behaviour, with intervals."""
    series = []
    for label, written in sides:
        found = [share([one.shows(name) for one in written]) for name in LABELS]
        low, high = [one.low for one in found], [one.high for one in found]
        series.append(Series(label, [one.value for one in found], low=low, high=high))
    title = "Completions that show each behaviour"
    return Chart(title, "percent", tuple(series), list(LABELS.values()))


def words_chart(sides: Sequence[Side], rules: str) -> Chart | None:
    """Reflection phrases per 100 completions, the most frequent first; None without a phrase."""
    rates: list[dict[str, float]] = []
    for _, written in sides:
        counts: Counter[str] = Counter()
        for one in written:
            counts.update(count_phrases(one.text, rules))
        rates.append({phrase: 100 * count / len(written) for phrase, count in counts.items()})
    most = {phrase: max(side.get(phrase, 0.0) for side in rates) for phrase in set().union(*rates)}
    phrases = sorted(most, key=lambda phrase: (-most[phrase], phrase))[:_PHRASES]
    if not phrases:
        return None
    series = tuple(
        Series(label, [side.get(phrase, 0.0) for phrase in phrases])
        for (label, _), side in zip(sides, rates, strict=True)
    )
    categories = [f"“{phrase}”" for phrase in phrases]
    return Chart("Reflection phrases per 100 completions", "number", series, categories)
