"""Rows of a step over processes and microbatches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aha.recipe import Recipe, load_recipe
from aha.trl.config import BatchPlan, batch_plan
from aha.types import UserError

BASE = load_recipe("countdown-tiny")


def asking(prompts: int, generations: int) -> Recipe:
    grpo = BASE.grpo.model_copy(update={"prompts_per_step": prompts})
    generation = BASE.generation.model_copy(update={"num_generations": generations})
    return BASE.model_copy(update={"grpo": grpo, "generation": generation})


@pytest.mark.parametrize(
    ("prompts", "generations", "processes", "most", "expected"),
    [
        (24, 8, 1, None, BatchPlan(1, 192, 1)),
        (24, 8, 1, 50, BatchPlan(1, 48, 4)),
        (16, 8, 4, 5, BatchPlan(4, 4, 8)),
        # A group lies across two processes, and rows are prime: one at a time.
        (7, 3, 3, 6, BatchPlan(3, 1, 7)),
        # A bound below one row is one row.
        (2, 2, 2, 0, BatchPlan(2, 1, 2)),
    ],
)
def test_plans_by_hand(
    prompts: int, generations: int, processes: int, most: int | None, expected: BatchPlan
) -> None:
    assert batch_plan(asking(prompts, generations), processes, most) == expected


def test_an_impossible_count_names_the_possible_ones() -> None:
    with pytest.raises(UserError, match=r"which 5 processes .* 1, 2, 3, 4, 6 or 12\.$"):
        batch_plan(asking(3, 4), 5)


@given(st.integers(1, 64), st.integers(2, 16), st.integers(1, 64), st.none() | st.integers(1, 300))
def test_it_always_divides_or_refuses(
    prompts: int, generations: int, processes: int, most: int | None
) -> None:
    rows = prompts * generations
    try:
        plan = batch_plan(asking(prompts, generations), processes, most)
    except UserError as error:
        assert rows % processes
        counts = str(error).rpartition(": ")[2].removesuffix(".").replace(" or ", ", ").split(", ")
        assert [int(count) for count in counts] == [n for n in range(1, rows + 1) if rows % n == 0]
        return
    assert plan.processes == processes
    assert plan.rows == rows
    micro = plan.per_device_train_batch_size
    assert 1 <= micro <= (most or rows)
    # The largest that the bound allows.
    larger = range(micro + 1, min(most or rows, rows // processes) + 1)
    assert not [size for size in larger if rows // processes % size == 0]
