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
from aha.report.charts import BarChart, Bars
from aha.report.run_data import (
    RunData,
    Written,
    between,
    known,
    number,
    pairs,
    percent,
    values,
    write,
)

CORRECTED = "corrected"
LABELS = {
    **{name: name.replace("_", " ") for name in BEHAVIOURS},
    "self_check": "self-check",
    CORRECTED: "corrected itself",
}
THRESHOLDS = (0.1, 0.5)
_PHRASES = 12  # at most, in the chart

Side = tuple[str, Sequence[Written]]  # a label and its completions
Rises = dict[str, Estimate]  # a difference by the name of its measure

# Accuracy is 0 or 1, length in tokens; the behaviours are counted in passages.
_MEASURES: dict[str, Callable[[Written], float]] = {
    "accuracy": lambda one: one.correct,
    "length": lambda one: one.tokens,
    "self_check": lambda one: one.passages("self_check"),
    "backtracking": lambda one: one.passages("backtracking"),
}


@dataclass(frozen=True)
class Tile:
    """A large figure: before, after, and the change with its interval."""

    label: str
    before: str
    after: str
    note: str


@dataclass(frozen=True)
class Row:
    """A behaviour: shares and lifts are 0..1, `passages` the mean number a completion before and
    after, `reaches` each threshold with the first step that reached it (None: never).

    A value that the run did not record is None or empty.
    """

    label: str
    before: Estimate
    after: Estimate
    rise: Estimate | None
    passages: tuple[float, float] | None
    lift_before: Estimate | None
    lift_after: Estimate | None
    reaches: tuple[tuple[float, int | None], ...]


@dataclass(frozen=True)
class Behaviours:
    """A row a behaviour; before and after, the written equations as (judged, share of true
    ones), and the mean number of reflection phrases a completion."""

    rows: tuple[Row, ...]
    steps: tuple[tuple[int, float | None], tuple[int, float | None]]
    phrases: tuple[float, float]


def rises(before: Sequence[Written], after: Sequence[Written]) -> Rises | None:
    """The paired difference after - before of each measure; None under two problems in common."""
    both = pairs(before, after)
    if len(both) < 2:
        return None
    return {
        name: rise([measure(one) for one, _ in both], [measure(two) for _, two in both])
        for name, measure in _MEASURES.items()
    }


def summary(data: RunData) -> list[str]:
    """The run in two sentences: from both evaluations, or from training while one is missing."""
    if not (data.before and data.after):
        return _training_only(data)
    before, after = share([w.correct for w in data.before]), share([w.correct for w in data.after])
    paired = rises(data.before, data.after)
    sentences = [
        f"On {after.n:,} held-out problems accuracy (strict) went from {percent(before.value)} "
        f"(95 % interval {between(before, 'percent')}) to {percent(after.value)} "
        f"({between(after, 'percent')})."
    ]
    if paired is not None:
        length = _change("completions", ("grew", "shrank"), paired["length"], "tokens")
        checks = _change("self-checks", ("rose", "fell"), paired["self_check"], "a completion")
        back = _change("backtracking", ("rose", "fell"), paired["backtracking"], "a completion")
        sentences.append(f"Problem by problem, {length}, {checks} and {back}.")
    return sentences


def _training_only(data: RunData) -> list[str]:
    steps = data.metrics[-1]["step"]
    missing = "no evaluation yet after training" if data.before else "no held-out evaluation"
    sentences = [f"{steps:,} of {data.recipe.train.max_steps:,} steps are done, with {missing}."]
    found = [value for _, value in values(data.metrics, "reward")]
    if found:
        width = max(1, len(found) // 10)
        first, last = fmean(found[:width]), fmean(found[-width:])
        sentences.append(
            f"The reward of rollouts went from {number(first)} to {number(last)} (means of the "
            "first and the last tenth of the steps)."
        )
    return sentences


def _change(subject: str, verbs: tuple[str, str], estimate: Estimate, unit: str) -> str:
    """ "completions grew by 90 tokens (80 to 100)"; a verb only if the interval excludes 0."""
    if not known(estimate.low) or estimate.low <= 0 <= estimate.high:
        interval = between(estimate, "difference")
        return f"{subject} did not change measurably (95 % interval {interval} {unit})"
    # A fall is told by its size, the smaller end first, so that no sign contradicts the verb.
    low, high = sorted((abs(estimate.low), abs(estimate.high)))
    verb = verbs[0] if estimate.value > 0 else verbs[1]
    return (
        f"{subject} {verb} by {number(abs(estimate.value))} {unit} (95 % interval {number(low)} to "
        f"{number(high)})"
    )


def tiles(data: RunData) -> list[Tile]:
    """The large figures at the top of the page; none without two evaluations."""
    if not (data.before and data.after):
        return []
    paired = rises(data.before, data.after)

    labels = (
        "accuracy, strict", "length, tokens", "self-checks a completion",
        "backtracking a completion",
    )  # fmt: skip
    shown = []
    for label, (name, measure) in zip(labels, _MEASURES.items(), strict=True):
        mean, moved, unit = ("number", "difference", "")
        if name == "accuracy":
            mean, moved, unit = ("percent", "points", " points")
        before, after = (
            write(fmean(measure(one) for one in side), mean) for side in (data.before, data.after)
        )
        note = ""
        if paired is not None:
            note = f"{write(paired[name].value, moved)}{unit} ({between(paired[name], moved)})"
        shown.append(Tile(label, before, after, note))
    return shown


def behaviours(data: RunData) -> Behaviours | None:
    """The table of behaviours of a run; None without two evaluations."""
    before, after = data.before, data.after
    if not (before and after):
        return None
    return Behaviours(
        tuple(_row(data, name) for name in LABELS),
        (_true_steps(before), _true_steps(after)),
        (
            fmean(one.analysis.reflections for one in before),
            fmean(one.analysis.reflections for one in after),
        ),
    )


def _row(data: RunData, name: str) -> Row:
    def shows(written: Sequence[Written]) -> list[bool]:
        return [_shows(one, name) for one in written]

    def lifted(written: Sequence[Written]) -> Estimate | None:
        # A completion that corrected itself is right by definition, so it has no lift.
        if name == CORRECTED:
            return None
        return lift(shows(written), [one.correct for one in written])

    paired = pairs(data.before, data.after)
    key = f"reasoning/{name}_rate"
    return Row(
        label=LABELS[name],
        before=share(shows(data.before)),
        after=share(shows(data.after)),
        rise=rise(shows([one for one, _ in paired]), shows([two for _, two in paired]))
        if len(paired) > 1
        else None,
        passages=None
        if name == CORRECTED
        else (
            fmean(one.passages(name) for one in data.before),
            fmean(one.passages(name) for one in data.after),
        ),
        lift_before=lifted(data.before),
        lift_after=lifted(data.after),
        reaches=tuple((part, first_step_at(data.metrics, key, part)) for part in THRESHOLDS)
        if values(data.metrics, key)
        else (),
    )


def _shows(one: Written, name: str) -> bool:
    return one.analysis.corrected if name == CORRECTED else one.analysis.shows(name)


def _true_steps(written: Sequence[Written]) -> tuple[int, float | None]:
    """The number of judged equations, and the share of true ones, over all completions."""
    steps = [step.true for one in written for step in one.analysis.steps]
    return len(steps), fmean(steps) if steps else None


def shares_chart(sides: Sequence[Side]) -> BarChart:
    """The share of completions that show each behaviour, with intervals."""
    bars = []
    for label, written in sides:
        found = [share([_shows(one, name) for one in written]) for name in LABELS]
        bars.append(
            Bars(label, [e.value for e in found], [e.low for e in found], [e.high for e in found])
        )
    title = "Completions that show each behaviour"
    return BarChart(title, "percent", list(LABELS.values()), tuple(bars))


def words_chart(sides: Sequence[Side], rules: str) -> BarChart | None:
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
    return BarChart(
        "Reflection phrases per 100 completions",
        "number",
        [f"“{phrase}”" for phrase in phrases],
        tuple(
            Bars(label, [side.get(phrase, 0.0) for phrase in phrases])
            for (label, _), side in zip(sides, rates, strict=True)
        ),
    )
