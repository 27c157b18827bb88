"""Group-relative advantages: how much better a completion is than its siblings."""

from __future__ import annotations

import torch
from torch import Tensor

from aha.sections import AdvantageEstimator, ScaleRewards
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


def estimated_advantages(
    rewards_PG: Tensor, raw_PGK: Tensor, weights_K: Tensor, estimator: AdvantageEstimator
) -> Tensor:
    """Advantages (P, G) by another estimator than GRPO's. A completion without reward has 0.

    rewards_PG is the sum of the K rewards raw_PGK times weights_K. With r a reward, m its group's
    mean and n its group's completions:

        rloo         (r - m) n / (n - 1): against the mean of the others (arXiv:2402.14740)
        reinforce++  r - m, divided by the batch's deviation of it (arXiv:2501.03262)
        maxrl        (r - m) / m: hard problems weigh more (arXiv:2602.02710); for rewards below 0
                     m is the mean of their sizes
        gdpo         each reward less its group's mean, divided by its group's deviation, weighted
                     and added; divided by the batch's deviation of the sums (arXiv:2601.05242)

    A group has no signal if its rewards are equal; under gdpo if each of the K is.
    """
    known_PG = ~rewards_PG.isnan()
    if estimator == "gdpo":
        by_reward = [group_advantages(raw_PG, "group") for raw_PG in raw_PGK.unbind(dim=2)]
        found_PG = (torch.stack(by_reward, dim=2) * weights_K).sum(dim=2)
    else:
        found_PG = group_advantages(rewards_PG, "none")
    if estimator == "rloo":
        count_P1 = known_PG.sum(dim=1, keepdim=True)
        return found_PG * count_P1 / (count_P1 - 1).clamp(min=1)
    if estimator == "maxrl":
        return found_PG / rewards_PG.abs().nanmean(dim=1, keepdim=True).clamp(min=_STD_EPSILON)
    deviation = _std(found_PG.reshape(1, -1), known_PG.reshape(1, -1), dim=1)
    return found_PG / (deviation + _STD_EPSILON)


def without_signal(rewards_PG: Tensor) -> Tensor:
    """True for groups (P,) whose rewards are all equal: training on them changes nothing."""
    flat = [not rewards_differ(rewards) for rewards in rewards_PG.tolist()]
    return torch.tensor(flat, device=rewards_PG.device)


def _std(centred: Tensor, known: Tensor, dim: int) -> Tensor:
    """Sample deviation of values that are already centred, NaN left out; kept dimension."""
    squares = torch.where(known, centred, torch.zeros_like(centred)).square()
    count = known.sum(dim=dim, keepdim=True)
    return (squares.sum(dim=dim, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
