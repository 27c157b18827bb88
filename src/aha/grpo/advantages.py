"""Group-relative advantages: how much better a completion is than its siblings."""

from __future__ import annotations

import torch
from torch import Tensor

from aha.sections import ScaleRewards
from aha.types import rewards_differ

# Keeps a group of nearly equal rewards from exploding; TRL's value.
_STD_EPSILON = 1e-4


def group_advantages(rewards_PG: Tensor, scale_rewards: ScaleRewards) -> Tensor:
    """Advantages of shape (P, G): reward less the group's mean, over a standard deviation.

    `scale_rewards` names the standard deviation: the group's (DeepSeekMath, arXiv:2402.03300,
    eq. 3 and section 4.1.2), the whole batch's (arXiv:2508.08221), or none (Dr. GRPO,
    arXiv:2503.20783). Deviations are of the sample (n - 1), as in TRL. A NaN reward (no reward
    function applied) is left out of the mean and gets advantage 0. So does every completion of a
    group whose rewards are all equal.
    """
    known_PG = ~rewards_PG.isnan()
    centred_PG = rewards_PG - rewards_PG.nanmean(dim=1, keepdim=True)
    if scale_rewards == "group":
        centred_PG = centred_PG / (_std(centred_PG, known_PG, dim=1) + _STD_EPSILON)
    elif scale_rewards == "batch":
        deviation = _std(
            (rewards_PG - rewards_PG.nanmean()).reshape(1, -1), known_PG.reshape(1, -1), dim=1
        )
        centred_PG = centred_PG / (deviation + _STD_EPSILON)
    flat_P1 = without_signal(rewards_PG)[:, None]
    return torch.where(known_PG & ~flat_P1, centred_PG, torch.zeros_like(centred_PG))


def without_signal(rewards_PG: Tensor) -> Tensor:
    """True for groups (P,) whose rewards are all equal: training on them changes nothing."""
    flat = [not rewards_differ(rewards) for rewards in rewards_PG.tolist()]
    return torch.tensor(flat, device=rewards_PG.device)


def _std(centred: Tensor, known: Tensor, dim: int) -> Tensor:
    """Sample deviation of values that are already centred, NaN left out; kept dimension."""
    squares = torch.where(known, centred, torch.zeros_like(centred)).square()
    count = known.sum(dim=dim, keepdim=True)
    return (squares.sum(dim=dim, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
