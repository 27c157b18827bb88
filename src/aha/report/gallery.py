"""The clearest aha moments: completions that gave up a wrong try and ended right.

The rule of order is `RULE`; it asks for clarity, not for beauty, and no person chose.
Left out: completions that are right because a reward was right; only the strict verdict counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aha.reasoning.analysis import analyse
from aha.reasoning.behaviours import BEHAVIOURS
from aha.report.data import RunData, Written
from aha.report.numbers import known
from aha.report.text import Shown, show
from aha.tasks import check_completions

MOST, LEAST = 12, 3
SAMPLED = 300
RULE = (
    "Every completion that is right in the end, in the asked layout, after giving up at least one "
    "try of its own; held out after training, and sampled during training (of these the "
    f"{SAMPLED} with most reward are read). Order: fewest false equations, then most kinds of "
    "behaviour, then shortest. One a problem; texts that differ only in numbers and signs are "
    "shown once."
)

# What two texts may differ in and still tell the same story.
_FIGURES = re.compile(r"[\d\s+\-*/()=.,]+")


@dataclass(frozen=True)
class Moment:
    """A completion of the gallery; `behaviours` are the names it shows."""

    prompt: Shown
    text: Shown
    where: str
    tokens: int
    backtracks: int
    behaviours: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """The moments shown, of how many that qualified."""

    moments: tuple[Moment, ...]
    qualified: int


def gallery(data: RunData) -> Gallery:
    """The run's clearest moments, at most twelve."""
    found = [one for one in (*data.after, *sampled(data)) if _qualifies(one)]
    ranked = sorted(found, key=_rank)
    return Gallery(tuple(_moment(one) for one in _varied(ranked)), len(found))


def sampled(data: RunData) -> list[Written]:
    """The sampled completions that are right (strictly), of the `SAMPLED` with most reward.

    Of equal rewards the latest; so a report takes no longer for a run that sampled more.
    """
    rows = [(record, one) for record in data.samples for one in record["completions"]]
    rows.sort(key=lambda row: (-_reward(row[1]), -row[0]["step"]))
    rows = rows[:SAMPLED]
    if not rows:
        return []
    verdicts = check_completions(
        [record["prompt"] for record, _ in rows],
        [one["text"] for _, one in rows],
        [record["columns"] for record, _ in rows],
    )
    return [
        Written(
            key=record["key"],
            prompt=record["prompt"],
            text=one["text"],
            correct=True,
            tokens=one["tokens"],
            truncated=one["truncated"],
            where=f"training, step {record['step']:,}",
            analysis=analyse(one["text"], data.task, True),
        )
        for (record, one), verdict in zip(rows, verdicts, strict=True)
        if verdict.strict
    ]


def _reward(completion: Mapping[str, Any]) -> float:
    """What a completion earned; one without a score comes last."""
    reward = completion["reward"]
    return reward if known(reward) else -math.inf


def _qualifies(one: Written) -> bool:
    return one.correct and one.analysis.corrected and one.analysis.shows("backtracking")


def _rank(one: Written) -> tuple[int, int, int, str]:
    false = sum(not step.true for step in one.analysis.steps)
    kinds = len({passage.behaviour for passage in one.analysis.passages})
    return false, -kinds, len(one.text), one.key


def _varied(ranked: Sequence[Written]) -> list[Written]:
    """The first of each problem and of each story; more of a story when there are too few."""
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


def _moment(one: Written) -> Moment:
    return Moment(
        prompt=show(one.prompt),
        text=show(one.text, one.analysis),
        where=one.where,
        tokens=one.tokens,
        backtracks=sum(p.behaviour == "backtracking" for p in one.analysis.passages),
        behaviours=tuple(name for name in BEHAVIOURS if one.analysis.shows(name)),
    )
