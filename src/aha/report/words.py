"""Reflection phrases before and after training, in counts per 100 completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from aha.reasoning.reflection import count_phrases
from aha.report.charts import BarChart, Bars
from aha.report.data import RunData, Written

MOST = 12  # phrases in the chart


@dataclass(frozen=True)
class Phrase:
    """A phrase and how often it occurs in 100 completions of each side."""

    text: str
    rates: tuple[float, ...]


def phrases(sides: Sequence[Sequence[Written]], task: str) -> list[Phrase]:
    """The phrases that occur, the most frequent first; each side has one completion at least."""
    counts: list[Counter[str]] = []
    for side in sides:
        counts.append(Counter())
        for one in side:
            counts[-1].update(count_phrases(one.text, task))
    found = [
        Phrase(
            text, tuple(100 * c[text] / len(side) for c, side in zip(counts, sides, strict=True))
        )
        for text in set().union(*counts)
    ]
    return sorted(found, key=lambda phrase: (-max(phrase.rates), phrase.text))


def words_chart(
    labels: Sequence[str], sides: Sequence[Sequence[Written]], task: str
) -> BarChart | None:
    """The most frequent phrases as bars, a set a side; None when there is no phrase at all."""
    found = phrases(sides, task)[:MOST]
    if not found:
        return None
    return BarChart(
        "Reflection phrases per 100 completions",
        "number",
        [f"“{phrase.text}”" for phrase in found],
        tuple(Bars(label, [p.rates[i] for p in found]) for i, label in enumerate(labels)),
    )


def run_words(data: RunData) -> BarChart | None:
    """A run's chart; None without two evaluations."""
    if not (data.before and data.after):
        return None
    return words_chart(("before", "after"), (data.before, data.after), data.task)
