"""Log-probabilities of completion tokens under a model, as the sampler drew them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aha.grpo.batching import MicroBatch


def completion_logprobs(
    model: PreTrainedModel, batch: MicroBatch, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of the completion tokens, both (B, T).

    In nats, under softmax(logits / temperature): the distribution of the draw. Values at
    padding are meaningless; mask them with `batch.mask_BT`. The entropy has no gradient.
    """
    logits_BSV = model(input_ids=batch.ids_BS, use_cache=False).logits
    # The logits that predict token t of the completion stand one position before it.
    longest = batch.mask_BT.shape[1]
    offsets_T = torch.arange(longest, device=batch.ids_BS.device) - 1
    positions_BT = (batch.first_B[:, None] + offsets_T).clamp(max=logits_BSV.shape[1] - 1)
    rows_B1 = torch.arange(len(positions_BT), device=positions_BT.device)[:, None]
    logits_BTV = logits_BSV[rows_B1, positions_BT].float() / temperature
    distribution_BTV = torch.log_softmax(logits_BTV, dim=-1)
    logprobs_BT = distribution_BTV.gather(2, batch.completion_ids_BT[..., None]).squeeze(2)
    with torch.no_grad():
        entropy_BT = -(distribution_BTV.exp() * distribution_BTV).sum(dim=-1)
    return logprobs_BT, entropy_BT
