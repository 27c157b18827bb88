"""One problem closely: through training when it was sampled often enough, else before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aha.reasoning.analysis import analyse
from aha.report.data import RunData, Written, pairs, written
from aha.report.text import Shown, show
from aha.tasks import check_completions

_OFTEN = 3  # steps at which a problem was sampled, to be followed through training
_STAGES = 6


@dataclass(frozen=True)
class Stage:
    """A completion of the case: when it was written and how it ended."""

    when: str
    text: Shown
    correct: bool
    tokens: int


@dataclass(frozen=True)
class Case:
    """A problem and its completions in order; `how` says how it was chosen."""

    title: str
    how: str
    prompt: Shown
    stages: tuple[Stage, ...]


def case_study(data: RunData) -> Case | None:
    """The problem to look at; None when no problem qualifies.

    A held-out one when it was asked during training as well: the same problem, again and again.
    """
    if data.during:
        return _held_out(data) or _through_training(data)
    return _through_training(data) or _held_out(data)


def _through_training(data: RunData) -> Case | None:
    """The problem that was sampled at most steps, its first completion at each."""
    by_key: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in data.samples:
        by_key.setdefault(record["key"], {}).setdefault(record["step"], record)
    if not by_key:
        return None
    records = list(max(by_key.values(), key=len).values())
    if len(records) < _OFTEN:
        return None
    chosen = _evenly(records, _STAGES)
    return Case(
        "One problem through training",
        f"The problem that was sampled most often, at {len(records)} steps; of each of these "
        f"{len(chosen)} steps the first completion of its group, whatever it is.",
        show(chosen[0]["prompt"]),
        tuple(_stages(chosen, data.task)),
    )


def _stages(records: Sequence[Mapping[str, Any]], task: str) -> list[Stage]:
    firsts = [record["completions"][0] for record in records]
    verdicts = check_completions(
        [record["prompt"] for record in records],
        [one["text"] for one in firsts],
        [record["columns"] for record in records],
    )
    return [
        Stage(
            f"Step {record['step']:,}",
            show(one["text"], analyse(one["text"], task, verdict.strict), fold=False),
            verdict.strict,
            one["tokens"],
        )
        for record, one, verdict in zip(records, firsts, verdicts, strict=True)
    ]


def _held_out(data: RunData) -> Case | None:
    """A problem that was missed before and solved after by going on after a mistake.

    The one with the median number of reflections among such problems, so that it is typical.
    """
    gained = [
        (one, two)
        for one, two in pairs(data.before, data.after)
        if two.correct and two.analysis.reflections and not one.correct
    ]
    if not gained:
        return None
    gained.sort(key=lambda pair: (pair[1].analysis.reflections, pair[1].key))
    both = gained[len(gained) // 2]
    through = _between(data, both[1].key)
    return Case(
        f"One held-out problem, before{', during' if through else ''} and after",
        f"Of the {len(gained):,} problems that were missed before and solved after with at least "
        "one reflection, this one has the median number of reflections.",
        show(both[1].prompt),
        tuple(
            Stage(when, show(one.text, one.analysis, fold=False), one.correct, one.tokens)
            for when, one in (
                ("Before training", both[0]),
                *through,
                ("After training", both[1]),
            )
        ),
    )


def _between(data: RunData, key: str) -> list[tuple[str, Written]]:
    """What the model wrote for a held-out problem during training, at a few steps."""
    found = [
        {**record, "step": step}
        for step, records in data.during
        for record in records
        if record["key"] == key
    ]
    if not found:
        return []
    chosen = _evenly(found, _STAGES - 2)
    return [(f"Step {one['step']:,}", written(one, "held out", data.task)) for one in chosen]


def _evenly(records: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    if len(records) <= most:
        return list(records)
    return [records[round(i * (len(records) - 1) / (most - 1))] for i in range(most)]
