"""A step's problems, learning rate and bonus for entropy.

They are functions of the step and of the record, so that nothing more needs saving.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aha.sections import GrpoSection, OptimizerSection
from aha.tasks import TASKS
from aha.types import Group, Problem


class ProblemStream:
    """Training problems in a new order every epoch; a step may draw `rounds` times.

    The first `easy_steps` steps draw only the easiest problems, as far as there are any.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        per_step: int,
        seed: int,
        rounds: int = 1,
        easy_steps: int = 0,
    ) -> None:
        self._problems = problems
        self._per_step = per_step
        self._seed = seed
        self._rounds = rounds
        self._first = easy_steps * rounds * per_step
        self._order: tuple[int, list[int]] = (-1, [])

    def at(self, step: int, round_: int = 0) -> list[Problem]:
        """The problems of step 1, 2, ...; each round of a step has its own."""
        first = ((step - 1) * self._rounds + round_) * self._per_step
        return [self._problem(first + offset) for offset in range(self._per_step)]

    def epoch(self, step: int) -> float:
        """How many times the problems have been gone through after `step`, all rounds counted."""
        return step * self._rounds * self._per_step / len(self._problems)

    def replay(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take up the state that a run's records leave: none. Draws depend on the step alone."""

    def next(self, step: int, groups: Sequence[Group]) -> dict[str, Any]:
        """Learn from a step's groups; the keys of the record. Here nothing is learned."""
        return {}

    def _problem(self, position: int) -> Problem:
        epoch, place = divmod(position, len(self._problems))
        if self._order[0] != epoch:
            order = list(range(len(self._problems)))
            random.Random(f"{self._seed}:{epoch}").shuffle(order)
            if epoch == 0 and self._first:
                # "~" sorts last: a problem of unknown difficulty is not among the easiest.
                kinds = [TASKS[p.task].difficulty(p.columns) or "~" for p in self._problems]
                least = min(kinds)
                easy = [index for index in order if kinds[index] == least][: self._first]
                order = list(dict.fromkeys([*easy, *order]))
            self._order = (epoch, order)
        return self._problems[self._order[1][place]]


@dataclass(frozen=True)
class EntropyBonus:
    """The bonus for entropy after some steps: its coefficient, and the last step's entropy."""

    coef: float
    entropy: float = math.inf

    @staticmethod
    def after(records: Sequence[Mapping[str, Any]], settings: GrpoSection) -> EntropyBonus:
        """As the run's records leave it."""
        known = [r["entropy"] for r in records if r.get("entropy") is not None]
        coef = records[-1].get("entropy_coef", settings.entropy_coef) if records else None
        return EntropyBonus(
            settings.entropy_coef if coef is None else coef, known[-1] if known else math.inf
        )

    def applied(self, settings: GrpoSection) -> float:
        """The coefficient in the next step's loss."""
        off = settings.use_adaptive_entropy and self.entropy > settings.entropy_target
        return 0.0 if off else self.coef

    def next(self, entropy: float, settings: GrpoSection) -> EntropyBonus:
        """After a step with this entropy in nats; NaN if it trained on nothing."""
        if math.isnan(entropy) or not settings.use_adaptive_entropy:
            return self
        low = entropy <= settings.entropy_target
        moved = self.coef + (settings.entropy_coef_delta if low else -settings.entropy_coef_delta)
        coef = min(max(moved, settings.entropy_coef_min), settings.entropy_coef_max)
        return EntropyBonus(coef, entropy)


def learning_rate_at(step: int, max_steps: int, settings: OptimizerSection) -> float:
    """The rate of step 1..max_steps.

    The first step already learns (its rate is 1/n of the top with n warm-up steps), and
    decay ends at `min_lr_ratio` of the top after the last step.
    """
    warmup = math.ceil(settings.warmup_ratio * max_steps)
    if step <= warmup:
        return settings.learning_rate * step / warmup
    if settings.lr_scheduler_type == "constant":
        return settings.learning_rate
    progress = (step - 1 - warmup) / max(1, max_steps - warmup)
    remaining = 1 - progress
    if settings.lr_scheduler_type == "cosine":
        remaining = 0.5 * (1 + math.cos(math.pi * progress))
    floor = settings.min_lr_ratio
    return settings.learning_rate * (floor + (1 - floor) * remaining)
