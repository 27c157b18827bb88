"""What the training loop and evaluation ask of a rollout engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aha.types import Completion, Prompt


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are drawn; `temperature` 0 is greedy, `top_k` 0 is off.

    The reported log-probabilities are those of the full softmax at `temperature` (1 when
    greedy), which is what the trainer scores; top_p, top_k and min_p only narrow the draw.
    A completion ends with the token that completes one of the `stop` strings; with `ignore_end`
    it goes on to the limit whatever it says, for benchmarks.
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


def rollout_seed(seed: int, step: int, round_: int = 0) -> int:
    """The seed of one round's random streams, a function of (seed, step < 2^28, round < 16)."""
    return (seed << 32) | (round_ << 28) | step
