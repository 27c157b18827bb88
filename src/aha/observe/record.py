"""The record of a step: one flat dict, a line of metrics.jsonl. TRL's names where it has them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import Any

import numpy as np
import psutil
import torch

from aha.grpo.update import UpdateStats
from aha.reasoning.analysis import analyse, step_metrics
from aha.tasks import check_groups
from aha.types import Group


@dataclass(frozen=True)
class FinishedStep:
    """A step that is over, from either engine.

    `stats.nonfinite_rows` are places among the completions of `groups`, which are all that were
    drawn. `times`: seconds by their names in the record, `time/step_s` among them. `entropy_coef`
    is that of the next step, if the recipe has a bonus for entropy. `controls`: the state of length
    control and curriculum for the next step, by its names in the record.
    """

    number: int
    epoch: float
    learning_rate: float
    groups: Sequence[Group]
    stats: UpdateStats
    times: Mapping[str, float]
    entropy_coef: float | None = None
    controls: Mapping[str, Any] = field(default_factory=dict)


def step_record(step: FinishedStep) -> dict[str, Any]:
    """A step's line of metrics.jsonl, without the machine's load. JSON has no NaN: it is None."""
    started = time.perf_counter()
    metrics = group_metrics(step.groups)
    record_s = time.perf_counter() - started
    stats, times = step.stats, step.times
    record = {
        "step": step.number,
        "epoch": step.epoch,
        "learning_rate": step.learning_rate,
        **{
            name: value if math.isfinite(value := getattr(stats, name)) else None
            for name in ("loss", "grad_norm", "kl", "entropy", "clip_ratio", "logprob_gap")
        },
        **({} if step.entropy_coef is None else {"entropy_coef": step.entropy_coef}),
        **step.controls,
        "skipped": stats.skipped,
        "sick_rows": list(stats.nonfinite_rows),
        "trained_rows": stats.trained_rows,
        "tokens_per_microbatch": stats.tokens_per_microbatch,
        **metrics,
        **times,
        "time/record_s": record_s,
        "time/samples_per_s": metrics["samples"] / times["time/step_s"],
        "time/tokens_per_s": metrics["tokens"] / times["time/step_s"],
        "memory/peak_gb": peak_memory_gb(),
    }
    if torch.cuda.is_available():
        record["machine/gpu_memory_gb"] = torch.cuda.memory_allocated() / 2**30
    return record


def group_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    """Rewards, lengths, accuracy and reflection of a step's groups.

    `tokens_wasted` is the share of the written tokens that no gradient comes from: advantage 0.
    """
    rows = [(group, completion) for group in groups for completion in group.completions]
    texts = [completion.text for _, completion in rows]
    lengths = [len(completion.token_ids) for _, completion in rows]
    scores = [score for group in groups for score in group.scores]
    advantages = [advantage for group in groups for advantage in group.advantages]
    verdicts = check_groups(groups)
    analyses = [
        analyse(text, group.problem.task, verdict.strict)
        for text, (group, _), verdict in zip(texts, rows, verdicts, strict=True)
    ]
    known = [[s.reward for s in g.scores if not math.isnan(s.reward)] for g in groups]
    rewards = [reward for of_group in known for reward in of_group]
    metrics: dict[str, Any] = {
        "reward": fmean(rewards) if rewards else None,
        "reward_std": fmean(stdev(values) if len(values) > 1 else 0.0 for values in known),
        "frac_reward_zero_std": fmean(not group.has_signal for group in groups),
    }
    for name in scores[0].raw:
        values = [value for score in scores if (value := score.raw[name]) is not None]
        if values:
            metrics[f"rewards/{name}/mean"] = fmean(values)
            metrics[f"rewards/{name}/std"] = pstdev(values)
            metrics[f"rewards/{name}/min"] = min(values)
            metrics[f"rewards/{name}/max"] = max(values)
    right = [n for n, verdict in zip(lengths, verdicts, strict=True) if verdict.strict]
    low, high = np.quantile(right, (0.1, 0.9)).tolist() if right else (None, None)
    wasted = sum(n for n, a in zip(lengths, advantages, strict=True) if a == 0.0)
    return {
        **metrics,
        "completions/mean_length": fmean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/right_length_p10": low,
        "completions/right_length_p90": high,
        "completions/clipped_ratio": fmean(completion.truncated for _, completion in rows),
        "samples": len(rows),
        "reflection_rate": fmean(analysis.reflections for analysis in analyses),
        **step_metrics(analyses),
        "format_rate": fmean(verdict.well_formed for verdict in verdicts),
        "accuracy": fmean(verdict.strict for verdict in verdicts),
        "accuracy_lenient": fmean(verdict.lenient for verdict in verdicts),
        "tokens": sum(lengths),
        "tokens_wasted": wasted / sum(lengths),
        "groups": len(groups),
    }


def peak_memory_gb() -> float:
    """The most memory held so far, in GiB: the GPU's when there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ModuleNotFoundError:  # on Windows, where psutil knows the peak
        held: Any = psutil.Process().memory_info()
        return float(held.peak_wset / 2**30)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


class Meter:
    """Reads the machine's load: processor since the last reading, memory and energy.

    Energy is the whole processor's, whoever used it, and only where Linux's counters can be read.
    """

    def __init__(self, powercap: Path = Path("/sys/class/powercap")) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._packages = sorted(powercap.glob("intel-rapl:?"))
        self._energy_uj = self._counters()

    def read(self) -> dict[str, float]:
        """Processor per cent (200: two cores), resident GiB, share of the machine's memory,
        joules where known."""
        with self._process.oneshot():
            load = {
                "machine/cpu_percent": self._process.cpu_percent(),
                "machine/ram_gb": self._process.memory_info().rss / 2**30,
                "machine/ram_percent": psutil.virtual_memory().percent,
            }
        before, self._energy_uj = self._energy_uj, self._counters()
        if before and self._energy_uj:
            spent_uj = 0
            for package, a, b in zip(self._packages, before, self._energy_uj, strict=True):
                # A counter begins again after its range.
                around = 0 if b >= a else int((package / "max_energy_range_uj").read_text())
                spent_uj += b - a + around
            load["machine/energy_j"] = spent_uj / 1e6
        return load

    def _counters(self) -> list[int]:
        try:
            return [int((package / "energy_uj").read_text()) for package in self._packages]
        except OSError:  # this user may not read them: the energy is not known
            return []
