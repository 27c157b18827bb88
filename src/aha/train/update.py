"""One GRPO update: groups with advantages in, new weights and statistics out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aha.grpo.batching import MicroBatch, Row, align, micro_batches
from aha.grpo.logprobs import completion_logprobs
from aha.grpo.losses import LossSettings, row_weights, token_loss
from aha.types import Group


@dataclass(frozen=True)
class UpdateSettings:
    """What an update depends on besides the batch."""

    loss: LossSettings
    temperature: float
    num_iterations: int
    max_grad_norm: float
    tokens_per_microbatch: int
    mask_truncated: bool


@dataclass(frozen=True)
class UpdateStats:
    """What an update was like; means are over the completion tokens that were trained on.

    `logprob_gap` is the largest difference between the sampler's and the trainer's
    log-probability of one token. All but `trained_rows` are 0 when nothing was trained on.
    """

    loss: float
    grad_norm: float
    kl: float
    entropy: float
    clip_ratio: float
    logprob_gap: float
    trained_rows: int


@dataclass
class _Sums:
    """Running totals of one pass over the micro-batches."""

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    tokens: float = 0.0


@dataclass(frozen=True)
class _Part:
    """A micro-batch with everything its loss needs; all tensors are its own rows'.

    `old_logprobs_BT` are the trainer's own before the first optimizer step: the weights that
    wrote the tokens are still in place then, so they cost no extra pass and carry none of
    the sampler's rounding.
    """

    batch: MicroBatch
    advantages_B: Tensor
    token_weights_BT: Tensor
    reference_logprobs_BT: Tensor | None
    old_logprobs_BT: Tensor | None = None


def update(
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    settings: UpdateSettings,
) -> UpdateStats:
    """`num_iterations` optimizer steps on the groups' completions.

    Rows without advantage add nothing to the gradient when there is no reference; they are
    not computed, but they still count in the loss's normalisation.
    """
    parts = _parts(model, reference, groups, settings)
    if not parts:
        return UpdateStats(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
    sampled = [c.logprobs for group in groups for c in group.completions]
    model.train()
    gap, norm, sums = 0.0, 0.0, _Sums()
    for iteration in range(settings.num_iterations):
        sums = _Sums()
        optimizer.zero_grad(set_to_none=True)
        for i, part in enumerate(parts):
            logprobs_BT = _backward(model, part, settings, sums)
            if iteration == 0:
                parts[i] = replace(part, old_logprobs_BT=logprobs_BT)
                gap = max(gap, _gap(logprobs_BT, align(sampled, part.batch), part.batch))
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).item()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return UpdateStats(
        loss=sums.loss,
        grad_norm=norm,
        kl=sums.kl / sums.tokens,
        entropy=sums.entropy / sums.tokens,
        clip_ratio=sums.clipped / sums.tokens,
        logprob_gap=gap,
        trained_rows=sum(len(part.advantages_B) for part in parts),
    )


def _backward(model: PreTrainedModel, part: _Part, settings: UpdateSettings, sums: _Sums) -> Tensor:
    """Add one micro-batch's gradient and statistics; its log-probabilities (B, T), detached."""
    mask_BT = part.batch.mask_BT
    logprobs_BT, entropy_BT = completion_logprobs(model, part.batch, settings.temperature)
    old_BT = logprobs_BT.detach() if part.old_logprobs_BT is None else part.old_logprobs_BT
    losses = token_loss(
        logprobs_BT, old_BT, part.advantages_B, part.reference_logprobs_BT, settings.loss
    )
    loss = (losses.loss_BT * part.token_weights_BT).sum()
    loss.backward()
    sums.loss += loss.item()
    sums.kl += (losses.kl_BT.detach() * mask_BT).sum().item()
    sums.clipped += (losses.clipped_BT * mask_BT).sum().item()
    sums.entropy += (entropy_BT * mask_BT).sum().item()
    sums.tokens += mask_BT.sum().item()
    return logprobs_BT.detach()


def _parts(
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    groups: Sequence[Group],
    settings: UpdateSettings,
) -> list[_Part]:
    """The update's micro-batches with their rows' advantages, weights and reference."""
    device = model.device
    rows, advantages_B, weights_B = _rows(groups, settings, needs_all=reference is not None)
    advantages_B, weights_B = advantages_B.to(device), weights_B.to(device)
    parts = []
    for batch in micro_batches(rows, settings.tokens_per_microbatch, device):
        scored = _score_no_grad(reference, batch, settings) if reference is not None else None
        token_weights_BT = weights_B[batch.index_B, None] * batch.mask_BT
        parts.append(_Part(batch, advantages_B[batch.index_B], token_weights_BT, scored))
    return parts


def _rows(
    groups: Sequence[Group], settings: UpdateSettings, needs_all: bool
) -> tuple[list[Row], Tensor, Tensor]:
    """Rows to compute, and advantages and token weights (both (B,)) of the whole update."""
    flat = [
        (group.prompt.token_ids, completion, advantage)
        for group in groups
        for completion, advantage in zip(group.completions, group.advantages, strict=True)
    ]
    masked = [settings.mask_truncated and completion.truncated for _, completion, _ in flat]
    lengths_B = torch.tensor(
        [0.0 if m else float(len(c.token_ids)) for (_, c, _), m in zip(flat, masked, strict=True)]
    )
    advantages_B = torch.tensor([advantage for _, _, advantage in flat])
    rows = [
        Row(index, prompt_ids, completion.token_ids)
        for index, (prompt_ids, completion, advantage) in enumerate(flat)
        if not masked[index] and (needs_all or advantage != 0.0)
    ]
    return rows, advantages_B, row_weights(lengths_B, settings.loss)


def _score_no_grad(model: PreTrainedModel, batch: MicroBatch, settings: UpdateSettings) -> Tensor:
    with torch.no_grad():
        return completion_logprobs(model, batch, settings.temperature)[0]


def _gap(trainer_BT: Tensor, sampler_BT: Tensor, batch: MicroBatch) -> float:
    return ((trainer_BT - sampler_BT).abs() * batch.mask_BT).max().item()
