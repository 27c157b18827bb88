"""A run that has gone wrong, said in plain words with what to change; each trouble once.

The figures are means over the last ten steps. What a reward or a length does over longer times is
for people to judge; these are states that training does not come back from by itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

WINDOW = 10


@dataclass(frozen=True)
class Trouble:
    """A state by its name, a test of the last and the first steps' records, and the advice."""

    name: str
    holds: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], bool]
    advice: str


def _mean(records: Sequence[Mapping[str, Any]], key: str) -> float:
    """NaN where nothing is known; no comparison holds for it."""
    values = [record[key] for record in records if record[key] is not None]
    return fmean(values) if values else math.nan


TROUBLES = (
    Trouble(
        "no signal",
        lambda last, _: _mean(last, "frac_reward_zero_std") >= 0.95,
        "all completions of a group get the same reward, so there is nothing to learn from; try "
        "easier or harder problems, more generation.num_generations, a reward with partial credit, "
        "or, with engine native, grpo.dynamic_sampling=true",
    ),
    Trouble(
        "everything is cut off",
        lambda last, _: _mean(last, "completions/clipped_ratio") >= 0.9,
        "nine of ten completions reach generation.max_completion_length before they end; raise it, "
        "add the reward length_penalty, or give generation.stop",
    ),
    Trouble(
        "entropy has collapsed",
        lambda last, first: _mean(last, "entropy") < 0.01
        and _mean(last, "entropy") < 0.1 * _mean(first, "entropy"),
        "the policy hardly tries anything new; raise generation.temperature, lower "
        "optimizer.learning_rate, or add a little grpo.beta; raising grpo.epsilon_high helps only "
        "where grpo.num_iterations is above 1",
    ),
    Trouble(
        "KL has exploded",
        lambda last, _: _mean(last, "kl") > 10.0,
        "the policy is far from where it began; lower optimizer.learning_rate or raise grpo.beta",
    ),
    Trouble(
        "reward has collapsed",
        lambda last, first: _mean(first, "reward") > 0 and _mean(last, "reward")
        < 0.3 * _mean(first, "reward"),
        "completions earn less than a third of what they earned at first; lower "
        "optimizer.learning_rate, and go on from an earlier checkpoint",
    ),
)  # fmt: skip


class Health:
    """Takes each step's record and gives a sentence for every trouble that has just begun."""

    def __init__(self) -> None:
        self._first: list[Mapping[str, Any]] = []
        self._last: deque[Mapping[str, Any]] = deque(maxlen=WINDOW)
        self._told: set[str] = set()

    def check(self, record: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Name and sentence of each trouble that begins with this record."""
        if len(self._first) < WINDOW:
            self._first.append(record)
        self._last.append(record)
        if len(self._last) < WINDOW:
            return []
        last, told = list(self._last), []
        for trouble in TROUBLES:
            if not trouble.holds(last, self._first):
                self._told.discard(trouble.name)
            elif trouble.name not in self._told:
                self._told.add(trouble.name)
                steps = f"steps {last[0]['step']} to {record['step']}"
                told.append((trouble.name, f"warning: {trouble.name} ({steps}): {trouble.advice}."))
        return told
