"""Length control: how long a step's completions may be, what length costs, and which are kept.

Each rule is a small function. The values that carry over from step to step stand in the
record, so that nothing more needs saving.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aha.controls import LengthSection
from aha.recipe import Recipe
from aha.tasks import TASKS, check_groups
from aha.types import Group, Problem, Score

# The penalty's name among a completion's rewards.
NAME = "length_control"
_OF_CLASS = "length/limit/"


@dataclass(frozen=True)
class LengthState:
    """For the next step: the limit in tokens, the stage of the schedule, the penalty's strength.

    `limit` is a real number, rounded where it is used. `strength` is the penalty's weight. `limits`
    are those of each difficulty, with `by_difficulty`; a problem of none has `limit`.
    """

    limit: float
    stage: int
    strength: float
    limits: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def begin(recipe: Recipe) -> LengthState:
        """Before the first step."""
        weight = 0.0 if recipe.length.penalty == "held" else recipe.length.penalty_weight
        state = LengthState(float(recipe.generation.max_completion_length), -1, weight)
        return state.at_stage(1, 1.0, recipe.length)

    @staticmethod
    def after(records: Sequence[Mapping[str, Any]], recipe: Recipe) -> LengthState:
        """As the run's records leave it."""
        last = records[-1] if records else {}
        if "length/limit" not in last:
            return LengthState.begin(recipe)
        limits = {
            key.removeprefix(_OF_CLASS): value
            for key, value in last.items()
            if key.startswith(_OF_CLASS)
        }
        known = last["length/limit"], last["length/stage"], last["length/strength"]
        return LengthState(*known, limits)

    @property
    def record(self) -> dict[str, float]:
        """The keys of metrics.jsonl."""
        return {
            "length/limit": self.limit,
            "length/stage": self.stage,
            "length/strength": self.strength,
            **{_OF_CLASS + name: limit for name, limit in self.limits.items()},
        }

    def limit_of(self, problem: Problem) -> float:
        return self.limits.get(_difficulty(problem), self.limit)

    def at_stage(self, step: int, clipped: float, settings: LengthSection) -> LengthState:
        """The schedule's stage for a step, after one in which the share `clipped` was cut off.

        A stage begins at its `from_step`, or once that share is below its `clipped_below`; then
        the one after it is looked at in the next step.
        """
        number = self.stage + 1
        if number == len(settings.schedule):
            return self
        stage = settings.schedule[number]
        begins = stage.from_step is not None and step >= stage.from_step
        if begins or (stage.clipped_below is not None and clipped < stage.clipped_below):
            return replace(self, limit=float(stage.limit), stage=number)
        return self

    def next(self, step: int, groups: Sequence[Group], recipe: Recipe) -> LengthState:
        """After step 1, 2, ... with these groups, all that were drawn."""
        settings, most = recipe.length, recipe.generation.max_completion_length
        rows = [completion for group in groups for completion in group.completions]
        lengths = [len(row.token_ids) for row in rows]
        state = self.at_stage(step + 1, fmean(row.truncated for row in rows), settings)
        if settings.limit == "adaptive":
            names = [_difficulty(group.problem) for group in groups for _ in group.completions]
            right = dict[str, list[int]]()
            for name, n, is_right in zip(names, lengths, right_answers(groups), strict=True):
                if is_right:
                    right.setdefault(name if settings.by_difficulty else "", []).append(n)
            limits = dict(state.limits)
            for name, found in sorted(right.items()):
                limits[name] = state.moved(name, found, settings, most)
            state = replace(state, limit=limits.pop("", state.limit), limits=limits)
        if settings.penalty == "held" and settings.target is not None:
            moved = state.strength + settings.gain * (fmean(lengths) / settings.target - 1)
            state = replace(state, strength=min(max(moved, 0.0), settings.penalty_weight))
        return state

    def moved(self, name: str, right: Sequence[int], settings: LengthSection, most: int) -> float:
        """A class's limit, a share of the way nearer to what its right completions need."""
        limit = self.limits.get(name, self.limit)
        wanted = settings.margin * float(np.quantile(right, settings.percentile))
        return min(max(limit + settings.rate * (wanted - limit), settings.least), most)


def penalised(groups: Sequence[Group], state: LengthState, settings: LengthSection) -> list[Group]:
    """The scored groups with the penalty among their rewards; a NaN reward stays NaN."""
    if settings.penalty == "none":
        return list(groups)
    right, found = iter(right_answers(groups)), []
    for group in groups:
        lengths = [len(completion.token_ids) for completion in group.completions]
        verdicts, limit = [next(right) for _ in lengths], state.limit_of(group.problem)
        values = penalties(lengths, verdicts, limit, settings.penalty, group.prompt.wish)
        scores = []
        for score, value in zip(group.scores, values, strict=True):
            cost = state.strength * value
            scores.append(
                Score(
                    {**score.raw, NAME: value},
                    {**score.weighted, NAME: cost},
                    score.reward + cost,
                )
            )
        found.append(replace(group, scores=tuple(scores)))
    return found


def penalties(
    lengths: Sequence[int], right: Sequence[bool], limit: float, kind: str, wish: int | None = None
) -> list[float]:
    """The penalty of each completion of a group, before its weight; n is a length in tokens.

    fixed, held  -n / limit
    kimi         1/2 - (n - least) / (most - least), for wrong ones at most 0; 0 if all are as
                 long (Kimi k1.5, arXiv:2501.12599, section 2.3.3)
    alp          -(share of right ones) n / most: easy problems should be answered shortly
                 (ALP, arXiv:2506.05256)
    wish         -|n - wish| / limit (LCPO, arXiv:2503.04697)
    """
    least, most = min(lengths), max(lengths)
    if kind == "kimi":
        if least == most:
            return [0.0] * len(lengths)
        found = [0.5 - (n - least) / (most - least) for n in lengths]
        return [x if is_right else min(0.0, x) for x, is_right in zip(found, right, strict=True)]
    if kind == "alp":
        share = fmean(right)
        return [-share * n / most for n in lengths]
    return [-abs(n - (wish or 0)) / limit for n in lengths]


def kept(groups: Sequence[Group], rewards_PG: Tensor, settings: LengthSection) -> Tensor:
    """rewards_PG with NaN for the completions of each group that are not trained on.

    GFPO (arXiv:2508.09726): the `keep` shortest, or those with most reward a token; of equal ones
    the first.
    """
    if settings.keep is None:
        return rewards_PG
    lengths_PG = torch.tensor(
        [[float(len(completion.token_ids)) for completion in group.completions] for group in groups]
    )
    order_PG = lengths_PG if settings.keep_by == "shortest" else -rewards_PG / lengths_PG
    # A completion without a reward is never kept.
    order_PG = order_PG.masked_fill(rewards_PG.isnan(), math.inf)
    places_PG = order_PG.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return rewards_PG.masked_fill(places_PG >= settings.keep, math.nan)


def missed(groups: Sequence[Group]) -> float:
    """Mean distance in tokens between completions' lengths and those that prompts ask for."""
    return fmean(
        abs(len(completion.token_ids) - (group.prompt.wish or 0))
        for group in groups
        for completion in group.completions
    )


def _difficulty(problem: Problem) -> str:
    return TASKS[problem.task].difficulty(problem.columns) or "unknown"


def right_answers(groups: Sequence[Group]) -> list[bool]:
    """True for each completion with a right answer, in any layout."""
    return [verdict.lenient for verdict in check_groups(groups)]
