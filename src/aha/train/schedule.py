"""A step's problems and learning rate, as functions of the step, so that nothing needs saving."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from aha.sections import OptimizerSection
from aha.tasks import TASKS
from aha.types import Problem


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
