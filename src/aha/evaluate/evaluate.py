"""Held-out evaluation with the engine that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from aha.evaluate.intervals import wilson_interval
from aha.reasoning.reflection import reflection_count
from aha.rewards.accuracy import Verdict, judge_many
from aha.rollout.base import Engine, SamplingSettings
from aha.types import Completion, Problem, Prompt


@dataclass(frozen=True)
class Evaluation:
    """Figures of one evaluation and a record per problem.

    `summary` is eval.json's entry: `accuracy` is strict (right, in exactly the asked layout),
    `accuracy_lenient` reads the last answer block; `reflection_rate` is reflection phrases
    per completion; lengths are tokens.
    """

    summary: dict[str, Any]
    records: tuple[dict[str, Any], ...]


def evaluate(
    engine: Engine,
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    seed: int,
) -> Evaluation:
    """One completion per problem, judged."""
    groups = engine.generate(prompts, 1, settings, seed)
    completions = [group[0] for group in groups]
    verdicts = judge_many(
        [prompt.text for prompt in prompts],
        [completion.text for completion in completions],
        [problem.columns for problem in problems],
    )
    records = tuple(map(_record, problems, prompts, completions, verdicts))
    return Evaluation(_summary(records, settings), records)


def _record(
    problem: Problem, prompt: Prompt, completion: Completion, verdict: Verdict
) -> dict[str, Any]:
    return {
        "key": problem.key,
        "columns": dict(problem.columns),
        "prompt": prompt.text,
        "completion": completion.text,
        "correct": verdict.strict,
        "correct_lenient": verdict.lenient,
        "well_formed": verdict.well_formed,
        "answer": verdict.answer,
        "tokens": len(completion.token_ids),
        "truncated": completion.truncated,
        "reflections": reflection_count(completion.text),
    }


def _summary(records: Sequence[dict[str, Any]], settings: SamplingSettings) -> dict[str, Any]:
    correct = sum(record["correct"] for record in records)
    low, high = wilson_interval(correct, len(records))
    return {
        "n": len(records),
        "temperature": settings.temperature,
        "accuracy": correct / len(records),
        "ci95": [low, high],
        "accuracy_lenient": fmean(record["correct_lenient"] for record in records),
        "format_rate": fmean(record["well_formed"] for record in records),
        "mean_length": fmean(record["tokens"] for record in records),
        "reflection_rate": fmean(record["reflections"] for record in records),
        "truncated_rate": fmean(record["truncated"] for record in records),
    }
