"""Two models on the same problems: gains, losses, and a test of the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from aha.evaluate.evaluation import Record, accuracy_of, by_problem
from aha.reasoning.compare import rise


@dataclass(frozen=True)
class Comparison:
    """The first model's accuracy less the second's, by problem.

    `difference` with its 95 % interval (Student's t over paired differences); `p` of a paired
    test, named by `test`; keys of the problems on which the first does better
    (`gained`) and worse (`lost`).
    """

    n: int
    difference: float
    ci95: tuple[float, float]
    p: float
    test: str
    gained: tuple[str, ...]
    lost: tuple[str, ...]


def compare(records: Sequence[Record], others: Sequence[Record]) -> Comparison:
    """Errors: ValueError unless both are of the same problems in the same order."""
    ours, theirs = by_problem(records), by_problem(others)
    keys = [problem[0]["key"] for problem in ours]
    if keys != [problem[0]["key"] for problem in theirs]:
        raise ValueError("the two evaluations are of different problems")
    right, others_right = list(map(accuracy_of, ours)), list(map(accuracy_of, theirs))
    differences = [a - b for a, b in zip(right, others_right, strict=True)]
    single = all(len(problem) == 1 for problem in (*ours, *theirs))
    gained = tuple(key for key, d in zip(keys, differences, strict=True) if d > 0)
    lost = tuple(key for key, d in zip(keys, differences, strict=True) if d < 0)
    p = _mcnemar(len(gained), len(lost)) if single else _wilcoxon(differences)
    return Comparison(
        len(keys), fmean(differences), _interval(right, others_right), p,
        "McNemar's exact test" if single else "Wilcoxon's signed-rank test", gained, lost,
    )  # fmt: skip


def _mcnemar(gained: int, lost: int) -> float:
    """McNemar 1947 in its exact form: a fair coin for every problem that changed."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _wilcoxon(differences: Sequence[float]) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue) if any(differences) else 1.0


def _interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval; the difference itself, twice, for one problem: it has no spread."""
    if len(ours) < 2:
        return ours[0] - theirs[0], ours[0] - theirs[0]
    found = rise(theirs, ours)
    return found.low, found.high
