"""What the micro-batches of an update add up to, over all processes.

TRL logs means over micro-batches; a micro-batch is an accident of memory, so here every token of
the step counts the same, as in the native engine's record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# TRL's names of means over a micro-batch's tokens on all processes.
_KL, _ENTROPY, _CLIPPED = "kl", "entropy", "clip_ratio/region_mean"
_GAP = "sampling/sampling_logp_difference/max"


@dataclass
class Tally:
    """One process's figures of the step in hand; `loss` is the update's, its sum over rows."""

    loss: float = 0.0
    last_loss: float = math.nan
    grad_norm: float = math.nan
    learning_rate: float = math.nan
    skipped: bool = False
    tokens: list[int] = field(default_factory=list)
    sick_rows: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Means:
    """Means over the tokens of the step's last update, and the sampler's largest difference."""

    kl: float
    entropy: float
    clip_ratio: float
    logprob_gap: float


def token_means(
    metrics: Mapping[str, Sequence[float]], tokens: Sequence[Sequence[int]], micro_batches: int
) -> Means:
    """The means from TRL's metrics of every micro-batch and each process's token counts.

    A step of several updates has as many micro-batches for each; the last update counts.
    """
    weights = [sum(counts) for counts in zip(*tokens, strict=True)][-micro_batches:]

    def mean(name: str) -> float:
        values = metrics.get(name, ())[-micro_batches:]
        total = sum(weights)
        if not values or not total:
            return 0.0
        # A micro-batch without tokens has no mean.
        pairs = [(v, w) for v, w in zip(values, weights, strict=True) if w]
        return sum(value * weight for value, weight in pairs) / total

    gaps = metrics.get(_GAP, ())
    return Means(mean(_KL), mean(_ENTROPY), mean(_CLIPPED), gaps[-1] if gaps else math.nan)


def mean_loss(losses: Sequence[float]) -> float:
    """The objective, from every process's part: like gradients, it is averaged over processes."""
    return sum(losses) / len(losses)
