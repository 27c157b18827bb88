"""The GRPO objective as one sum over tokens, so that micro-batches add up to the whole.

The four loss types of TRL differ only in the weight that a token of row b gets. With B rows
in the update, lengths |o_b| and the limit L = max_completion_length:

    grpo     1 / (B |o_b|)         mean over rows of each row's mean (arXiv:2402.03300, eq. 3)
    bnpo     1 / sum_b |o_b|       mean over the update's tokens (TRL's name)
    dapo     1 / sum_b |o_b|       the same in one process (arXiv:2503.14476, eq. 8)
    dr_grpo  1 / (B L)             no length bias (arXiv:2503.20783, section 3.2)

TRL normalises bnpo within a micro-batch and dapo over all; here a micro-batch is an accident of
memory and never changes the update, so the two agree, as TRL's do with one micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]


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
    """Per token, all (B, T): the loss to sum, the KL estimate, and whether the ratio is clipped."""

    loss_BT: Tensor
    kl_BT: Tensor
    clipped_BT: Tensor


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
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_B: Tensor,
    reference_logprobs_BT: Tensor | None,
    settings: LossSettings,
) -> TokenLoss:
    """The clipped surrogate, plus beta times the KL to the reference when there is one.

    PPO's clip on the ratio to the policy that wrote the tokens, and the k3 estimator
    exp(d) - d - 1 with d = reference - policy (arXiv:2402.03300, eq. 3 and 4).
    """
    ratio_BT = torch.exp(logprobs_BT - old_logprobs_BT)
    low, high = 1 - settings.epsilon, 1 + settings.epsilon_high
    advantages_B1 = advantages_B[:, None]
    surrogate_BT = torch.min(ratio_BT * advantages_B1, ratio_BT.clamp(low, high) * advantages_B1)
    clipped_BT = ((ratio_BT < low) & (advantages_B1 < 0)) | (
        (ratio_BT > high) & (advantages_B1 > 0)
    )
    if reference_logprobs_BT is None:
        return TokenLoss(-surrogate_BT, torch.zeros_like(ratio_BT), clipped_BT)
    difference_BT = reference_logprobs_BT - logprobs_BT
    kl_BT = torch.exp(difference_BT) - difference_BT - 1
    if settings.use_bias_correction_kl:
        kl_BT = kl_BT * ratio_BT
    return TokenLoss(settings.beta * kl_BT - surrogate_BT, kl_BT, clipped_BT)
