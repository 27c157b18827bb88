"""The interfaces of a rollout: settings, engine, decoder, and rows that are being written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from aha.model.kernels.decode import Drawn
from aha.types import Completion, Prompt

INCOMPLETE = "\ufffd"  # a tokenizer decodes bytes that are not a whole character to this


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of the draw. `temperature` 0 is greedy, `top_k` 0 is off.

    Log-probabilities are those of the full softmax at `temperature` (1 when greedy), as the trainer
    computes them. A completion ends with the token that completes one of the `stop` strings; with
    `ignore_end` it always goes on to the limit, for benchmarks.
    """

    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    ignore_end: bool = False

    @property
    def scoring_temperature(self) -> float:
        return self.temperature if self.temperature > 0 else 1.0


@dataclass(frozen=True)
class Partial:
    """A `Completion` while it is written; `finish_reason` is None until it ends.

    The text leaves out a last character of which only some bytes are written.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"] | None

    @property
    def completion(self) -> Completion:
        """The finished completion. Errors: ValueError while the row is written."""
        if self.finish_reason is None:
            raise ValueError("the row is still writing")
        return Completion(self.text, self.token_ids, self.logprobs, self.finish_reason)


def unfinished_text(decoded: str) -> str:
    """The decoded text without a last character whose bytes are not all written yet."""
    return decoded.rstrip(INCOMPLETE)


class Engine(Protocol):
    """Writes completions with the policy's current weights."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
    ) -> list[tuple[Completion, ...]]:
        """`num_generations` completions for each prompt, in order.

        A completion depends on the weights, its prompt, its place in the group, `seed` and
        the index of its prompt: not on the batch it shared.
        """
        ...


class Decoder(Protocol):
    """Feeds a model one token a row and remembers the rest: the KV cache behind a rollout.

    A row is one completion. Rows can be added while others run if `can_join` is true. Every
    `stride` tokens the engine looks which rows have ended, and drops them once they are
    `leave_share` of all; until then they write on. `burst_tokens` is 0 without bursts.
    """

    leave_share: float
    stride: int
    burst_tokens: int = 0

    @property
    def can_join(self) -> bool: ...

    def add(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        """Read each prompt once and append `repeats` rows of it; logits (P * repeats, V)."""
        ...

    def step(self, tokens_R: Tensor) -> Tensor:
        """Append one token to every row; logits (R, V) for the next."""
        ...

    def burst(
        self,
        tokens_R: Tensor,
        uniforms_RS: Tensor,
        limit_R: Tensor,
        end_ids: Tensor,
        temperature: float,
    ) -> Drawn:
        """Append each row's token and draw up to S more, as many `step`s and draws would.

        A row stops at an end token or after `limit_R` tokens; the last one drawn is not appended.
        """
        raise TypeError(f"{type(self).__name__} has no bursts")

    def keep(self, rows_K: Tensor) -> None:
        """Drop all rows but these, given in ascending order; they are renumbered from 0."""
        ...


def padded_left(prompts: Sequence[Sequence[int]]) -> Tensor:
    """The prompts' tokens (P, T), with zeros before those of the shorter ones."""
    width = max(len(prompt) for prompt in prompts)
    return torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])


def rollout_seed(seed: int, step: int, round_: int = 0) -> int:
    """The seed of one round's random streams, a function of (seed, step < 2^28, round < 16)."""
    return (seed << 32) | (round_ << 28) | step
