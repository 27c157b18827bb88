from __future__ import annotations

import math

import pytest
import torch

from aha.grpo.advantages import group_advantages, without_signal
from aha.types import Group, Problem, Prompt, Score

NAN = float("nan")


def test_group_scaling_by_hand() -> None:
    # Mean 0.25; sample deviation sqrt((3 * 0.0625 + 0.5625) / 3) = 0.5.
    advantages = group_advantages(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), "group")
    expected = [-0.25 / 0.5001] * 3 + [0.75 / 0.5001]
    assert torch.allclose(advantages, torch.tensor([expected]))


def test_no_scaling_by_hand() -> None:
    advantages = group_advantages(torch.tensor([[0.0, 2.0], [1.0, 5.0]]), "none")
    assert advantages.tolist() == [[-1.0, 1.0], [-2.0, 2.0]]


def test_batch_scaling_by_hand() -> None:
    # All rewards: mean 2, sample deviation sqrt((4 + 0 + 1 + 9) / 3).
    advantages = group_advantages(torch.tensor([[0.0, 2.0], [1.0, 5.0]]), "batch")
    scale = math.sqrt(14 / 3) + 1e-4
    expected = torch.tensor([[-1.0, 1.0], [-2.0, 2.0]]) / scale
    assert torch.allclose(advantages, expected)


def test_a_group_without_difference_has_exactly_no_advantage() -> None:
    rewards = torch.tensor([[1.1, 1.1, 1.1], [0.0, 1.0, 0.0]])
    for scale in ("group", "batch", "none"):
        advantages = group_advantages(rewards, scale)  # type: ignore[arg-type]
        assert advantages[0].tolist() == [0.0, 0.0, 0.0]
        assert advantages[1].abs().min() > 0
    assert without_signal(rewards).tolist() == [True, False]


@pytest.mark.parametrize(
    ("rewards", "signal"),
    [
        ((0.0, 1.0), True),
        ((0.1 + 0.2, 0.3), False),
        ((1000.0, 1000.0001), False),
        ((1000.0, 1000.1), True),
        ((0.0, 1e-5), True),
        ((NAN, 1.0), False),
        ((NAN, NAN), False),
    ],
)
def test_a_group_has_signal_where_its_advantages_do(
    rewards: tuple[float, ...], signal: bool
) -> None:
    scores = tuple(Score({}, {}, reward) for reward in rewards)
    group = Group(Problem("t", "k", {}), Prompt("p", "", ()), (), scores)
    assert group.has_signal == signal
    advantages = group_advantages(torch.tensor([rewards]), "none")
    assert bool(advantages.any()) == signal
    assert without_signal(torch.tensor([rewards])).tolist() == [not signal]


def test_an_unscored_completion_is_left_out() -> None:
    advantages = group_advantages(torch.tensor([[0.0, NAN, 2.0], [NAN, NAN, NAN]]), "none")
    assert advantages.tolist() == [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_groups_do_not_touch_each_other() -> None:
    one, two = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[7.0, 2.0, 2.0]])
    both = group_advantages(torch.cat([one, two]), "group")
    assert torch.equal(both[:1], group_advantages(one, "group"))
    assert torch.equal(both[1:], group_advantages(two, "group"))
