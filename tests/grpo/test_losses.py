from __future__ import annotations

import math

import pytest
import torch

from aha.grpo.losses import LossSettings, LossType, kl_estimate, row_weights, token_loss


def settings(loss_type: LossType = "grpo", **changes: float) -> LossSettings:
    values = {"epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0, "max_completion_length": 10}
    return LossSettings(loss_type, **{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", [1 / (2 * 4), 1 / (2 * 2)]),
        ("bnpo", [1 / 6, 1 / 6]),
        ("dapo", [1 / 6, 1 / 6]),
        ("dr_grpo", [1 / 20, 1 / 20]),
    ],
)
def test_token_weights_by_hand(loss_type: LossType, expected: list[float]) -> None:
    weights = row_weights(torch.tensor([4.0, 2.0]), settings(loss_type))
    assert weights.tolist() == pytest.approx(expected)


def test_a_masked_row_still_counts_as_a_row() -> None:
    weights = row_weights(torch.tensor([4.0, 0.0]), settings("grpo"))
    assert weights[0].item() == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.56, True),
        (0.5, 2.0, -1.0, False),
        (1.5, -2.0, 3.0, False),
        (0.5, -2.0, 1.6, True),
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    logprobs = torch.tensor([math.log(0.5 * ratio)])
    old = torch.tensor([math.log(0.5)])
    result = token_loss(logprobs, old, torch.tensor([advantage]), None, settings())
    assert result.loss_N.item() == pytest.approx(loss, rel=1e-5)
    assert result.clipped_N.item() is clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight", "clipped"),
    [
        (1.0, 2.0, 1.0, False),
        (7.0, 2.0, 5.0, True),
        (7.0, -2.0, 5.0, False),
        (0.1, 2.0, 0.1, False),
    ],
)
def test_a_clipped_weight_by_hand(
    ratio: float, advantage: float, weight: float, clipped: bool
) -> None:
    logprobs = torch.tensor([math.log(0.1 * ratio)], requires_grad=True)
    old = torch.tensor([math.log(0.1)])
    result = token_loss(
        logprobs, old, torch.tensor([advantage]), None, settings("cispo", epsilon_high=5.0)
    )
    result.loss_N.sum().backward()
    # The weight is a constant, so a clipped token still has a gradient.
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(-weight * advantage, rel=1e-5)
    assert result.clipped_N.item() is clipped


def test_one_ratio_for_a_completion_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    old, advantages = torch.tensor([-1.1, -1.9]), torch.tensor([1.0, 1.0])
    mean = (logprobs - old).detach().mean().expand(2) + 0.1
    result = token_loss(logprobs, old, advantages, None, settings(), mean)
    assert result.loss_N.tolist() == pytest.approx([-math.exp(0.1)] * 2)
    result.loss_N.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-math.exp(0.1)] * 2)
    # Beyond the clip nothing is left of the gradient.
    far = token_loss(logprobs, old, advantages, None, settings(), mean + 1.0)
    assert far.clipped_N.all()
    assert far.loss_N.tolist() == pytest.approx([-1.28] * 2)


def test_estimators_of_the_kl_by_hand() -> None:
    policy, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.4)])
    d = math.log(0.8)
    for estimator, expected in (("k1", -d), ("k2", d * d / 2), ("k3", 0.8 - d - 1)):
        assert kl_estimate(policy, reference, estimator).item() == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]


def test_kl_by_hand() -> None:
    # d = log(0.4) - log(0.5); exp(d) - d - 1 = 0.8 + 0.22314 - 1.
    logprobs = torch.tensor([math.log(0.5)])
    reference = torch.tensor([math.log(0.4)])
    result = token_loss(logprobs, logprobs, torch.tensor([0.0]), reference, settings(beta=0.1))
    kl = 0.8 - math.log(0.8) - 1
    assert result.kl_N.item() == pytest.approx(kl, rel=1e-5)
    assert result.loss_N.item() == pytest.approx(0.1 * kl, rel=1e-5)


def test_at_ratio_one_the_gradient_is_minus_the_advantage() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    result = token_loss(logprobs, logprobs.detach(), torch.tensor([3.0]), None, settings())
    result.loss_N.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-3.0, -3.0]
