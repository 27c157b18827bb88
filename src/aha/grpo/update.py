"""One GRPO update: groups with advantages in, new weights and statistics out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aha.grpo.batches import MicroBatch, Row, micro_batches
from aha.grpo.logprobs import Reference, Scorer
from aha.grpo.losses import LossSettings, TokenLoss, row_weights, token_loss
from aha.model.out_of_memory import is_out_of_memory
from aha.types import Group, RunFailure


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
    log-probability of one token. `tokens_per_microbatch` is the budget that fitted. When nothing
    was trained on, loss and gradient are 0, and what is measured on trained tokens (`kl`,
    `entropy`, `clip_ratio`, `logprob_gap`) is NaN. When the loss or the gradient is not finite the
    step is skipped: `skipped` is true, nothing has moved, and `sick_rows` are the completions (by
    place in the update) whose log-probabilities are not finite.
    """

    loss: float
    grad_norm: float
    kl: float
    entropy: float
    clip_ratio: float
    logprob_gap: float
    trained_rows: int
    tokens_per_microbatch: int
    skipped: bool = False
    sick_rows: tuple[int, ...] = ()


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
    """A micro-batch with everything its loss needs, flat over its N completion tokens."""

    batch: MicroBatch
    advantages_N: Tensor
    weights_N: Tensor
    reference_logprobs_N: Tensor | None


# Log-probabilities by a row's place in the update, whatever the micro-batches.
_ByRow = dict[int, Tensor]


def update(
    policy: Scorer,
    reference: Reference | None,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    settings: UpdateSettings,
) -> UpdateStats:
    """`num_iterations` optimizer steps on the groups' completions.

    Rows without advantage add nothing to the gradient when there is no reference; they are
    not computed, but they still count in the loss's normalisation. The old log-probabilities
    of the ratio are the trainer's own, kept from the first pass: the weights that wrote the
    tokens are still in place then, so they cost no pass and carry none of the sampler's rounding.
    Running out of memory halves the budget and begins the pass again; the update is the same.
    """
    nan = math.nan
    if sick := _sick_rollouts(groups):
        return UpdateStats(
            nan, nan, nan, nan, nan, nan, 0, settings.tokens_per_microbatch, True, sick
        )
    policy.model.train()
    parts, sums, old = list[_Part](), _Sums(), _ByRow()
    logprobs, norm, skipped = _ByRow(), 0.0, False
    for iteration in range(settings.num_iterations):
        while True:
            try:
                parts = parts or _parts(policy, reference, groups, settings)
                sums, logprobs = _pass(policy, parts, old, settings)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                parts = []
                policy.clear_gradients()
                settings = replace(settings, tokens_per_microbatch=_halved(settings, groups))
        if not parts:
            return UpdateStats(0.0, 0.0, nan, nan, nan, nan, 0, settings.tokens_per_microbatch)
        old = logprobs if iteration == 0 else old
        norm = _step(policy, optimizer, settings.max_grad_norm, sums.loss)
        skipped = not (math.isfinite(norm) and math.isfinite(sums.loss))
        if skipped:
            break
    return UpdateStats(
        loss=sums.loss,
        grad_norm=norm,
        kl=sums.kl / sums.tokens,
        entropy=sums.entropy / sums.tokens,
        clip_ratio=sums.clipped / sums.tokens,
        logprob_gap=_gap(groups, old),
        trained_rows=sum(len(part.batch.index_B) for part in parts),
        tokens_per_microbatch=settings.tokens_per_microbatch,
        skipped=skipped,
        sick_rows=tuple(i for i in sorted(logprobs) if not logprobs[i].isfinite().all()),
    )


def _step(
    policy: Scorer, optimizer: torch.optim.Optimizer, max_grad_norm: float, loss: float
) -> float:
    """Clip and step, unless loss or gradient is not finite; the gradient's norm."""
    policy.gather_gradients()
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), max_grad_norm).item()
    if math.isfinite(norm) and math.isfinite(loss):
        optimizer.step()
    policy.clear_gradients()
    return norm


def _sick_rollouts(groups: Sequence[Group]) -> tuple[int, ...]:
    """Completions that were drawn from a distribution that is none: the weights are not finite."""
    completions = [completion for group in groups for completion in group.completions]
    return tuple(
        index for index, c in enumerate(completions) if not all(map(math.isfinite, c.logprobs))
    )


def _pass(
    policy: Scorer, parts: Sequence[_Part], old: _ByRow, settings: UpdateSettings
) -> tuple[_Sums, _ByRow]:
    """Gradients of all micro-batches; their statistics and log-probabilities."""
    sums, logprobs = _Sums(), _ByRow()
    policy.clear_gradients()
    for part in parts:
        logprobs_N = _backward(policy, part, old, settings, sums)
        counts = part.batch.row_N.bincount().tolist()
        logprobs |= dict(zip(part.batch.index_B.tolist(), logprobs_N.split(counts), strict=True))
    return sums, logprobs


def _backward(
    policy: Scorer, part: _Part, old: _ByRow, settings: UpdateSettings, sums: _Sums
) -> Tensor:
    """Add one micro-batch's gradient and statistics; its log-probabilities (N,)."""
    old_N = torch.cat([old[i] for i in part.batch.index_B.tolist()]) if old else None

    def losses(logprobs_N: Tensor, where: slice) -> TokenLoss:
        reference_N = part.reference_logprobs_N
        return token_loss(
            logprobs_N,
            logprobs_N.detach() if old_N is None else old_N[where],
            part.advantages_N[where],
            None if reference_N is None else reference_N[where],
            settings.loss,
        )

    logprobs_N, entropy_N = policy.backward(
        part.batch,
        settings.temperature,
        lambda logprobs_N, where: (losses(logprobs_N, where).loss_N * part.weights_N[where]).sum(),
    )
    result = losses(logprobs_N, slice(None))
    sums.loss += (result.loss_N * part.weights_N).sum().item()
    sums.kl += result.kl_N.sum().item()
    sums.clipped += result.clipped_N.sum().item()
    sums.entropy += entropy_N.sum().item()
    sums.tokens += len(logprobs_N)
    return logprobs_N


def _gap(groups: Sequence[Group], trainer: _ByRow) -> float:
    sampled = [c.logprobs for group in groups for c in group.completions]
    gaps = [
        (trainer[index].cpu() - torch.tensor(sampled[index])).abs().max().item()
        for index in trainer
    ]
    # max() would pass over a NaN that does not come first.
    return math.nan if any(map(math.isnan, gaps)) else max(gaps)


def _halved(settings: UpdateSettings, groups: Sequence[Group]) -> int:
    """Half the budget. Errors: RunFailure when micro-batches hold one row already."""
    shortest = min(
        len(group.prompt.token_ids) + len(completion.token_ids)
        for group in groups
        for completion in group.completions
    )
    if settings.tokens_per_microbatch < shortest:
        raise RunFailure(
            "out of memory with one completion at a time; what helps: "
            "train.gradient_checkpointing=true, a smaller generation.max_completion_length, "
            "a smaller model."
        )
    return settings.tokens_per_microbatch // 2


def _parts(
    policy: Scorer, reference: Reference | None, groups: Sequence[Group], settings: UpdateSettings
) -> list[_Part]:
    """The update's micro-batches with their tokens' advantages, weights and reference."""
    device = policy.model.device
    rows, advantages_B, weights_B = _rows(groups, settings, needs_all=reference is not None)
    advantages_B, weights_B = advantages_B.to(device), weights_B.to(device)
    parts = []
    for batch in micro_batches(rows, settings.tokens_per_microbatch, device):
        scored = None if reference is None else reference.logprobs(batch, settings.temperature)
        index_N = batch.index_B[batch.row_N]
        parts.append(_Part(batch, advantages_B[index_N], weights_B[index_N], scored))
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
