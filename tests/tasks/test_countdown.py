from __future__ import annotations

from fractions import Fraction
from itertools import islice

import pytest

from aha.recipe import load_recipe
from aha.sections import TaskSection
from aha.tasks import load_problems
from aha.tasks.countdown import Countdown, make_problem
from aha.tasks.task import split_of
from aha.types import UserError

SMALL = TaskSection(
    sizes=(3, 4), number_min=1, number_max=30, target_min=5, target_max=60, max_value=500
)


def two_numbers(target_min: int, target_max: int) -> TaskSection:
    return TaskSection(
        sizes=(2,), number_min=1, number_max=2,
        target_min=target_min, target_max=target_max, max_value=10,
    )  # fmt: skip


def reachable(numbers: list[Fraction]) -> set[Fraction]:
    """Every value of every expression over the numbers, by brute force."""
    if len(numbers) == 1:
        return {numbers[0]}
    values: set[Fraction] = set()
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            if i == j:
                continue
            rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
            a, b = numbers[i], numbers[j]
            results = [a + b, a - b, a * b] + ([a / b] if b else [])
            for result in results:
                values |= reachable([*rest, result])
    return values


@pytest.mark.parametrize("split", ["train", "test"])
def test_generated_problems_are_in_range_and_solvable(split: str) -> None:
    for problem in islice(Countdown().generate(SMALL, split, seed=3), 40):  # type: ignore[arg-type]
        nums, target = problem.columns["nums"], problem.columns["target"]
        assert len(nums) in (3, 4)
        assert all(1 <= n <= 30 for n in nums)
        assert 5 <= target <= 60
        assert Fraction(target) in reachable([Fraction(n) for n in nums])


def test_no_seed_or_size_moves_a_test_problem_into_training() -> None:
    test = {p.key for p in islice(Countdown().generate(SMALL, "test", seed=0), 300)}
    for seed in range(3):
        train = {p.key for p in islice(Countdown().generate(SMALL, "train", seed=seed), 2_000)}
        assert not test & train


def test_the_split_is_frozen() -> None:
    # Written down, so that no change of code can move them without being seen.
    keys = [make_problem([n, n + 1, 7], 24).key for n in range(1, 40)]
    held_out = [key for key in keys if split_of(key) == "test"]
    assert held_out == FROZEN_TEST_KEYS


FROZEN_TEST_KEYS = [
    "countdown:7,16,17=24",
    "countdown:7,24,25=24",
    "countdown:7,36,37=24",
    "countdown:7,39,40=24",
]


def test_the_order_of_numbers_is_no_new_problem() -> None:
    assert make_problem([3, 1, 2], 6).key == make_problem([1, 2, 3], 6).key


def test_problems_are_distinct_and_reproducible() -> None:
    first = [p.key for p in islice(Countdown().generate(SMALL, "train", seed=1), 500)]
    again = [p.key for p in islice(Countdown().generate(SMALL, "train", seed=1), 500)]
    assert first == again
    assert len(set(first)) == 500


def test_a_small_range_ends_instead_of_repeating() -> None:
    ranges = two_numbers(target_min=1, target_max=4)
    # 1 1: 2, 1 1 * and /; 2 1: 3, 1, 2 * and /; 2 2: 4, 4 * and 1 /.
    everything = {
        make_problem(nums, target).key
        for nums, targets in (((1, 1), (1, 2)), ((1, 2), (1, 2, 3)), ((2, 2), (1, 4)))
        for target in targets
    }
    found = [problem.key for problem in Countdown().generate(ranges, "train", seed=0)]
    assert len(everything) == 7
    assert sorted(found) == sorted(key for key in everything if split_of(key) == "train")


def test_impossible_ranges_are_one_sentence() -> None:
    ranges = two_numbers(target_min=90, target_max=99)
    with pytest.raises(UserError, match=r"no problem of .countdown. was found .* targets 90 to 99"):
        load_problems(ranges, "train", 5)


def test_held_out_problems_do_not_depend_on_the_training_seed() -> None:
    one = load_recipe("countdown-tiny", ["task.data_seed=1"]).task
    two = load_recipe("countdown-tiny", ["task.data_seed=2"]).task
    assert load_problems(one, "test", 50) == load_problems(two, "test", 50)
    assert load_problems(one, "train", 50) != load_problems(two, "train", 50)
    assert len(load_problems(one, "train", 50).problems) == 50
