"""A run in five phases: beginning, quarter points, end; every metric's mean in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from aha.report.data import Metrics, values

NAMES = ("beginning", "quarter", "half", "three quarters", "end")


@dataclass(frozen=True)
class Phase:
    """A window of the run: its name, first and last step."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class PhaseRow:
    """A metric's mean in each phase; None where it is not known."""

    label: str
    form: str
    means: tuple[float | None, ...]


@dataclass(frozen=True)
class PhaseTable:
    """The phases and a row a metric; metrics that a run has not recorded are left out."""

    phases: tuple[Phase, ...]
    rows: tuple[PhaseRow, ...]


def windows(count: int) -> list[tuple[int, int]]:
    """(start, end) of the five windows in `count` records, each a tenth of them, one at least."""
    width = max(1, count // 10)
    centred = (round(part * count / 4 - width / 2) for part in range(5))
    starts = [min(max(0, start), count - width) for start in centred]
    return [(start, start + width) for start in starts]


def phase_table(metrics: Metrics) -> PhaseTable:
    """Every known metric over the five phases."""
    parts = [metrics[start:end] for start, end in windows(len(metrics))]
    phases = tuple(
        Phase(name, part[0]["step"], part[-1]["step"])
        for name, part in zip(NAMES, parts, strict=True)
    )
    rows = [
        PhaseRow(label, form, tuple(_mean(part, key) for part in parts))
        for key, label, form in rows_of(metrics)
        if values(metrics, key)
    ]
    return PhaseTable(phases, tuple(rows))


def rows_of(metrics: Metrics) -> list[tuple[str, str, str]]:
    """(key, label, form) of the table's rows, in order."""
    rewards = reward_names(metrics)
    return [
        ("reward", "reward", "number"),
        *((f"rewards/{name}/mean", f"reward {name}, unweighted", "number") for name in rewards),
        ("accuracy", "accuracy, strict", "percent"),
        ("accuracy_lenient", "accuracy, lenient", "percent"),
        ("format_rate", "layout followed", "percent"),
        ("frac_reward_zero_std", "groups without signal", "percent"),
        ("completions/mean_length", "length, tokens", "number"),
        ("completions/clipped_ratio", "cut off at the limit", "percent"),
        ("entropy", "entropy, nats a token", "number"),
        ("kl", "KL to the start, nats a token", "number"),
        ("grad_norm", "gradient norm", "number"),
        ("reflection_rate", "reflection phrases a completion", "number"),
        ("reasoning/self_check_rate", "self-check", "percent"),
        ("reasoning/backtracking_rate", "backtracking", "percent"),
        ("reasoning/subgoals_rate", "subgoals", "percent"),
        ("reasoning/backward_chaining_rate", "backward chaining", "percent"),
        ("reasoning/backtracks", "backtracking, passages a completion", "number"),
        ("reasoning/corrected_rate", "corrected itself", "percent"),
        ("reasoning/steps_true", "written equations that are true", "percent"),
        ("tokens_wasted", "tokens without a gradient", "percent"),
    ]


def reward_names(metrics: Metrics) -> list[str]:
    """The names of the rewards that the run recorded, in order."""
    keys = (key for record in metrics for key in record if key.startswith("rewards/"))
    return list(dict.fromkeys(key.split("/")[1] for key in keys))


def _mean(part: Metrics, key: str) -> float | None:
    found: Sequence[float] = [value for _, value in values(part, key)]
    return fmean(found) if found else None
