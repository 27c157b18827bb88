"""The GRPO objective as one sum over tokens, so that microbatches add up to the whole.

Loss types differ in the weight that a token of row b gets. With B rows in the update, lengths |o_b|
and the limit L = max_completion_length:

    grpo     1 / (B |o_b|)         mean over rows of each row's mean (arXiv:2402.03300, eq. 3)
    bnpo     1 / sum_b |o_b|       mean over the update's tokens (TRL's name)
    dapo     1 / sum_b |o_b|       the same in one process (arXiv:2503.14476, eq. 8)
    dr_grpo  1 / (B L)             no length bias (arXiv:2503.20783, section 3.2)
    cispo    as dapo               its ratio is a constant weight (arXiv:2506.13585, eq. 4)

TRL normalises bnpo within a microbatch and dapo over all. Here microbatches only save memory and
never change the update, so the two agree, as TRL's do with one microbatch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aha.sections import KlEstimator, LossType


@dataclass(frozen=True)
class LossSettings:
    """The objective's parameters; `epsilon_high` is DAPO's higher upper clip.

    `sequence`: a token's ratio is that of its whole completion (GSPO, arXiv:2507.18071).
    `use_bias_correction_kl` multiplies the KL estimate by the importance ratio, which makes
    its gradient that of the reverse KL (DeepSeek-V3.2, arXiv:2512.02556); TRL's default.
    """

    loss_type: LossType
    epsilon: float
    epsilon_high: float
    beta: float
    max_completion_length: int
    use_bias_correction_kl: bool = True
    kl_estimator: KlEstimator = "k3"
    sequence: bool = False


@dataclass(frozen=True)
class TokenLoss:
    """Per token, all (N,): the loss to sum, the KL estimate, and whether the ratio is clipped."""

    loss_N: Tensor
    kl_N: Tensor
    clipped_N: Tensor


def row_weights(lengths_B: Tensor, settings: LossSettings) -> Tensor:
    """The weight (B,) of each token of a row, from the lengths of all rows of the update.

    A length of 0 means that the row is masked out; it still counts as a row.
    """
    rows = len(lengths_B)
    if settings.loss_type == "grpo":
        return 1.0 / (rows * lengths_B.clamp(min=1))
    if settings.loss_type == "dr_grpo":
        return torch.full_like(lengths_B, 1.0 / (rows * settings.max_completion_length))
    return (1.0 / lengths_B.sum().clamp(min=1)).expand(rows)


def token_loss(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    advantages_N: Tensor,
    reference_logprobs_N: Tensor | None,
    settings: LossSettings,
    sequence_N: Tensor | None = None,
) -> TokenLoss:
    """The clipped surrogate, plus beta times the KL to the reference when there is one.

    PPO's clip of the ratio exp(logprobs - old_logprobs) (arXiv:2402.03300, eq. 3), or CISPO's
    -min(ratio, epsilon_high) A logprobs, where the minimum is a constant. All tensors are (N,): one
    value for each completion token, with its completion's advantage. `old_logprobs_N` are the
    policy's own before this batch's first optimizer step; they carry no gradient. `sequence_N`:
    the mean of logprobs - old_logprobs over a token's completion, a constant that takes the place
    of the token's own (GSPO-token, arXiv:2507.18071, eq. 14).
    """
    log_ratio_N = logprobs_N - old_logprobs_N
    if sequence_N is not None:
        log_ratio_N = sequence_N + (logprobs_N - logprobs_N.detach())
    ratio_N = torch.exp(log_ratio_N)
    low, high = 1 - settings.epsilon, 1 + settings.epsilon_high
    if settings.loss_type == "cispo":
        high = settings.epsilon_high
        surrogate_N = ratio_N.detach().clamp(max=high) * advantages_N * logprobs_N
        clipped_N = (ratio_N > high) & (advantages_N > 0)
    else:
        surrogate_N = torch.min(ratio_N * advantages_N, ratio_N.clamp(low, high) * advantages_N)
        clipped_N = ((ratio_N < low) & (advantages_N < 0)) | ((ratio_N > high) & (advantages_N > 0))
    if reference_logprobs_N is None:
        return TokenLoss(-surrogate_N, torch.zeros_like(ratio_N), clipped_N)
    kl_N = kl_estimate(logprobs_N, reference_logprobs_N, settings.kl_estimator)
    if settings.use_bias_correction_kl:
        kl_N = kl_N * ratio_N
    return TokenLoss(settings.beta * kl_N - surrogate_N, kl_N, clipped_N)


def kl_estimate(logprobs_N: Tensor, reference_N: Tensor, estimator: KlEstimator) -> Tensor:
    """KL(policy || reference) by token (N,), from tokens of the policy. d = reference - policy.

    k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1 (joschu.net/blog/kl-approx.html; k3 is GRPO's,
    arXiv:2402.03300, eq. 4). As a loss only k2 has the gradient of the KL; that of k1 is 0 on
    average, unless it is multiplied by the importance ratio.
    """
    difference_N = reference_N - logprobs_N
    if estimator == "k1":
        return -difference_N
    if estimator == "k2":
        return difference_N.square() / 2
    return torch.exp(difference_N) - difference_N - 1
