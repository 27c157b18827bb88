"""pass@k, maj@k and intervals against hand-computed values and scipy."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, hypergeom

from aha.evaluate.passk import clustered_interval, maj_at_k, majority, pass_at_k, powers_up_to
from aha.reasoning.compare import wilson_interval
from aha.tasks import TASKS
from aha.tasks.task import Vote


def test_pass_at_k_by_hand() -> None:
    # 4 completions, 1 right: of the six pairs three hold it.
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 4, 1) == 1.0
    # 5 completions, 2 right, 3 drawn: only one of ten triples misses both.
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)


@pytest.mark.parametrize("wrong", [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses_what_is_not_defined(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(*wrong)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(*[st.just(n)] + [st.integers(0, n)] * 2)))
def test_pass_at_k_is_the_hypergeometric_chance(numbers: tuple[int, int, int]) -> None:
    n, correct, k = numbers[0], numbers[1], max(1, numbers[2])
    assert pass_at_k(n, correct, k) == pytest.approx(hypergeom.sf(0, n, correct, k), abs=1e-9)


def votes(*answers: str | None) -> list[Vote | None]:
    return [TASKS["math"].vote_key(answer) for answer in answers]


def test_majority_by_hand() -> None:
    assert majority(votes("7", "8", " 7 ", None)) == 0
    assert majority(votes("9", "8", "8")) == 1
    assert majority(votes("9", "$8", "8.0")) == 1
    # Equally frequent: the first given.
    assert majority(votes("9", "8")) == 0
    assert majority(votes(None, None)) is None
    assert maj_at_k(votes("9", "8", "8"), [True, False, False], 1)
    assert not maj_at_k(votes("9", "8", "8"), [True, False, False], 3)
    # The first that gave it is judged: of one answer, some may be in the asked layout and some not.
    assert not maj_at_k(votes("8", "8"), [False, True], 2)
    assert not maj_at_k(votes(None), [False], 1)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20))
def test_majority_is_the_mode(answers: list[str]) -> None:
    index = majority(votes(*answers))
    assert index is not None
    assert answers[index] == statistics.mode(answers)


def test_which_k() -> None:
    assert powers_up_to(1) == [1]
    assert powers_up_to(4) == [1, 2, 4]
    assert powers_up_to(6) == [1, 2, 4, 6]


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(share: tuple[int, int]) -> None:
    expected = binomtest(*share).proportion_ci(0.95, method="wilson")
    assert wilson_interval(*share) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_one_completion_a_problem_has_wilsons_interval() -> None:
    values = [1.0] * 7 + [0.0] * 13
    assert clustered_interval(values, 1) == pytest.approx(wilson_interval(7, 20))
    assert clustered_interval([1.0], 1) == wilson_interval(1, 1)


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_problems_that_all_came_out_alike_say_no_more_than_their_number(accuracy: float) -> None:
    assert clustered_interval([accuracy] * 20, 4) == wilson_interval(20 * accuracy, 20)


def test_an_interval_rests_on_no_more_than_the_completions() -> None:
    # By hand: three problems at 0.5 and one at 0.75 differ less than chance would have it.
    assert clustered_interval([0.5, 0.5, 0.5, 0.75], 4) == wilson_interval(0.5625 * 16, 16)
    # Problems that are all right or all wrong are worth one completion each.
    values = [1.0] * 50 + [0.0] * 50
    assert clustered_interval(values, 4) == wilson_interval(50, 100)


def test_of_many_problems_it_is_the_normal_interval() -> None:
    values = [i % 4 / 3 for i in range(400)]
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    expected = (mean - half, mean + half)
    assert clustered_interval(values, 3) == pytest.approx(expected, abs=0.002)


def test_it_holds_the_truth_of_rarely_solved_problems() -> None:
    # One problem in five is solved a quarter of the time: 5 % in the mean.
    dice, held = random.Random(0), 0
    for _ in range(400):
        chances = [dice.choice([0.0, 0.0, 0.0, 0.0, 0.25]) for _ in range(20)]
        values = [sum(dice.random() < chance for _ in range(4)) / 4 for chance in chances]
        low, high = clustered_interval(values, 4)
        held += low <= 0.05 <= high
    assert held / 400 > 0.93
