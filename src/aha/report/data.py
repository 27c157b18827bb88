"""What a report is made from: a run directory, read once. No torch.

Left out: any cache between reports. Reading and analysing a run takes about a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aha.reasoning.analysis import Analysis, analyse
from aha.recipe import Recipe
from aha.report.numbers import known
from aha.runs import RunDirectory
from aha.tasks import TASKS
from aha.types import UserError

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Written:
    """A completion that has been judged and analysed; `where` says when it was written."""

    key: str
    prompt: str
    text: str
    correct: bool
    tokens: int
    truncated: bool
    where: str
    analysis: Analysis


@dataclass(frozen=True)
class RunData:
    """A run's files. `before` and `after` are the held-out completions, empty when not there.

    `during` has the step and the records of each evaluation in between, not analysed.
    `earlier_recipes` are what the run began with before its recipe was changed, each with the last
    step that ran with it.
    """

    name: str
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

    @property
    def task(self) -> str:
        return TASKS[self.recipe.task.name].rules

    @property
    def evaluated(self) -> bool:
        """Whether eval.json has both sides."""
        return "before" in self.evaluation and "after" in self.evaluation


def load(run: RunDirectory) -> RunData:
    """Everything the report needs of a run. Errors: UserError when it has no steps yet."""
    metrics = run.metrics()
    if not metrics:
        raise UserError(f"{str(run.path)!r} has no recorded step yet; there is nothing to report.")
    recipe = run.recipe()
    rules = TASKS[recipe.task.name].rules
    return RunData(
        name=run.path.resolve().name,
        recipe=recipe,
        earlier_recipes=run.earlier_recipes(),
        environment=run.environment(),
        metrics=metrics,
        evaluation=run.evaluation(),
        before=_written(run, "eval-before.jsonl", "held out, before training", rules),
        after=_written(run, "eval-after.jsonl", "held out, after training", rules),
        during=tuple(
            (step, run.read_lines(f"evals/{path.name}")) for step, path in run.evaluations()
        ),
        samples=run.read_lines("samples.jsonl"),
        alerts=run.read_lines("alerts.jsonl"),
    )


def values(metrics: Metrics, key: str) -> list[tuple[int, float]]:
    """(step, value) of the steps where `key` is known."""
    return [(record["step"], record[key]) for record in metrics if known(record.get(key))]


def pairs(before: Sequence[Written], after: Sequence[Written]) -> list[tuple[Written, Written]]:
    """The two completions of each problem that both evaluations hold, in the order of `after`.

    A problem that stands several times is paired in its order of occurrence.
    """
    waiting: dict[str, list[Written]] = {}
    for one in reversed(before):
        waiting.setdefault(one.key, []).append(one)
    return [(waiting[one.key].pop(), one) for one in after if waiting.get(one.key)]


def counts(written: Sequence[Written], behaviour: str) -> list[float]:
    """How many passages of each completion show the behaviour."""
    return [
        float(sum(passage.behaviour == behaviour for passage in one.analysis.passages))
        for one in written
    ]


def written(record: Mapping[str, Any], where: str, task: str) -> Written:
    """A record of an evaluation, analysed."""
    return Written(
        key=record["key"],
        prompt=record["prompt"],
        text=record["completion"],
        correct=record["correct"],
        tokens=record["tokens"],
        truncated=record["truncated"],
        where=where,
        analysis=analyse(record["completion"], task, record["correct"]),
    )


def _written(run: RunDirectory, name: str, where: str, task: str) -> tuple[Written, ...]:
    return tuple(written(record, where, task) for record in run.read_lines(name))
