"""Values that layers pass to each other: frozen dataclasses, no torch.

A run turns a Problem into a Group: the problem, its prompt, G completions, their scores and their
advantages. Each layer builds the next value from the last. Reward and advantage are two fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal


class UserError(Exception):
    """A mistake of the user: printed as one sentence without a traceback; exit code 2."""


class Unreachable(UserError):
    """A file or model that may exist on the hub, but cannot be reached from this machine."""


class Stopped(Exception):
    """A run stopped as asked, after saving: its message and exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class RunFailure(Exception):
    """A run cannot go on, for a reason that one sentence can say; exit code 1.

    `of_one_process`: only this one of several processes failed, so it prints the message itself.
    """

    def __init__(self, message: str, of_one_process: bool = False) -> None:
        super().__init__(message)
        self.of_one_process = of_one_process


@dataclass(frozen=True)
class Problem:
    """One problem of a task.

    `columns` are the data that rewards need (Countdown: `target` and `nums`). `key` identifies the
    content, whatever its order or source, and decides the split.
    """

    task: str
    key: str
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A problem as the model sees it; `text` already ends in `prefill` (often `<think>`).

    An opening tag that the chat template wrote at the end is part of the prefill.
    `messages` are its chat turns, with the prefill as a last assistant turn; None for plain text.
    Rewards get the messages if there are any, as in TRL. `layout` is the one that it asks for, of
    `aha.answers.tags.LAYOUTS`; None for any. `wish`: the tokens that it asks for, if it
    does (`length.wish`).
    """

    text: str
    prefill: str
    token_ids: tuple[int, ...]
    messages: tuple[Mapping[str, str], ...] | None = None
    layout: str | None = None
    wish: int | None = None

    @property
    def for_rewards(self) -> str | list[Mapping[str, str]]:
        """The prompt in TRL's form: text, or chat messages."""
        return self.text if self.messages is None else list(self.messages)

    def reply(self, completion: str) -> str | list[Mapping[str, str]]:
        """A completion in the prompt's form."""
        if self.messages is None:
            return completion
        return [{"role": "assistant", "content": completion}]


@dataclass(frozen=True)
class Completion:
    """The text that the policy wrote after one prompt.

    `token_ids` includes the end token when there is one; `logprobs` has one natural
    logarithm per token under the sampling distribution at the recipe's temperature.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Score:
    """Rewards of one completion: raw values by name (None: does not apply), and weighted sum."""

    raw: Mapping[str, float | None]
    weighted: Mapping[str, float]
    reward: float


@dataclass(frozen=True)
class Group:
    """The completions of one prompt with their scores and advantages."""

    problem: Problem
    prompt: Prompt
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...] = ()
    advantages: tuple[float, ...] = ()

    @property
    def has_signal(self) -> bool:
        """True if two rewards of the group differ, so that its advantages are not all zero."""
        return rewards_differ([score.reward for score in self.scores])


def rewards_differ(rewards: Sequence[float]) -> bool:
    """True if two of the rewards differ. NaN (no reward applied) is left out.

    Rewards are sums of floats, so a difference within rounding does not count.
    """
    known = [reward for reward in rewards if not math.isnan(reward)]
    if not known:
        return False
    return not math.isclose(min(known), max(known), rel_tol=1e-6, abs_tol=1e-6)


class CallablePackage(ModuleType):
    """A package that is also the function of its name in `aha.api`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        function = getattr(import_module("aha.api"), self.__name__.rpartition(".")[2])
        return function(*arguments, **options)
