from __future__ import annotations

import random

import pytest
from scipy import stats

from aha.reasoning.compare import Estimate, first_step_at, lift, rise, share


def flags(true: int, n: int) -> list[bool]:
    return [True] * true + [False] * (n - true)


def close(estimate: Estimate | None, value: float, low: float, high: float) -> bool:
    assert estimate is not None
    wanted = pytest.approx((value, low, high), abs=5e-5)
    return (estimate.value, estimate.low, estimate.high) == wanted


def test_share_is_wilsons_by_hand() -> None:
    # z = 1.95996: centre (0.8 + z2/20) / (1 + z2/10) = 0.71674, half 0.22658.
    assert close(share(flags(8, 10)), 0.8, 0.49016, 0.94332)
    assert share(flags(8, 10)).n == 10


@pytest.mark.parametrize("true", [0, 1, 7, 20])
def test_share_agrees_with_scipy_and_stays_within_0_and_1(true: int) -> None:
    estimate = share(flags(true, 20))
    reference = stats.binomtest(true, 20).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((reference.low, reference.high))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_a_share_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no texts"):
        share([])


def test_rise_is_students_by_hand() -> None:
    # Differences 1, 2, 0, 2: mean 1.25, deviation 0.957427; t(3) = 3.182446.
    estimate = rise([1, 2, 3, 4], [2, 4, 3, 6])
    assert close(estimate, 1.25, 1.25 - 1.52348, 1.25 + 1.52348)
    assert estimate.n == 4


def test_rise_agrees_with_scipy() -> None:
    rng = random.Random(1)
    before = [rng.random() for _ in range(50)]
    after = [value + rng.gauss(0.1, 0.3) for value in before]
    reference = stats.ttest_rel(after, before).confidence_interval()
    estimate = rise(before, after)
    assert (estimate.low, estimate.high) == pytest.approx((reference.low, reference.high))


def test_rise_of_flags_counts_them_as_0_and_1() -> None:
    # Differences 1, 0: mean 0.5, deviation 0.70711; t(1) = 12.7062.
    assert close(rise([False, True], [True, True]), 0.5, 0.5 - 6.3531, 0.5 + 6.3531)


@pytest.mark.parametrize(("before", "after"), [([1.0], [2.0]), ([], []), ([1.0, 2.0], [1.0])])
def test_rise_needs_two_pairs(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match=r"pairs|after"):
        rise(before, after)


def test_lift_is_newcombes_published_example() -> None:
    # Newcombe 1998, table II, 56/70 - 48/80, method 10: 0.0524 to 0.3339.
    estimate = lift(flags(70, 150), flags(56, 70) + flags(48, 80))
    assert close(estimate, 0.2, 0.05243, 0.33387)
    assert estimate is not None
    assert estimate.n == 150


def test_lift_can_be_below_zero() -> None:
    # 3/10 - 9/10; the mirror of 9/10 - 3/10, whose interval is 0.17052 to 0.80902.
    assert close(lift(flags(10, 20), flags(3, 10) + flags(9, 10)), -0.6, -0.80902, -0.17052)


@pytest.mark.parametrize("shows", [flags(0, 4), flags(4, 4), []])
def test_lift_needs_both_sides(shows: list[bool]) -> None:
    assert lift(shows, [True] * len(shows)) is None


def test_lift_needs_one_verdict_a_text() -> None:
    with pytest.raises(ValueError, match="2 texts, 1 verdicts"):
        lift([True, False], [True])


RECORDS = [{"step": s, "k": v} for s, v in [(1, 0.9), (2, 0.0), (3, 0.3), (5, 0.6), (8, 0.9)]]


@pytest.mark.parametrize(
    ("threshold", "window", "step"),
    [
        (0.9, 1, 1),
        (0.6, 2, 8),  # means 0.45, 0.15, 0.45, 0.75
        (0.4, 3, 3),  # means 0.4, 0.3, 0.6
        (0.5, 3, 8),
        (0.54, 5, 8),  # reached, not passed
        (0.55, 5, None),
        (0.0, 6, None),  # never six records
    ],
)
def test_first_step_at_which_the_mean_reaches_a_threshold(
    threshold: float, window: int, step: int | None
) -> None:
    assert first_step_at(RECORDS, "k", threshold, window) == step


def test_records_without_a_number_are_passed_over() -> None:
    gaps = [{"step": 1, "k": None}, {"step": 2}, {"step": 3, "k": float("nan")}, *RECORDS[3:]]
    assert first_step_at(gaps, "k", 0.75, 2) == 8
    assert first_step_at(gaps, "other", 0.0, 1) is None


def test_a_window_has_a_record() -> None:
    with pytest.raises(ValueError, match="window of 0"):
        first_step_at(RECORDS, "k", 0.5, 0)
