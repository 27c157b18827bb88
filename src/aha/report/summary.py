"""The run in two sentences and a few large figures, each with its 95 % interval.

Accuracy has Wilson's interval; differences are paired by problem, with Student's t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from aha.reasoning.compare import Estimate, rise, share
from aha.report.data import RunData, Written, counts, pairs, values
from aha.report.numbers import between, difference, known, number, percent, points

_WAYS = ("rose", "fell")


@dataclass(frozen=True)
class Tile:
    """A large figure: before, after, and what is to be said of the difference."""

    label: str
    before: str
    after: str
    note: str


@dataclass(frozen=True)
class Summary:
    """The sentences and tiles at the top of the page."""

    sentences: tuple[str, ...]
    tiles: tuple[Tile, ...] = ()


@dataclass(frozen=True)
class Rises:
    """Paired differences after - before: accuracy 0..1, length in tokens, self-checks and
    backtracking in passages a completion."""

    n: int
    accuracy: Estimate
    length: Estimate
    self_check: Estimate
    backtracking: Estimate


def rises(before: Sequence[Written], after: Sequence[Written]) -> Rises | None:
    """The paired differences of two evaluations; None under two problems in common."""
    both = pairs(before, after)
    if len(both) < 2:
        return None
    one, two = [a for a, _ in both], [b for _, b in both]
    return Rises(
        n=len(both),
        accuracy=rise([float(w.correct) for w in one], [float(w.correct) for w in two]),
        length=rise([float(w.tokens) for w in one], [float(w.tokens) for w in two]),
        self_check=rise(counts(one, "self_check"), counts(two, "self_check")),
        backtracking=rise(counts(one, "backtracking"), counts(two, "backtracking")),
    )


def summarise(data: RunData) -> Summary:
    """What happened, from the two evaluations; from training alone while there is no second."""
    if not (data.before and data.after):
        return Summary(tuple(_training_only(data)))
    before, after = share([w.correct for w in data.before]), share([w.correct for w in data.after])
    paired = rises(data.before, data.after)
    sentences = [
        f"On {after.n:,} held-out problems accuracy (strict) went from {_accuracy(before, True)} "
        f"to {_accuracy(after, False)}."
    ]
    if paired is not None:
        sentences.append(
            "Problem by problem, "
            + ", ".join(
                (
                    _moved("completions", ("grew", "shrank"), paired.length, "tokens"),
                    _moved("self-checks", _WAYS, paired.self_check, "a completion"),
                )
            )
            + " and "
            + _moved("backtracking", _WAYS, paired.backtracking, "a completion")
            + "."
        )
    return Summary(tuple(sentences), _tiles(data, before, after, paired))


def _tiles(
    data: RunData, before: Estimate, after: Estimate, paired: Rises | None
) -> tuple[Tile, ...]:
    sides = (data.before, data.after)
    lengths = [number(fmean(one.tokens for one in side)) for side in sides]
    tiles = [
        Tile("accuracy, strict", percent(before.value), percent(after.value), ""),
        Tile("length, tokens", lengths[0], lengths[1], ""),
    ]
    for label, name in (("self-checks", "self_check"), ("backtracking", "backtracking")):
        means = [number(fmean(counts(side, name))) for side in sides]
        tiles.append(Tile(f"{label} a completion", means[0], means[1], ""))
    if paired is None:
        return tuple(tiles)
    notes = (
        f"{points(paired.accuracy.value)} points ({between(paired.accuracy, 'points')})",
        *(
            f"{difference(estimate.value)} ({between(estimate, 'difference')})"
            for estimate in (paired.length, paired.self_check, paired.backtracking)
        ),
    )
    return tuple(replace(tile, note=note) for tile, note in zip(tiles, notes, strict=True))


def _accuracy(estimate: Estimate, first: bool) -> str:
    name = "95 % interval " if first else ""
    return f"{percent(estimate.value)} ({name}{between(estimate, 'percent')})"


def _moved(what: str, verbs: tuple[str, str], estimate: Estimate, unit: str) -> str:
    """ "completions grew by 90 tokens (80 to 100)", when the interval says which way it went."""
    if not known(estimate.low) or estimate.low <= 0 <= estimate.high:
        interval = between(estimate, "difference")
        return f"{what} did not change measurably (95 % interval {interval} {unit})"
    # Of a fall the sizes are said, smallest first, so that no sign contradicts the verb.
    low, high = sorted((abs(estimate.low), abs(estimate.high)))
    verb = verbs[0] if estimate.value > 0 else verbs[1]
    return (
        f"{what} {verb} by {number(abs(estimate.value))} {unit} (95 % interval {number(low)} to "
        f"{number(high)})"
    )


def _training_only(data: RunData) -> list[str]:
    steps = data.metrics[-1]["step"]
    what = "no evaluation yet after training" if data.before else "no held-out evaluation"
    sentences = [f"{steps:,} of {data.recipe.train.max_steps:,} steps are done, with {what}."]
    found = [value for _, value in values(data.metrics, "reward")]
    if found:
        width = max(1, len(found) // 10)
        first, last = fmean(found[:width]), fmean(found[-width:])
        sentences.append(
            f"The reward of rollouts went from {number(first)} to {number(last)} (means of the "
            "first and the last tenth of the steps)."
        )
    return sentences
