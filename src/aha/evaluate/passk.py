"""From several completions a problem: pass@k, majority votes, and their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from aha.evaluate.ballots import Ballot

_RESAMPLES = 9_999


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that one of k of the n completions is right: 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv:2107.03374, equation 1).
    Errors: ValueError unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {correct} right among {n} is not defined")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(ballots: Sequence[Ballot | None]) -> int | None:
    """The index of the first completion that gave the most frequent answer.

    Units separate equal values only where two of the answers name different ones; then those
    without a unit stand for themselves. Of equally frequent answers the first given wins. None
    when no completion has an answer.
    """
    units: dict[Hashable, set[str]] = {}
    for one in ballots:
        if one is not None and one.unit:
            units.setdefault(one.form, set()).add(one.unit)
    counts: dict[Hashable, list[int]] = {}
    for index, one in enumerate(ballots):
        if one is not None:
            divided = len(units.get(one.form, ())) > 1
            counts.setdefault((one.form, one.unit if divided else ""), []).append(index)
    return max(counts.values(), key=len)[0] if counts else None


def maj_at_k(ballots: Sequence[Ballot | None], correct: Sequence[bool], k: int) -> bool:
    """Whether the most frequent answer of the first k completions is right, judged by the first
    completion that gave it (Wang et al. 2022, arXiv:2203.11171)."""
    chosen = majority(ballots[:k])
    return chosen is not None and correct[chosen]


def powers_up_to(n: int) -> list[int]:
    """1, 2, 4, ... and n itself."""
    powers = [1 << exponent for exponent in range(n.bit_length()) if 1 << exponent <= n]
    return powers if powers[-1] == n else [*powers, n]


def bootstrap_interval(per_problem: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean over problems, by resampling whole problems (percentiles).

    The same values give the same interval. All equal: that value twice.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if len(set(per_problem)) < 2:
        return per_problem[0], per_problem[0]
    found = bootstrap(
        (np.asarray(per_problem),), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=0
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
