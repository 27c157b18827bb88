"""From TRL's lists of token ids to aha's groups: where completions end, and whose they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from aha.rollout.sampler import StopStrings
from aha.types import Completion, Group, Problem, Prompt, RunFailure


@dataclass(frozen=True)
class Row:
    """One completion as its process wrote it; `key` is its problem's."""

    key: str
    completion: Completion


class _Watch(StopStrings):
    """Stop strings for one batch of rows after another."""

    def forget(self) -> None:
        self._tails.clear()


class _UntilStop(StoppingCriteria):  # type: ignore[misc]
    """Ends a row of transformers' `generate` by the native engine's rule.

    Its own stop strings do not take every tokenizer: it fails on the embedded model's.
    """

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return self._watch.reached(torch.arange(len(input_ids)), input_ids[:, -1])


class Endings:
    """Where completions end, as the native engine has it: an end token or a stop string."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Collection[int],
        stops: Sequence[str],
    ) -> None:
        self._end_ids = frozenset(end_ids)
        self._watch = _Watch(tokenizer, stops) if stops else None

    def ending(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """transformers' `generate`, whose rows also end with a stop string."""
        watch = self._watch
        if watch is None:
            return generate

        def until_stop(*arguments: Any, **options: Any) -> Any:
            watch.forget()
            criteria = StoppingCriteriaList([_UntilStop(watch)])
            return generate(*arguments, **options, stopping_criteria=criteria)

        return until_stop

    def cut(self, rows: Sequence[list[int]]) -> list[list[int]]:
        """The rows up to the token that completes a stop string; padding after it goes."""
        if self._watch is None:
            return list(rows)
        return [row[: end or len(row)] for row, end in zip(rows, self._ends(rows), strict=True)]

    def stopped(self, rows: Sequence[Sequence[int]]) -> list[bool]:
        """Which of the rows ended by themselves, and not at the limit."""
        ended = [row[-1] in self._end_ids for row in rows]
        if self._watch is None:
            return ended
        return [
            by_token or end == len(row)
            for by_token, row, end in zip(ended, rows, self._ends(rows), strict=True)
        ]

    def _ends(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """How many tokens of each row there are until a stop string is complete; 0: none is."""
        watch, ends = self._watch, [0] * len(rows)
        assert watch is not None
        watch.forget()
        for place in range(max(map(len, rows))):
            live = [r for r, row in enumerate(rows) if not ends[r] and place < len(row)]
            tokens = torch.tensor([rows[r][place] for r in live])
            reached = watch.reached(torch.tensor(live), tokens).tolist() if live else []
            for r, complete in zip(live, reached, strict=True):
                ends[r] = place + 1 if complete else 0
        return ends


def groups_of(
    rows: Sequence[Row],
    num_generations: int,
    problems: Mapping[str, Problem],
    prompt_of: Callable[[Problem], Prompt],
) -> list[Group]:
    """The step's rows as groups, not scored yet. Errors: RunFailure when TRL mixed them up."""
    groups = []
    for first in range(0, len(rows), num_generations):
        members = rows[first : first + num_generations]
        if len({row.key for row in members}) > 1:
            raise RunFailure(f"rows {first} to {first + num_generations} are not of one problem.")
        problem = problems[members[0].key]
        group = Group(problem, prompt_of(problem), tuple(row.completion for row in members))
        groups.append(group)
    return groups


def with_advantages(groups: Sequence[Group], advantages: Sequence[float]) -> list[Group]:
    """The groups with the advantages of their rows, in order."""
    given = iter(advantages)
    return [replace(g, advantages=tuple(next(given) for _ in g.completions)) for g in groups]
