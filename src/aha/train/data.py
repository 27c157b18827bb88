"""Which problems a step trains on: a function of (seed, step), so that nothing needs saving."""

from __future__ import annotations

import random
from collections.abc import Sequence

from aha.types import Problem


class ProblemStream:
    """Training problems in a new order every epoch."""

    def __init__(self, problems: Sequence[Problem], per_step: int, seed: int) -> None:
        self._problems = problems
        self._per_step = per_step
        self._seed = seed
        self._order: tuple[int, list[int]] = (-1, [])

    def at(self, step: int) -> list[Problem]:
        """The problems of step 1, 2, ..."""
        first = (step - 1) * self._per_step
        return [self._problem(first + offset) for offset in range(self._per_step)]

    def epoch(self, step: int) -> float:
        """How many times the problems have been gone through after `step`."""
        return step * self._per_step / len(self._problems)

    def _problem(self, position: int) -> Problem:
        epoch, place = divmod(position, len(self._problems))
        if self._order[0] != epoch:
            order = list(range(len(self._problems)))
            random.Random(f"{self._seed}:{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._problems[self._order[1][place]]
