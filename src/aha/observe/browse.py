"""Browsing a run's samples: which completions, in which order, as text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aha.runs import RunDirectory
from aha.types import UserError
from aha.visible import visible

Order = Literal["step", "advantage", "reward", "length"]


@dataclass(frozen=True)
class Shown:
    """One completion of samples.jsonl with the step and problem it belongs to."""

    step: int
    columns: Mapping[str, Any]
    prompt: str
    completion: Mapping[str, Any]


@dataclass(frozen=True)
class Query:
    """Which completions: of a step, matching a pattern (case ignored), in an order, how many."""

    step: int | None = None
    grep: str | None = None
    order: Order = "step"
    ascending: bool = False
    limit: int = 10


def browse(run: RunDirectory, query: Query) -> list[Shown]:
    """The completions that the query asks for; the last step or the most first.

    Errors: UserError when the run has no samples, none of that step, or the pattern is not one.
    """
    kept, pattern = _kept(run, query.step), _pattern(query.grep)
    found = [shown for shown in kept if pattern is None or pattern.search(shown.completion["text"])]
    return _sorted(found, query)[: query.limit]


def nothing(run: RunDirectory, query: Query) -> str:
    """What to say where `browse` finds none: of how many completions, and what they lack."""
    wanted = [] if query.grep is None else [f"matches --grep {query.grep!r}"]
    wanted += ["has a reward"] if query.order == "reward" else []
    return f"None of {len(_kept(run, query.step))} completions {' and '.join(wanted)}."


def _kept(run: RunDirectory, step: int | None) -> list[Shown]:
    """Every completion that the run kept, or that it kept of one step."""
    records = run.read_lines(run.samples_file.name)
    if not records:
        raise UserError(f"{str(run.path)!r} has no samples; see logging.samples_steps.")
    if step is not None:
        records = [record for record in records if record["step"] == step]
        if not records:
            raise UserError(f"--step is {step}; samples are of steps {_steps(run)}.")
    return [
        Shown(record["step"], record["columns"], record["prompt"], completion)
        for record in records
        for completion in record["completions"]
    ]


def text(shown: Shown) -> str:
    """One completion as a person reads it; nothing in it can steer the terminal."""
    completion = shown.completion
    columns = ", ".join(f"{name}={value}" for name, value in shown.columns.items())
    parts = ", ".join(
        f"{name} {'none' if value is None else f'{value:g}'}"
        for name, value in completion["rewards"].items()
    )
    ending = ", cut off" if completion["truncated"] else ""
    reward = completion["reward"]
    return visible(
        f"step {shown.step}  {columns}\n"
        f"reward {'none' if reward is None else f'{reward:.3f}'}  "
        f"advantage {completion['advantage']:+.3f}  "
        f"({parts}; {completion['tokens']} tokens{ending})\n"
        f"{shown.prompt}{completion['text']}\n"
    )


def _sorted(found: Sequence[Shown], query: Query) -> list[Shown]:
    if query.order == "step":
        return list(found if query.ascending else reversed(found))
    key = {"advantage": "advantage", "reward": "reward", "length": "tokens"}[query.order]
    known = [shown for shown in found if shown.completion[key] is not None]
    return sorted(known, key=lambda s: s.completion[key], reverse=not query.ascending)


def _pattern(grep: str | None) -> re.Pattern[str] | None:
    try:
        return None if grep is None else re.compile(grep, re.IGNORECASE)
    except re.error as error:
        raise UserError(f"--grep is {grep!r}, which is not a pattern: {error}.") from None


def _steps(run: RunDirectory) -> str:
    steps = sorted({record["step"] for record in run.read_lines(run.samples_file.name)})
    return ", ".join(map(str, steps[:20])) + (f" and on to {steps[-1]}" if len(steps) > 20 else "")
