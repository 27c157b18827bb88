from __future__ import annotations

import pytest

from aha.evaluate.evaluation import Record, compare


def records(*problems: list[bool]) -> list[Record]:
    return [
        {"key": f"k{number}", "sample": sample, "correct": right}
        for number, problem in enumerate(problems)
        for sample, right in enumerate(problem)
    ]


def test_mcnemar_by_hand() -> None:
    # Six changed, five gained: p = 2 * (C(6, 5) + C(6, 6)) / 2^6.
    ours = records(*[[True]] * 5, [False], [True], [False])
    theirs = records(*[[False]] * 5, [True], [True], [False])
    found = compare(ours, theirs)
    assert found.test == "McNemar's exact test"
    assert found.p == pytest.approx(2 * 7 / 64)
    assert found.difference == 0.5
    assert found.gained == ("k0", "k1", "k2", "k3", "k4")
    assert found.lost == ("k5",)
    # Student's t with 7 degrees of freedom: 2.3646; the differences' deviation is 0.7559.
    assert found.ci95 == pytest.approx((0.5 - 2.3646 * 0.7559 / 8**0.5, 1.13196), abs=1e-3)


def test_the_same_is_no_difference() -> None:
    found = compare(records([True], [False]), records([True], [False]))
    assert (found.difference, found.p, found.ci95) == (0.0, 1.0, (0.0, 0.0))
    assert found.gained == found.lost == ()


def test_several_completions_are_compared_by_problem() -> None:
    found = compare(records([True, True], [True, False]), records([True, False], [True, False]))
    assert found.test == "Wilcoxon's signed-rank test"
    assert found.n == 2
    assert found.difference == 0.25
    assert found.gained == ("k0",)


def test_other_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="different problems"):
        compare(records([True]), records([True], [True]))
