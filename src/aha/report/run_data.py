"""A run directory as the report reads it, once, and numbers as the report writes them. No torch.

Left out: any cache between reports, as reading and analysing a run takes about a second; and
locales. The page is in English and writes numbers as English papers do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from aha.reasoning.analysis import Analysis, analyse
from aha.reasoning.compare import Estimate
from aha.recipe import Recipe
from aha.runs import RunDirectory
from aha.tasks import TASKS
from aha.types import UserError

CORRECTED = "corrected"
NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_DECIMALS = ((100, ",.0f"), (10, ".1f"), (1, ".2f"), (0.01, ".3f"))  # from this size on

Record = Mapping[str, Any]
Metrics = Sequence[Record]


@dataclass(frozen=True)
class Written:
    """A completion with its verdict (strict) and analysis; `where` says when it was written."""

    key: str
    prompt: str
    text: str
    correct: bool
    tokens: int
    where: str
    analysis: Analysis

    def shows(self, name: str) -> bool:
        """True if it shows the behaviour, or, for `CORRECTED`, if it corrected itself."""
        return self.analysis.corrected if name == CORRECTED else self.analysis.shows(name)

    def passages(self, behaviour: str) -> int:
        """The number of passages that show the behaviour."""
        return sum(passage.behaviour == behaviour for passage in self.analysis.passages)


@dataclass(frozen=True)
class RunData:
    """A run's files. `before` and `after` hold the held-out completions; empty without a file.

    `rules` names the rules of `aha.reasoning` for its task.
    `during` has the step and the records of each evaluation in between, not analysed.
    `earlier_recipes` are the recipes that a later change replaced, each with its last step.
    """

    name: str
    rules: str
    recipe: Recipe
    earlier_recipes: Sequence[tuple[int, Recipe]]
    environment: Mapping[str, Any]
    metrics: Metrics
    evaluation: Mapping[str, Any]
    before: tuple[Written, ...]
    after: tuple[Written, ...]
    during: tuple[tuple[int, Metrics], ...]
    samples: Metrics
    alerts: Metrics

    def numbers(self, key: str) -> list[float]:
        """The known values of a metric, by step."""
        return [value for _, value in values(self.metrics, key)]


def load(run: RunDirectory) -> RunData:
    """Everything the report needs of a run. Errors: UserError when it has no steps yet."""
    metrics = run.metrics()
    if not metrics:
        raise UserError(f"{str(run.path)!r} has no recorded step yet; there is nothing to report.")
    recipe = run.recipe()
    rules = TASKS[recipe.task.name].rules
    before, after = (
        tuple(
            evaluated(record, f"held out, {when} training", rules)
            for record in run.read_lines(f"eval-{when}.jsonl")
        )
        for when in ("before", "after")
    )
    return RunData(
        name=run.path.resolve().name,
        rules=rules,
        recipe=recipe,
        earlier_recipes=run.earlier_recipes(),
        environment=run.environment(),
        metrics=metrics,
        evaluation=run.evaluation(),
        before=before,
        after=after,
        during=tuple(
            (step, run.read_lines(f"evals/{path.name}")) for step, path in run.evaluations()
        ),
        samples=run.read_lines("samples.jsonl"),
        alerts=run.read_lines("alerts.jsonl"),
    )


def evaluated(record: Record, where: str, rules: str) -> Written:
    """A record of an evaluation, analysed by the task's rules."""
    return Written(
        key=record["key"],
        prompt=record["prompt"],
        text=record["completion"],
        correct=record["correct"],
        tokens=record["tokens"],
        where=where,
        analysis=analyse(record["completion"], rules, record["correct"]),
    )


def values(metrics: Metrics, key: str) -> list[tuple[int, float]]:
    """(step, value) of the steps where `key` is known."""
    return [(record["step"], record[key]) for record in metrics if known(record.get(key))]


def pairs(before: Sequence[Written], after: Sequence[Written]) -> list[tuple[Written, Written]]:
    """The two completions of each problem that both evaluations hold, in the order of `after`.

    A problem that occurs several times is paired in its order of occurrence.
    """
    waiting: dict[str, list[Written]] = {}
    for one in reversed(before):
        waiting.setdefault(one.key, []).append(one)
    return [(waiting[one.key].pop(), one) for one in after if waiting.get(one.key)]


def known(value: float | None) -> TypeGuard[float]:
    """True for a finite number."""
    return value is not None and math.isfinite(value)


def write(value: float | None, form: str, digits: int = 1) -> str:
    """A value in one of the forms percent, points, difference, number; a dash if it is unknown.

    "percent" is a share 0..1, with `digits` decimals; "points" is a signed difference of shares.
    "number" has about three digits, and "difference" has its sign too.
    """
    if not known(value):
        return NONE
    if form == "percent":
        text = f"{value * 100:.{digits}f}{_SPACE}%"
    elif form == "points":
        text = f"{value * 100:+.1f}"
    else:
        forms = (decimals for least, decimals in _DECIMALS if abs(value) >= least)
        decimals = next(forms, ".1e") if value else ",.0f"
        text = f"{value:{'+' if form == 'difference' else ''}{decimals}}"
    return text.replace("-", _MINUS)


def between(estimate: Estimate | None, form: str) -> str:
    """An interval such as "15.2 to 22.0"; `form` as for `write`."""
    if estimate is None or not (known(estimate.low) and known(estimate.high)):
        return NONE
    low, high = write(estimate.low, form), write(estimate.high, form)
    return f"{low.removesuffix(f'{_SPACE}%')} to {high}"


def duration(seconds: float) -> str:
    """Seconds as "45 s", "4.2 min" or "3.1 h"."""
    if seconds < 120:
        return f"{seconds:.0f}{_SPACE}s"
    if seconds < 7200:
        return f"{seconds / 60:.1f}{_SPACE}min"
    return f"{seconds / 3600:.1f}{_SPACE}h"
