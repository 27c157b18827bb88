"""What a run cost, from its own record: time, tokens, memory, and energy where it was measured.

Left out: money, and energy guessed from a processor's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from aha.report.data import RunData, values
from aha.report.numbers import duration, number, percent

_PARTS = (("time/rollout_s", "writing"), ("time/reward_s", "scoring"), ("time/train_s", "learning"))


@dataclass(frozen=True)
class CostRow:
    """A figure of the cost and what it is made of."""

    label: str
    value: str
    note: str = ""


def cost(data: RunData) -> list[CostRow]:
    """The rows of the cost table; what the record does not hold is left out."""
    times = [value for _, value in values(data.metrics, "time/step_s")]
    tokens = sum(value for _, value in values(data.metrics, "tokens"))
    rows = []
    if times:
        total = sum(times)
        rows = [
            CostRow("time in training steps", duration(total), _parts(data, total)),
            CostRow("a step, median", f"{number(median(times))} s"),
        ]
        if tokens:
            rows.append(
                CostRow("tokens a second", number(tokens / total), "written, over the whole step")
            )
    if tokens:
        rows.insert(0, CostRow("tokens written in training", f"{tokens:,}"))
    memory = [value for _, value in values(data.metrics, "memory/peak_gb")]
    if memory:
        rows.append(CostRow("memory at most", f"{number(max(memory))} GiB"))
    energy = sum(value for _, value in values(data.metrics, "machine/energy_j"))
    if energy:
        rows.append(CostRow("energy", f"{number(energy / 3600)} Wh", "as the machine measured it"))
    return rows


def _parts(data: RunData, total: float) -> str:
    """The share of each part of the step; evaluation and start are not in it."""
    shares = [
        f"{name} {percent(sum(value for _, value in found) / total, 0)}"
        for key, name in _PARTS
        if (found := values(data.metrics, key))
    ]
    return ", ".join(shares)
