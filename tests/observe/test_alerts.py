"""Alerts of changed trends: what is announced, once, and how often flat noise is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from aha.observe.alerts import (
    LEVEL,
    Trend,
    Watch,
    Watched,
    autocorrelation,
    line,
    variance_factor,
    watched,
)
from aha.sections import LoggingSection

ACCURACY = Watched("accuracy", "accuracy", True, percent=True)
LENGTH = Watched("completions/mean_length", "length", False)


def kinds(metric: Watched, values: list[float], window: int = 40) -> list[str]:
    trend = Trend(metric, window)
    return [a.kind for step, value in enumerate(values, 1) for a in trend.check(step, value)]


def noisy(shape: Callable[[int], float], steps: int, seed: int = 0) -> list[float]:
    dice = random.Random(seed)
    return [shape(step) + dice.gauss(0.0, 0.03) for step in range(1, steps + 1)]


def test_a_line_by_hand() -> None:
    # Without noise: all ten pairs of five values agree, so tau is 1 and p = 2 / 5!.
    trend = line([1.0, 2.0, 3.0, 4.0, 5.0])
    assert trend is not None
    assert trend.slope == 1.0
    assert trend.p == pytest.approx(2 / 120)
    # One value far out does not move the Theil-Sen line: its slope is the median of ten, 1.
    bent = line([1.0, 2.0, 3.0, 4.0, 100.0])
    assert bent is not None
    assert bent.slope == pytest.approx(1.0)
    assert line([0.5] * 40) is None


def test_autocorrelation_by_hand() -> None:
    # Of 39 products of neighbours one more is 1 than -1: 1 / 40, and a line's bias given back.
    assert autocorrelation([1.0, 1.0, -1.0, -1.0] * 10) == pytest.approx((40 / 40 + 2) / 36)
    assert autocorrelation([1.0, -1.0] * 20) == 0.0
    assert autocorrelation([2.0] * 40) == 0.0
    assert autocorrelation([float(step // 10) for step in range(40)]) == 0.75


def test_the_variance_factor_by_hand() -> None:
    assert variance_factor(0.0, 40) == 1.0
    # Of four steps only neighbours count: 1 + 2 * (3 * 2 * 1) * 0.5 / (4 * 3 * 2).
    assert variance_factor(0.5, 4) == pytest.approx(1.25)
    # Of many it is (1 + rho) / (1 - rho), the factor of a mean's variance.
    assert variance_factor(0.6, 20_000) == pytest.approx(4.0, rel=1e-3)
    assert line([0.1, 0.5]) is not None


def test_a_rise_is_announced_once_and_then_its_end() -> None:
    values = noisy(lambda step: min(0.2 + 0.004 * step, 0.6), 300)
    assert kinds(ACCURACY, values) == ["improvement", "stagnation"]


def test_a_few_values_below_a_constant_are_no_trend() -> None:
    values = [1.0] * 30 + [0.99, 1.0, 0.98, 0.99, 1.0, 0.98, 0.99, 0.99, 0.98, 0.97]
    assert kinds(ACCURACY, values) == []


def test_a_fall_and_a_collapse() -> None:
    falling = noisy(lambda step: 0.6 - 0.0025 * step, 80)
    assert kinds(ACCURACY, falling) == ["degradation"]
    sudden = noisy(lambda step: 0.6 if step < 100 else 0.1, 160)
    assert "collapse" in kinds(ACCURACY, sudden)
    assert kinds(ACCURACY, sudden).count("collapse") == 1


def test_the_end_of_a_fall_is_no_news() -> None:
    values = noisy(lambda step: max(0.6 - 0.004 * step, 0.36), 300)
    assert kinds(ACCURACY, values) == ["degradation"]


def test_length_rises_and_falls_without_being_better_or_worse() -> None:
    assert kinds(LENGTH, noisy(lambda step: step / 10, 60)) == ["rise"]
    assert kinds(LENGTH, noisy(lambda step: -step / 10, 60)) == ["fall"]
    assert kinds(LENGTH, noisy(lambda step: 5.0, 200)) == []


def test_nothing_rewarded_from_the_start_is_called_stagnation() -> None:
    assert kinds(ACCURACY, noisy(lambda step: 0.3, 120, seed=1)) == ["stagnation"]
    assert kinds(ACCURACY, [0.0] * 120) == ["stagnation"]


@pytest.mark.slow
def test_false_alarms_on_flat_noise() -> None:
    # 13 tests a run at LEVEL each; that their windows overlap makes false alarms fewer.
    runs = [kinds(ACCURACY, noisy(lambda step: 0.3, 160, seed=seed)) for seed in range(300)]
    alarmed = sum(any(kind != "stagnation" for kind in run) for run in runs)
    assert alarmed / len(runs) <= 13 * LEVEL


def autocorrelated(rho: float, steps: int, seed: int) -> list[float]:
    """Deviations of 0.03 around nothing, each step correlated by `rho` with the one before."""
    dice, value = random.Random(seed), 0.0
    values = []
    for step in range(steps):
        own = dice.gauss(0.0, 1.0)
        value = own if step == 0 else rho * value + math.sqrt(1 - rho * rho) * own
        values.append(0.03 * value)
    return values


@pytest.mark.parametrize(("rho", "most"), [(0.3, 0.03), (0.6, 0.05), (0.8, 0.1)])
def test_false_alarms_on_noise_that_remembers(rho: float, most: float) -> None:
    # benchmarks/false_alarms.py measures the same on more runs.
    runs = [[0.3 + v for v in autocorrelated(rho, 150, seed)] for seed in range(100)]
    alarmed = sum(any(k != "stagnation" for k in kinds(ACCURACY, values)) for values in runs)
    assert alarmed / len(runs) <= most


@pytest.mark.parametrize(("rho", "most"), [(0.0, 0.03), (0.6, 0.08), (0.8, 0.12)])
def test_a_metric_that_swings_by_half_of_its_mean_has_not_collapsed(
    rho: float, most: float
) -> None:
    runs = [[max(0.0, 0.06 + v) for v in autocorrelated(rho, 150, seed)] for seed in range(50)]
    alarmed = sum("collapse" in kinds(ACCURACY, values) for values in runs)
    assert alarmed / len(runs) <= most


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_a_collapse_is_found_through_noise(rho: float) -> None:
    for seed in range(20):
        noise = autocorrelated(rho, 170, seed)
        sudden = [(0.5 if step < 120 else 0.1) + v for step, v in enumerate(noise)]
        assert kinds(ACCURACY, sudden).count("collapse") == 1, seed
    # Without any noise, too.
    assert "collapse" in kinds(ACCURACY, [1.0] * 60 + [0.3] * 20)


def logistic(step: int) -> float:
    """The shape of the demo's accuracy: from 0.18 to 0.6 in 150 steps."""
    return 0.18 + 0.42 / (1 + math.exp(-(step - 75) / 15))


def test_a_real_rise_is_found_through_noise() -> None:
    found = 0
    for seed in range(20):
        assert kinds(ACCURACY, noisy(logistic, 70, seed)) == ["improvement"], seed
        assert "degradation" not in kinds(ACCURACY, noisy(logistic, 150, seed)), seed
        remembers = [logistic(s + 1) + v for s, v in enumerate(autocorrelated(0.6, 150, seed))]
        found += "improvement" in kinds(ACCURACY, remembers)
    assert found >= 18


def test_a_bend_without_noise_is_no_reason_to_doubt_a_rise() -> None:
    assert kinds(ACCURACY, [logistic(step) for step in range(1, 51)]) == ["improvement"]


def test_the_message_has_figures() -> None:
    trend = Trend(ACCURACY, 40)
    alerts = [a for step in range(1, 41) for a in trend.check(step, 0.2 + step / 200)]
    assert [alert.step for alert in alerts] == [40]
    # Steps 1 to 10 have their median between 5 and 6, steps 31 to 40 between 35 and 36.
    expected = (
        "improvement: accuracy rises from 22.8% to 37.8% over steps 1 to 40 (medians of 10 steps; "
        "Mann-Kendall p = "
    )
    assert alerts[0].message.startswith(expected)


def test_the_message_names_no_value_that_never_was() -> None:
    # The Theil-Sen line of this curve begins above 1.
    values = [1.0] * 12 + [1.0 - 0.01 * step for step in range(28)]
    trend = Trend(Watched("rewards/format/mean", "reward format", True), 40)
    alerts = [a for step, value in enumerate(values, 1) for a in trend.check(step, value)]
    assert alerts[0].message.startswith("degradation: reward format falls from 1 to 0.775 over")


def record(step: int, **changed: Any) -> dict[str, Any]:
    steady = {
        "step": step, "reward": 0.5, "rewards/format/mean": 1.0, "rewards/format/std": 0.0,
        "accuracy": 0.5, "completions/mean_length": 50.0, "entropy": 0.5, "kl": 0.0,
        "completions/clipped_ratio": 0.0, "frac_reward_zero_std": 0.1,
    }  # fmt: skip
    return {**steady, **changed}


def test_every_reward_is_watched() -> None:
    keys = [metric.key for metric in watched(record(1))]
    assert keys == [
        "reward",
        "rewards/format/mean",
        "accuracy",
        "completions/mean_length",
        "entropy",
    ]


def test_a_resumed_run_says_what_an_uninterrupted_one_does() -> None:
    dice = random.Random(2)
    records = [record(s, accuracy=s / 200 + dice.gauss(0, 0.02)) for s in range(1, 121)]
    settings = LoggingSection()
    whole = Watch(settings)
    alerts = [alert for r in records for alert in whole.check(r)]
    resumed = Watch(settings, past=records[:70])
    assert [a for a in alerts if a.step > 70] == [a for r in records[70:] for a in resumed.check(r)]
    assert any(a.metric == "accuracy" and a.kind == "improvement" for a in alerts)


def test_a_window_of_zero_switches_trends_off_and_keeps_warnings() -> None:
    watch = Watch(LoggingSection(alerts_window=0))
    told = [a for s in range(1, 60) for a in watch.check(record(s, accuracy=s / 60, kl=99.0))]
    assert [alert.kind for alert in told] == ["warning"]
