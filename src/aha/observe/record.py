"""The record of a step: one flat dict, a line of metrics.jsonl. TRL's names where it has them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import Any

import psutil
import torch

from aha.grpo.update import UpdateStats
from aha.reasoning.analysis import analyse, step_metrics
from aha.tasks import check_completions
from aha.types import Completion, Group, Score

# Linux's counters of the processor packages' energy; often readable by root only.
_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class FinishedStep:
    """A step that is over, from either engine.

    `groups` are all that were drawn, and `stats.nonfinite_rows` are places among their completions.
    `epoch`: how often the problems have been gone through. `times`: seconds by their names in the
    record, `time/step_s` among them.
    """

    number: int
    epoch: float
    learning_rate: float
    groups: Sequence[Group]
    stats: UpdateStats
    times: Mapping[str, float]


def step_record(step: FinishedStep) -> dict[str, Any]:
    """A step's line of metrics.jsonl, without the machine's load. JSON has no NaN: it is None."""
    started = time.perf_counter()
    metrics = group_metrics(step.groups)
    record_s = time.perf_counter() - started
    stats, times = step.stats, step.times
    record = {
        "step": step.number,
        "epoch": step.epoch,
        "loss": _finite(stats.loss),
        "learning_rate": step.learning_rate,
        "grad_norm": _finite(stats.grad_norm),
        "kl": _finite(stats.kl),
        "entropy": _finite(stats.entropy),
        "clip_ratio": _finite(stats.clip_ratio),
        "logprob_gap": _finite(stats.logprob_gap),
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def group_metrics(groups: Sequence[Group]) -> dict[str, Any]:
    """Rewards, lengths, accuracy and reflection of a step's groups."""
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

    Energy is the whole processor's, whoever used it, and only where its counters can be read.
    """

    def __init__(self, powercap: Path = _POWERCAP) -> None:
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
