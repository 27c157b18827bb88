from __future__ import annotations

import math

import pytest
import torch

from aha.grpo.advantages import estimated_advantages, group_advantages, without_signal
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


# Two rewards of weights 1 and 0.5; a completion without any; a group of equal sums.
RAW = torch.tensor([
    [[0.0, 2.0], [1.0, 2.0], [0.0, 0.0], [NAN, NAN]],
    [[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 2.0]],
])  # fmt: skip
WEIGHTS = torch.tensor([1.0, 0.5])
REWARDS = torch.tensor([[1.0, 2.0, 0.0, NAN], [1.0, 1.0, 1.0, 1.0]])


def test_leave_one_out_by_hand() -> None:
    found = estimated_advantages(REWARDS, RAW, WEIGHTS, "rloo")
    # 1 - (2 + 0) / 2, 2 - (1 + 0) / 2, 0 - (1 + 2) / 2
    assert found.tolist() == [[0.0, 1.5, -1.5, 0.0], [0.0] * 4]


def test_a_baseline_and_the_batchs_deviation_by_hand() -> None:
    found = estimated_advantages(REWARDS, RAW, WEIGHTS, "reinforce++")
    # Seven known rewards, of which two are 1 from their group's mean.
    scale = math.sqrt(2 / 6) + 1e-4
    expected = torch.tensor([[0.0, 1 / scale, -1 / scale, 0.0], [0.0] * 4])
    assert torch.allclose(found, expected)


def test_hard_problems_weigh_more_by_hand() -> None:
    one_in_four = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0] * 4])
    found = estimated_advantages(one_in_four, one_in_four[:, :, None], torch.ones(1), "maxrl")
    expected = [[3.0, -1.0, -1.0, -1.0], [1 / 3, 1 / 3, 1 / 3, -1.0], [0.0] * 4]
    assert torch.allclose(found, torch.tensor(expected))


def test_each_reward_by_its_own_deviation_by_hand() -> None:
    found = estimated_advantages(REWARDS, RAW, WEIGHTS, "gdpo")
    # Of the first group, (0, 1, 0): mean 1/3, deviation sqrt(1/3); (2, 2, 0): 4/3, sqrt(4/3).
    one, two = math.sqrt(1 / 3) + 1e-4, math.sqrt(4 / 3) + 1e-4
    first = [-1 / 3 / one + 1 / 3 / two, 2 / 3 / one + 1 / 3 / two, -1 / 3 / one - 2 / 3 / two]
    # The second group's sums are equal, but each of its rewards differs: half of them cancels.
    a, b = 0.5 / (math.sqrt(1 / 3) + 1e-4), 0.5 * 1.0 / (math.sqrt(4 / 3) + 1e-4)
    second = [a - b, b - a, a - b, b - a]
    sums = torch.tensor([*first, *second])
    scale = (sums.square().sum() / 6).sqrt() + 1e-4
    assert torch.allclose(found[0, :3], torch.tensor(first) / scale)
    assert torch.allclose(found[1], torch.tensor(second) / scale, atol=1e-5)
    assert found[0, 3] == 0
    flat = torch.ones(2, 4)
    assert not estimated_advantages(flat, flat[:, :, None], torch.ones(1), "gdpo").any()


def test_groups_do_not_touch_each_other() -> None:
    one, two = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[7.0, 2.0, 2.0]])
    both = group_advantages(torch.cat([one, two]), "group")
    assert torch.equal(both[:1], group_advantages(one, "group"))
    assert torch.equal(both[1:], group_advantages(two, "group"))
