"""A curriculum: problems are drawn by what the policy solved before.

Its state stands in the records, so a resumed run draws the same problems.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from aha.controls import CurriculumSection
from aha.tasks import TASKS
from aha.train.length import right_answers
from aha.train.schedule import ProblemStream
from aha.types import Group, Problem

_RATE, _DRAWN, _RESTED = "curriculum/rate/", "curriculum/drawn/", "curriculum/rested"
_EVERY = "all"  # the only class, where difficulty plays no part


@dataclass
class _Class:
    """Problems of one difficulty: their places, how many were drawn, the running pass rate.

    `order` is that of the places in a turn through them all, with the turn's number.
    """

    places: list[int]
    drawn: int = 0
    rate: float = 0.5
    order: tuple[int, list[int]] = field(default=(-1, []))


class Curriculum(ProblemStream):
    """Draws classes by their running pass rate, and lets problems rest that taught nothing.

    A class of pass rate p has the weight 4 p (1 - p), at least `least`. That is the variance of a
    reward of 0 or 1 over the largest, so classes that give no signal are rare. Within a class the
    problems come in a new order each time all were drawn.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        per_step: int,
        seed: int,
        settings: CurriculumSection,
    ) -> None:
        super().__init__(problems, per_step, seed)
        self._settings = settings
        self._places = {problem.key: place for place, problem in enumerate(problems)}
        by_class: dict[str, list[int]] = {}
        for place, problem in enumerate(problems):
            by_class.setdefault(self._class(problem), []).append(place)
        self._classes = {name: _Class(by_class[name]) for name in sorted(by_class)}
        # The first step in which a resting problem may be drawn again, by its place.
        self._back: dict[int, int] = {}

    def at(self, step: int, round_: int = 0) -> list[Problem]:
        """The problems of the step after those that `next` has seen."""
        places, _ = self._draw(step, round_)
        return [self._problems[place] for place in places[-self._per_step :]]

    def epoch(self, step: int) -> float:
        drawn = sum(each.drawn for each in self._classes.values())
        return drawn / len(self._problems)

    def replay(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take up the state that a run's records leave."""
        for record in records:
            self._rest(record["step"], record.get(_RESTED, ()))
        # A run that was resumed with another recipe may have records without these.
        for name, each in self._classes.items() if records else ():
            each.drawn = records[-1].get(_DRAWN + name, each.drawn)
            each.rate = records[-1].get(_RATE + name, each.rate)

    def next(self, step: int, groups: Sequence[Group]) -> dict[str, Any]:
        """Learn from a step's groups, all that were drawn; the keys of the record."""
        right, shares, rested = iter(right_answers(groups)), dict[str, list[float]](), list[int]()
        for group in groups:
            share = fmean([next(right) for _ in group.completions])
            shares.setdefault(self._class(group.problem), []).append(share)
            if self._settings.rest_steps and share in (0.0, 1.0):
                rested.append(self._places[group.problem.key])
        _, drawn = self._draw(step, len(groups) // self._per_step - 1)
        memory, record = self._settings.memory, dict[str, Any]()
        for name, each in self._classes.items():
            each.drawn = drawn[name]
            if name in shares:
                each.rate = memory * each.rate + (1 - memory) * fmean(shares[name])
            record |= {_RATE + name: each.rate, _DRAWN + name: each.drawn}
        self._rest(step, rested)
        return record | {_RESTED: rested}

    def _rest(self, step: int, places: Sequence[int]) -> None:
        for place in places:
            self._back[place] = step + 1 + self._settings.rest_steps

    def _class(self, problem: Problem) -> str:
        if self._settings.draw == "epochs":
            return _EVERY
        return TASKS[problem.task].difficulty(problem.columns) or "unknown"

    def _draw(self, step: int, last_round: int) -> tuple[list[int], dict[str, int]]:
        """The places of all rounds up to one, and each class's count after them."""
        classes, least = self._classes, self._settings.least
        weights = [max(least, 4 * each.rate * (1 - each.rate)) for each in classes.values()]
        drawn, places = {name: each.drawn for name, each in classes.items()}, list[int]()
        for round_ in range(last_round + 1):
            chance = random.Random(f"{self._seed}:{step}:{round_}:class")
            for name in chance.choices(list(classes), weights, k=self._per_step):
                count = len(classes[name].places)
                for _ in range(count):
                    place = self._place(name, drawn[name])
                    drawn[name] += 1
                    if self._back.get(place, 0) <= step and place not in places:
                        break
                places.append(place)
        return places, drawn

    def _place(self, name: str, number: int) -> int:
        """The problem that a class gives as its number 0, 1, ..."""
        each = self._classes[name]
        turn, at = divmod(number, len(each.places))
        if each.order[0] != turn:
            order = list(each.places)
            random.Random(f"{self._seed}:{turn}:{name}").shuffle(order)
            each.order = (turn, order)
        return each.order[1][at]
