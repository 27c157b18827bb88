"""From a run's metrics to the panels of its curves: smoothed, thinned, seeds as a band.

Left out: smoothing by anything cleverer than a running mean, which everybody can check.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean

from aha.report.charts import Panel, Series
from aha.report.data import Metrics, values
from aha.report.phases import reward_names

POINTS = 400  # at most, a curve
# Set by a schedule, not measured: a mean over steps would draw another schedule.
_AS_IT_IS = frozenset({"learning_rate"})
BEHAVIOUR_KEYS = (
    ("reasoning/self_check_rate", "self-check"),
    ("reasoning/backtracking_rate", "backtracking"),
    ("reasoning/subgoals_rate", "subgoals"),
    ("reasoning/backward_chaining_rate", "backward chaining"),
    ("reasoning/corrected_rate", "corrected itself"),
)
_LEARNED, _WRITTEN = "Reward and accuracy", "What it writes"
_SHOWN, _POLICY = "Behaviours", "The policy and its optimiser"


def smooth(numbers: Sequence[float], window: int) -> list[float]:
    """Mean over the last `window` values; fewer at the beginning."""
    return [fmean(numbers[max(0, index - window + 1) : index + 1]) for index in range(len(numbers))]


def window_of(count: int) -> int:
    """The window of the running mean: a twentieth of the records."""
    return max(1, count // 20)


def panels(
    runs: Sequence[tuple[str, Sequence[Metrics]]], only: Collection[str] = ()
) -> list[tuple[str, list[Panel]]]:
    """(heading, panels) of one run or several: for each label its runs, more than one being seeds.

    A panel stands where some run has the metric and it is not the same at every step; `only`:
    keys to keep, whatever they do.
    """
    headings: dict[str, list[Panel]] = {}
    for heading, key, title, form in keys([metrics for _, group in runs for metrics in group]):
        if only and key not in only:
            continue
        series = tuple(s for label, group in runs if (s := series_of(label, group, key)))
        if series and (only or any(len(set(s.strong)) > 1 for s in series)):
            headings.setdefault(heading, []).append(Panel(title, form, series))
    return list(headings.items())


def constant(metrics: Metrics) -> list[tuple[str, float, str]]:
    """(title, value, form) of the panels left out because nothing ever changes there."""
    found = []
    for _, key, title, form in keys([metrics]):
        known = [value for _, value in values(metrics, key)]
        if known and len(set(known)) == 1:
            found.append((title, known[0], form))
    return found


def keys(records: Sequence[Metrics]) -> list[tuple[str, str, str, str]]:
    """(heading, key, title, form) of every curve, in the page's order; `records` name rewards."""
    names = dict.fromkeys(name for metrics in records for name in reward_names(metrics))
    return [
        (_LEARNED, "reward", "Reward, weighted sum", "number"),
        (_LEARNED, "accuracy", "Accuracy of rollouts, strict", "percent"),
        (_LEARNED, "eval/accuracy", "Accuracy on held-out problems, strict", "percent"),
        *((_LEARNED, f"rewards/{n}/mean", f"Reward {n}, unweighted", "number") for n in names),
        (_WRITTEN, "completions/mean_length", "Completion length, tokens", "number"),
        (_WRITTEN, "completions/clipped_ratio", "Cut off at the limit", "percent"),
        (_WRITTEN, "reflection_rate", "Reflection phrases a completion", "number"),
        *((_SHOWN, key, f"Completions with {name}", "percent") for key, name in BEHAVIOUR_KEYS[:4]),
        (_SHOWN, "reasoning/backtracks", "Backtracking, passages a completion", "number"),
        (_SHOWN, "reasoning/corrected_rate", "Completions that corrected themselves", "percent"),
        (_SHOWN, "reasoning/steps_true", "Written equations that are true", "percent"),
        (_POLICY, "entropy", "Entropy of the policy, nats a token", "number"),
        (_POLICY, "kl", "KL to the start, nats a token", "number"),
        (_POLICY, "learning_rate", "Learning rate, not smoothed", "number"),
        (_POLICY, "grad_norm", "Gradient norm", "number"),
    ]


def series_of(label: str, group: Sequence[Metrics], key: str) -> Series | None:
    """One run's curve, or the mean and the range of several; None when nothing is known.

    One run: the raw values (thinned: the range within each bin) and their running mean.
    Several: the running mean of each, then mean, lowest and highest at the steps all have.
    The learning rate is not smoothed.
    """
    known = [found for metrics in group if (found := values(metrics, key))]
    if not known:
        return None
    smoothed = key not in _AS_IT_IS
    if len(known) > 1:
        return _band(label, known, smoothed)
    steps, numbers = [float(s) for s, _ in known[0]], [v for _, v in known[0]]
    means = _strong(numbers, smoothed)
    if len(numbers) <= POINTS:
        return Series(label, steps, means, raw=numbers if smoothed else None)
    return Series(
        label,
        [fmean(part) for part in _bins(steps)],
        [fmean(part) for part in _bins(means)],
        low=[min(part) for part in _bins(numbers)],
        high=[max(part) for part in _bins(numbers)],
    )


def _strong(numbers: Sequence[float], smoothed: bool) -> list[float]:
    return smooth(numbers, window_of(len(numbers))) if smoothed else list(numbers)


def _band(label: str, runs: Sequence[Sequence[tuple[int, float]]], smoothed: bool) -> Series | None:
    drawn = [
        dict(zip([s for s, _ in run], _strong([v for _, v in run], smoothed), strict=True))
        for run in runs
    ]
    steps = [float(step) for step in drawn[0] if all(step in run for run in drawn)]
    if not steps:
        return None
    rows = [[run[int(step)] for run in drawn] for step in steps]
    return Series(
        label,
        [fmean(part) for part in _bins(steps)],
        [fmean(part) for part in _bins([fmean(row) for row in rows])],
        low=[fmean(part) for part in _bins([min(row) for row in rows])],
        high=[fmean(part) for part in _bins([max(row) for row in rows])],
    )


def _bins(numbers: Sequence[float]) -> list[Sequence[float]]:
    size = -(-len(numbers) // POINTS) or 1
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]
