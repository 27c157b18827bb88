"""A backward pass of one microbatch under a loss that weighs tokens, as the update runs it."""

from __future__ import annotations

import torch
from torch import Tensor

from aha.grpo.batches import MicroBatch
from aha.grpo.logprobs import LogprobModel


def backward(
    policy: LogprobModel, batch: MicroBatch, temperature: float, weights_N: Tensor
) -> Tensor:
    """Add the gradient of sum(weight * log-probability); the log-probabilities (N,)."""
    hidden_NC, size = policy.hidden(batch), policy.tokens_at_once
    leaves = [piece.requires_grad_() for piece in hidden_NC.detach().split(size)]
    written = []
    pieces = zip(leaves, batch.targets_N.split(size), weights_N.split(size), strict=True)
    for leaf_NC, targets_N, piece_N in pieces:
        logprobs_N, _ = policy.head(leaf_NC, targets_N, temperature)
        (piece_N * logprobs_N).sum().backward()
        written.append(logprobs_N.detach())
    hidden_NC.backward(torch.cat([leaf.grad for leaf in leaves if leaf.grad is not None]))
    return torch.cat(written)
