"""Completions shown in full: the clearest aha moments, and one problem through training.

Model text is escaped, its invisible characters are written out, its passages are marked, and a
long text loses its middle. Left out: Markdown and mathematics; a text is shown as it was written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup, escape

from aha.reasoning.analysis import Analysis
from aha.report.run_data import Record, RunData, Written, evaluated, known, pairs
from aha.tasks import check_completions
from aha.tasks.prompts import LAYOUT_OF
from aha.visible import visible

T = TypeVar("T")

MOST, LEAST = 12, 3  # moments shown
SAMPLED = 300  # sampled completions read for moments
SHOWN = 6_000  # characters; a longer text is shown without its middle
_HEAD = 4_000
_FOLDED = 900
_PREVIEW = 110
_OFTEN = 3  # a problem sampled at this many steps can be followed through training
_STAGES = 6

# Two texts that differ only in these tell the same story.
_FIGURES = re.compile(r"[\d\s+\-*/()=.,]+")
_TURN = Markup('<span class="turn"></span>')


@dataclass(frozen=True)
class Case:
    """A problem and its completions in order, each with its heading; `how` says why this one."""

    title: str
    how: str
    prompt: str
    stages: tuple[tuple[str, Written], ...]


def moments(data: RunData) -> tuple[list[Written], int]:
    """The run's clearest moments, at most twelve, and how many completions qualified.

    Only the strict verdict counts, not the reward. The page states the rule.
    """
    found = [
        one
        for one in (*data.after, *sampled(data))
        if one.correct and one.analysis.corrected and one.shows("backtracking")
    ]
    return _varied(sorted(found, key=_rank)), len(found)


def sampled(data: RunData) -> list[Written]:
    """The right ones (strictly) among the `SAMPLED` sampled completions with most reward.

    If rewards are equal, the latest come first. The limit bounds the time that a report takes.
    """

    def order(row: tuple[Record, Record]) -> tuple[float, int]:
        reward = row[1]["reward"]
        return -reward if known(reward) else math.inf, -row[0]["step"]

    rows = [(record, one) for record in data.samples for one in record["completions"]]
    return [
        evaluated(record, f"training, step {record['step']:,}", data.rules)
        for record in _judged(sorted(rows, key=order)[:SAMPLED], data)
        if record["correct"]
    ]


def _judged(rows: Sequence[tuple[Record, Record]], data: RunData) -> list[Record]:
    """Each (sample record, one of its completions) as a record of an evaluation."""
    verdicts = check_completions(
        [record["prompt"] for record, _ in rows],
        [one["text"] for _, one in rows],
        [record["columns"] for record, _ in rows],
        LAYOUT_OF[data.recipe.prompt.style],
    )
    return [
        {**record, "completion": one["text"], "tokens": one["tokens"], "correct": verdict.strict}
        for (record, one), verdict in zip(rows, verdicts, strict=True)
    ]


def _rank(one: Written) -> tuple[int, int, int, str]:
    false = sum(not step.true for step in one.analysis.steps)
    kinds = len({passage.behaviour for passage in one.analysis.passages})
    return false, -kinds, len(one.text), one.key


def _varied(ranked: Sequence[Written]) -> list[Written]:
    """The first of each problem and of each story; repeats of a story if too few are left."""
    keys: set[str] = set()
    stories: set[str] = set()
    first: list[Written] = []
    again: list[Written] = []
    for one in ranked:
        if one.key in keys:
            continue
        keys.add(one.key)
        story = _FIGURES.sub("#", one.text)
        (again if story in stories else first).append(one)
        stories.add(story)
    return (first + again[: max(0, LEAST - len(first))])[:MOST]


def case_study(data: RunData) -> Case | None:
    """One problem to look at closely; None when no problem qualifies."""
    if data.during:
        return _held_out(data) or _through_training(data)
    return _through_training(data) or _held_out(data)


def _through_training(data: RunData) -> Case | None:
    """The problem that was sampled at most steps, its first completion at each."""
    by_key: dict[str, dict[int, Record]] = {}
    for record in data.samples:
        by_key.setdefault(record["key"], {}).setdefault(record["step"], record)
    records = list(max(by_key.values(), key=len, default={}).values())
    if len(records) < _OFTEN:
        return None
    rows = [(record, record["completions"][0]) for record in _evenly(records, _STAGES)]
    return Case(
        "One problem through training",
        f"The problem that was sampled most often, at {len(records)} steps. Shown is the first "
        f"completion of its group at {len(rows)} of these steps.",
        records[0]["prompt"],
        tuple(
            (f"Step {record['step']:,}", evaluated(record, "training", data.rules))
            for record in _judged(rows, data)
        ),
    )


def _held_out(data: RunData) -> Case | None:
    """The typical one of the held-out problems that training solved, with a reflection."""
    gained = [
        (one, two)
        for one, two in pairs(data.before, data.after)
        if two.correct and two.analysis.reflections and not one.correct
    ]
    if not gained:
        return None
    gained.sort(key=lambda pair: (pair[1].analysis.reflections, pair[1].key))
    before, after = gained[len(gained) // 2]
    during = [
        (f"Step {step:,}", record)
        for step, records in data.during
        for record in records
        if record["key"] == after.key
    ]
    return Case(
        f"One held-out problem, before{', during' if during else ''} and after",
        f"Of the {len(gained):,} problems that were missed before and solved after with at least "
        "one reflection, this one has the median number of reflections.",
        after.prompt,
        (
            ("Before training", before),
            *(
                (when, evaluated(record, "held out", data.rules))
                for when, record in _evenly(during, _STAGES - 2)
            ),
            ("After training", after),
        ),
    )


def _evenly(records: Sequence[T], most: int) -> list[T]:
    """At most `most` of the records, at even distances, the first and the last included."""
    if len(records) <= most:
        return list(records)
    return [records[round(i * (len(records) - 1) / (most - 1))] for i in range(most)]


def preview(text: str) -> str:
    """One line of a text that is long enough to be folded; empty for a shorter one."""
    if len(text) <= _FOLDED:
        return ""
    return visible(" ".join(text[: 2 * _PREVIEW].split())[:_PREVIEW]) + "…"


def marked(text: str, analysis: Analysis | None = None) -> Markup:
    """A model's text for the page, with the passages of `analysis` marked.

    Longer than `SHOWN` characters: the first 4,000 and the last 2,000.
    """
    spans = _spans(analysis) if analysis is not None else []
    if len(text) <= SHOWN:
        return _part(text, 0, len(text), spans)
    tail = len(text) - (SHOWN - _HEAD)
    gap = Markup('\n<span class="gap">[{:,} characters left out]</span>\n').format(tail - _HEAD)
    return _part(text, 0, _HEAD, spans) + gap + _part(text, tail, len(text), spans)


def _spans(analysis: Analysis) -> list[tuple[int, int, str, str]]:
    """(start, end, class, title) of each mark, without overlaps, in order."""
    spans = [
        (p.start, p.end, p.behaviour.replace("_", "-"), p.behaviour.replace("_", " "))
        for p in analysis.passages
    ]
    spans += [(s.start, s.end, "false", "false equation") for s in analysis.steps if not s.true]
    kept: list[tuple[int, int, str, str]] = []
    # Of two with the same start the phrase wins: it is listed first, and the sort is stable.
    for span in sorted(spans, key=lambda span: span[0]):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def _part(text: str, start: int, end: int, spans: Sequence[tuple[int, int, str, str]]) -> Markup:
    """text[start:end], escaped; spans that cross an edge are left unmarked."""
    pieces: list[Markup] = []
    position = start
    for first, last, name, title in spans:
        if first < start or last > end:
            continue
        pieces.append(escape(visible(text[position:first])))
        if name == "backtracking" and first > 0 and text[first - 1] != "\n":
            pieces.append(_TURN)
        mark = Markup('<mark class="{}" title="{}">{}</mark>')
        pieces.append(mark.format(name, title, visible(text[first:last])))
        position = last
    pieces.append(escape(visible(text[position:end])))
    return Markup("").join(pieces)
