"""From several completions a problem: pass@k, majority votes, and their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import variance

from aha.reasoning.compare import wilson_interval
from aha.tasks.task import Vote


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that one of k of the n completions is right: 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv:2107.03374, equation 1).
    Errors: ValueError unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {correct} right among {n} is not defined")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(votes: Sequence[Vote | None]) -> int | None:
    """The index of the first completion that gave the most frequent answer.

    Units separate equal values only where two of the answers name different ones; then those
    without a unit stand for themselves. Of equally frequent answers the first given wins. None
    when no completion has an answer.
    """
    units: dict[Hashable, set[str]] = {}
    for one in votes:
        if one is not None and one.unit:
            units.setdefault(one.form, set()).add(one.unit)
    counts: dict[Hashable, list[int]] = {}
    for index, one in enumerate(votes):
        if one is not None:
            divided = len(units.get(one.form, ())) > 1
            counts.setdefault((one.form, one.unit if divided else ""), []).append(index)
    return max(counts.values(), key=len)[0] if counts else None


def maj_at_k(votes: Sequence[Vote | None], correct: Sequence[bool], k: int) -> bool:
    """True if the most frequent answer of the first k completions is right.

    The first completion that gave it counts (Wang et al. 2022, arXiv:2203.11171).
    """
    chosen = majority(votes[:k])
    return chosen is not None and correct[chosen]


def powers_up_to(n: int) -> list[int]:
    """1, 2, 4, ... and n itself."""
    powers = [1 << exponent for exponent in range(n.bit_length()) if 1 << exponent <= n]
    return powers if powers[-1] == n else [*powers, n]


def clustered_interval(per_problem: Sequence[float], samples: int) -> tuple[float, float]:
    """The 95 % interval of the mean over problems of `samples` completions each.

    Completions of one problem are alike. So it is Wilson's interval of the number of independent
    ones that would have the variance between problems (an effective sample size, as in Korn and
    Graubard 1998), at least the problems and at most the completions. Problems that all came out
    alike show no variance, and count once each. Errors: ValueError for no problems.
    """
    n = len(per_problem)
    share = sum(per_problem) / n if n else 0.0
    effective = float(n)
    if len(set(per_problem)) > 1:
        effective = share * (1 - share) / (variance(per_problem) / n)
    effective = min(max(effective, n), n * samples)
    return wilson_interval(share * effective, effective)
