"""What the micro-batches of an update add up to, over all processes.

TRL logs means over micro-batches of everything; a micro-batch is an accident of memory, so here
every token counts the same, and only those of completions that are trained on, as natively.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# TRL's names of means over a micro-batch's tokens on all processes.
_KL, _CLIPPED = "kl", "clip_ratio/region_mean"
_GAP = "sampling/sampling_logp_difference/max"


@dataclass(frozen=True)
class MicroBatch:
    """One process's part of a micro-batch; trained on is what an advantage or a KL term is for."""

    tokens: int
    trained_rows: int
    trained_tokens: int
    entropy: float  # the sum over trained tokens


@dataclass
class Tally:
    """One process's figures of the step in hand; `loss` is of the update in hand."""

    loss: float = 0.0
    last_loss: float = math.nan
    grad_norm: float = math.nan
    learning_rate: float = math.nan
    skipped: bool = False
    parts: list[MicroBatch] = field(default_factory=list)
    nonfinite_rows: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Sums:
    """A step's last update over all processes; means are over the trained tokens, NaN without."""

    kl: float
    entropy: float
    clip_ratio: float
    logprob_gap: float
    trained_rows: int


def summed(
    metrics: Mapping[str, Sequence[float]],
    processes: Sequence[Sequence[MicroBatch]],
    micro_batches: int,
) -> Sums:
    """The sums from TRL's metrics of every micro-batch and each process's parts.

    A step of several updates has as many micro-batches for each; the last update counts.
    """
    together = list(zip(*processes, strict=True))[-micro_batches:]
    trained = sum(part.trained_tokens for parts in together for part in parts)

    def mean(name: str) -> float:
        values = metrics.get(name, ())[-micro_batches:]
        if not trained:
            return math.nan
        if not values:
            return 0.0
        tokens = [sum(part.tokens for part in parts) for parts in together]
        # A micro-batch without tokens has no mean.
        pairs = [(value, n) for value, n in zip(values, tokens, strict=True) if n]
        return sum(value * n for value, n in pairs) / trained

    entropy = sum(part.entropy for parts in together for part in parts)
    gaps = metrics.get(_GAP, ())
    return Sums(
        kl=mean(_KL),
        entropy=entropy / trained if trained else math.nan,
        clip_ratio=mean(_CLIPPED),
        logprob_gap=gaps[-1] if gaps else math.nan,
        trained_rows=sum(part.trained_rows for parts in together for part in parts),
    )


def mean_loss(losses: Sequence[float]) -> float:
    """The objective, from every process's part: like gradients, it is averaged over processes."""
    return sum(losses) / len(losses)
