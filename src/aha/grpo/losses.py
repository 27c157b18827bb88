"""The GRPO objective as one sum over tokens, so that microbatches add up to the whole.

The four loss types of TRL differ only in the weight that a token of row b gets. With B rows
in the update, lengths |o_b| and the limit L = max_completion_length:

    grpo     1 / (B |o_b|)         mean over rows of each row's mean (arXiv:2402.03300, eq. 3)
    bnpo     1 / sum_b |o_b|       mean over the update's tokens (TRL's name)
    dapo     1 / sum_b |o_b|       the same in one process (arXiv:2503.14476, eq. 8)
    dr_grpo  1 / (B L)             no length bias (arXiv:2503.20783, section 3.2)

TRL normalises bnpo within a microbatch and dapo over all. Here microbatches only save memory and
never change the update, so the two agree, as TRL's do with one microbatch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aha.sections import LossType


@dataclass(frozen=True)
class LossSettings:
    """The objective's parameters; `epsilon_high` is DAPO's higher upper clip.

    `use_bias_correction_kl` multiplies the KL estimate by the importance ratio, which makes
    its gradient that of the reverse KL (DeepSeek-V3.2, arXiv:2512.02556); TRL's default.
    """

    loss_type: LossType
    epsilon: float
    epsilon_high: float
    beta: float
    max_completion_length: int
    use_bias_correction_kl: bool = True


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
) -> TokenLoss:
    """The clipped surrogate, plus beta times the KL to the reference when there is one.

    PPO's clip of the ratio exp(logprobs - old_logprobs), and the k3 estimator exp(d) - d - 1 with
    d = reference - policy (arXiv:2402.03300, eq. 3 and 4). All tensors are (N,): one value for each
    completion token, with its completion's advantage. `old_logprobs_N` are the policy's own before
    this batch's first optimizer step; they carry no gradient.
    """
    ratio_N = torch.exp(logprobs_N - old_logprobs_N)
    low, high = 1 - settings.epsilon, 1 + settings.epsilon_high
    surrogate_N = torch.min(ratio_N * advantages_N, ratio_N.clamp(low, high) * advantages_N)
    clipped_N = ((ratio_N < low) & (advantages_N < 0)) | ((ratio_N > high) & (advantages_N > 0))
    if reference_logprobs_N is None:
        return TokenLoss(-surrogate_N, torch.zeros_like(ratio_N), clipped_N)
    difference_N = reference_logprobs_N - logprobs_N
    kl_N = torch.exp(difference_N) - difference_N - 1
    if settings.use_bias_correction_kl:
        kl_N = kl_N * ratio_N
    return TokenLoss(settings.beta * kl_N - surrogate_N, kl_N, clipped_N)
