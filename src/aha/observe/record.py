"""The record of a step: one flat dict, a line of metrics.jsonl. TRL's names where it has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev, stdev
from typing import Any

from aha.reasoning.analysis import analyse, step_metrics
from aha.tasks import check_completions
from aha.types import Completion, Group, Score


def group_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    """Everything that can be said of a step's groups: rewards, lengths, accuracy, reflection."""
    completions = [c for group in groups for c in group.completions]
    scores = [s for group in groups for s in group.scores]
    rows = [(group, completion) for group in groups for completion in group.completions]
    verdicts = check_completions(
        [group.prompt.text for group, _ in rows],
        [completion.text for _, completion in rows],
        [group.problem.columns for group, _ in rows],
    )
    analyses = [
        analyse(completion.text, group.problem.task, verdict.strict)
        for (group, completion), verdict in zip(rows, verdicts, strict=True)
    ]
    return {
        **_reward_metrics(groups, scores),
        **_length_metrics(completions),
        "samples": len(completions),
        "reflection_rate": fmean(analysis.reflections for analysis in analyses),
        **step_metrics(analyses),
        "format_rate": fmean(v.well_formed for v in verdicts),
        "accuracy": fmean(v.strict for v in verdicts),
        "accuracy_lenient": fmean(v.lenient for v in verdicts),
        "tokens": sum(len(c.token_ids) for c in completions),
        "tokens_wasted": _wasted(groups),
        "groups": len(groups),
    }


def _wasted(groups: Sequence[Group]) -> float:
    """The share of the written tokens that no gradient comes from: advantage 0."""
    pairs = [
        (len(completion.token_ids), advantage)
        for group in groups
        for completion, advantage in zip(group.completions, group.advantages, strict=True)
    ]
    return sum(tokens for tokens, a in pairs if a == 0.0) / sum(tokens for tokens, _ in pairs)


def _reward_metrics(groups: Sequence[Group], scores: Sequence[Score]) -> dict[str, Any]:
    known = [s.reward for s in scores if not math.isnan(s.reward)]
    deviations = [_deviation(group) for group in groups]
    metrics: dict[str, Any] = {
        "reward": fmean(known) if known else None,
        "reward_std": fmean(deviations),
        "frac_reward_zero_std": fmean(not group.has_signal for group in groups),
    }
    for name in scores[0].raw:
        values = [value for s in scores if (value := s.raw[name]) is not None]
        if values:
            metrics[f"rewards/{name}/mean"] = fmean(values)
            metrics[f"rewards/{name}/std"] = pstdev(values)
            metrics[f"rewards/{name}/min"] = min(values)
            metrics[f"rewards/{name}/max"] = max(values)
    return metrics


def _deviation(group: Group) -> float:
    known = [s.reward for s in group.scores if not math.isnan(s.reward)]
    return stdev(known) if len(known) > 1 else 0.0


def _length_metrics(completions: Sequence[Completion]) -> dict[str, Any]:
    lengths = [len(c.token_ids) for c in completions]
    return {
        "completions/mean_length": fmean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": fmean(c.truncated for c in completions),
    }
