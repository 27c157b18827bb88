"""From a run's metrics to its curves (smoothed, thinned, seeds as a band) and its table of phases.

Left out: smoothing by anything cleverer than a running mean, which everybody can check.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from statistics import fmean

from aha.expected import Expected, window_of
from aha.reasoning.behaviours import BEHAVIOURS
from aha.report.before_after import LABELS
from aha.report.charts import Chart, Series
from aha.report.run_data import Metrics, values
from aha.visible import package_yaml

_SHOWN: dict[str, dict[str, list[str]]] = package_yaml("aha.report", "metrics.yaml")
POINTS = 400  # at most, a curve
BEHAVIOUR_KEYS = (*(f"reasoning/{name}_rate" for name in BEHAVIOURS), "reasoning/corrected_rate")


def shown_metrics(records: Sequence[Metrics]) -> Iterator[tuple[str, str, str, str, str]]:
    """(heading, key, form, row label, title) of each metric and reward, as in metrics.yaml."""
    keys = dict.fromkeys(key for metrics in records for record in metrics for key in record)
    rewards = dict.fromkeys(key.split("/")[1] for key in keys if key.startswith("rewards/"))
    for heading, metrics_shown in _SHOWN.items():
        for key, words in metrics_shown.items():
            names: list[dict[str, str]] = [{}]
            if "{reward}" in key:
                names = [{"reward": name} for name in rewards]
            elif "{behaviour}" in key:
                names = [{"behaviour": name, "label": LABELS[name]} for name in BEHAVIOURS]
            for given in names:
                form, row, title = (text.format(**given) for text in words)
                yield heading, key.format(**given), form, row, title


def panels(
    runs: Sequence[tuple[str, Sequence[Metrics]]],
    only: Collection[str] = (),
    expected: Expected | None = None,
) -> list[tuple[str, list[Chart]]]:
    """(heading, panels) of one run or several: for each label its runs, more than one being seeds.

    A metric has a panel if some run recorded it and its curve is not constant; `only`: keys to
    keep, all others are left out. What is `expected` is drawn behind the curves.
    """
    records = [metrics for _, group in runs for metrics in group]
    headings: dict[str, list[Chart]] = {}
    for heading, key, form, _, title in shown_metrics(records):
        if not title or (only and key not in only):
            continue
        series = tuple(s for label, group in runs if (s := series_of(label, group, key)))
        if any(len(set(s.values)) > 1 for s in series):
            behind = _behind(expected, key) if expected else ()
            if key == "completions/mean_length" and len(runs) == 1:
                behind += _right_lengths(runs[0][1])
            headings.setdefault(heading, []).append(Chart(title, form, series, behind=behind))
    return list(headings.items())


def constant(metrics: Metrics) -> list[tuple[str, float, str]]:
    """(title, value, form) of the metrics that never change, and so have no panel."""
    found = []
    for _, key, form, _, title in shown_metrics([metrics]):
        recorded = {value for _, value in values(metrics, key)}
        if title and len(recorded) == 1:
            found.append((title, recorded.pop(), form))
    return found


def series_of(label: str, group: Sequence[Metrics], key: str) -> Series | None:
    """One run's curve, or the mean and the range of several; None when nothing is known.

    One run: the raw values (thinned: the range within each bin) and their running mean.
    Several: the running mean of each, then mean, lowest and highest at the steps all have.
    """
    runs = [found for metrics in group if (found := values(metrics, key))]
    if not runs:
        return None
    # The rate is set by a schedule, not measured: a mean would draw another schedule.
    smoothed = key != "learning_rate"
    drawn = []
    for run in runs:
        when, known = zip(*run, strict=True)
        strong = smooth(known, window_of(len(run))) if smoothed else known
        drawn.append(dict(zip(when, strong, strict=True)))
    steps = [step for step in drawn[0] if all(step in run for run in drawn)]
    if not steps:
        return None
    rows = [[run[step] for run in drawn] for step in steps]
    low = high = raw = None
    if len(runs) > 1:
        low, high = _binned(fmean, map(min, rows)), _binned(fmean, map(max, rows))
    elif len(steps) > POINTS:
        numbers = [value for _, value in runs[0]]
        low, high = _binned(min, numbers), _binned(max, numbers)
    elif smoothed:
        raw = [value for _, value in runs[0]]
    strong = _binned(fmean, map(fmean, rows))
    return Series(label, strong, _binned(fmean, steps), low, high, raw)


def _behind(expected: Expected, key: str) -> tuple[Series, ...]:
    """The band of earlier runs and the published figures of a metric, as far as there are any."""
    found = []
    if key in expected.bands:
        lows, highs = zip(*expected.bands[key].values(), strict=True)
        count = f"{expected.runs} {'run' if expected.runs == 1 else 'runs'}"
        low, high = _binned(min, lows), _binned(max, highs)
        steps = _binned(fmean, expected.bands[key])
        found.append(Series(f"seen before, {count}", (), steps, low, high))
    if key in expected.points:
        points = expected.points[key]
        found.append(Series("published", list(points.values()), list(points)))
    return tuple(found)


def _right_lengths(group: Sequence[Metrics]) -> tuple[Series, ...]:
    """Between which lengths most right completions lie; nothing if it was not recorded."""
    low, high = (series_of("", group, f"completions/right_length_p{n}") for n in (10, 90))
    if low is None or high is None or len(low.steps) != len(high.steps):
        return ()
    label = "right completions, 10 % to 90 %"
    return (Series(label, (), low.steps, low.values, high.values),)


def smooth(numbers: Sequence[float], window: int) -> list[float]:
    """Mean over the last `window` values; fewer at the beginning."""
    return [fmean(numbers[max(0, index - window + 1) : index + 1]) for index in range(len(numbers))]


def _binned(reduce: Callable[[Sequence[float]], float], numbers: Iterable[float]) -> list[float]:
    """The numbers as at most `POINTS`: each bin reduced to one."""
    found = list(numbers)
    size = bin_size(len(found))
    return [reduce(found[start : start + size]) for start in range(0, len(found), size)]


def bin_size(count: int) -> int:
    """The records in a point of a curve of `count` records; 1 up to `POINTS`."""
    return max(1, -(-count // POINTS))


def phase_windows(count: int) -> list[tuple[int, int]]:
    """(start, end) of the five phases in `count` records, each a tenth of them, one at least."""
    width = max(1, count // 10)
    centred = (round(part * count / 4 - width / 2) for part in range(5))
    starts = [min(max(0, start), count - width) for start in centred]
    return [(start, start + width) for start in starts]


Phase = tuple[str, int, int]  # its name, first and last step
PhaseRow = tuple[str, str, list[float | None]]  # label, form, the mean in each phase


def phase_table(metrics: Metrics) -> tuple[list[Phase], list[PhaseRow]]:
    """The run in five phases, and the mean of each recorded metric in each of them."""
    parts = [metrics[start:end] for start, end in phase_windows(len(metrics))]
    names = ("beginning", "quarter", "half", "three quarters", "end")
    phases = [
        (name, part[0]["step"], part[-1]["step"]) for name, part in zip(names, parts, strict=True)
    ]
    rows: list[PhaseRow] = []
    for _, key, form, label, _ in shown_metrics([metrics]):
        if label and values(metrics, key):
            found = [[value for _, value in values(part, key)] for part in parts]
            rows.append((label, form, [fmean(part) if part else None for part in found]))
    return phases, rows
