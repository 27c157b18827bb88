"""One GRPO update: groups with advantages in, new weights and statistics out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aha.grpo.batches import MicroBatch, Row, micro_batches
from aha.grpo.logprobs import LogprobModel, Reference
from aha.grpo.losses import LossSettings, row_weights, token_loss
from aha.model.free_memory import is_out_of_memory
from aha.types import Group, RunFailure


@dataclass(frozen=True)
class UpdateSettings:
    """An update's parameters besides its batch.

    `entropy_coef`: weight of the mean entropy of all tokens in the objective. `every_row` trains
    on rows without advantage too, for their entropy.
    """

    loss: LossSettings
    temperature: float
    num_iterations: int
    max_grad_norm: float
    tokens_per_microbatch: int
    mask_truncated: bool
    entropy_coef: float = 0.0
    every_row: bool = False


@dataclass(frozen=True)
class UpdateStats:
    """Figures of an update; means are over the completion tokens that were trained on.

    `logprob_gap` is the largest difference between the sampler's and the trainer's
    log-probability of one token. `tokens_per_microbatch` is the budget that fitted. When nothing
    was trained on, loss and gradient are 0, and the figures of trained tokens (`kl`, `entropy`,
    `clip_ratio`, `logprob_gap`) are NaN. A step whose loss or gradient is not finite is skipped:
    `skipped` is true and no weight has changed. `nonfinite_rows` are the completions (by place in
    the update) whose log-probabilities are not finite.
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
    nonfinite_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """A microbatch and the values that its loss needs, one for each of its N completion tokens."""

    batch: MicroBatch
    advantages_N: Tensor
    weights_N: Tensor
    reference_logprobs_N: Tensor | None


@dataclass(frozen=True)
class Pass:
    """Sums over all tokens of one forward and backward pass, and log-probabilities by row."""

    loss: float
    kl: float
    clipped: float
    entropy: float
    tokens: int
    logprobs: dict[int, Tensor]


def update(
    policy: LogprobModel,
    reference: Reference | None,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    settings: UpdateSettings,
) -> UpdateStats:
    """`num_iterations` optimizer steps on the groups' completions.

    The ratio's old log-probabilities are the trainer's own, kept from the first pass. The weights
    that wrote the tokens are still in place then, so they cost no pass of their own and have none
    of the sampler's rounding. If memory runs out, the budget of a microbatch is halved and the
    pass starts again; the update is the same.

    Errors: RunFailure when one completion at a time does not fit into memory.
    """
    nan = math.nan
    completions = [completion for group in groups for completion in group.completions]
    nonfinite = tuple(
        index for index, c in enumerate(completions) if not all(map(math.isfinite, c.logprobs))
    )
    if nonfinite:  # the weights are broken: nothing can be learned from these tokens
        budget = settings.tokens_per_microbatch
        return UpdateStats(nan, nan, nan, nan, nan, nan, 0, budget, True, nonfinite)
    policy.model.train()
    old_logprobs: dict[int, Tensor] = {}
    parts: list[Part] = []
    for _ in range(settings.num_iterations):
        while True:
            try:
                parts = parts or prepare(policy, reference, groups, settings)
                if not parts:
                    budget = settings.tokens_per_microbatch
                    return UpdateStats(0.0, 0.0, nan, nan, nan, nan, 0, budget)
                result = accumulate_gradients(policy, parts, old_logprobs, settings)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                parts = []
                policy.clear_gradients()
                settings = replace(settings, tokens_per_microbatch=_halved(settings, groups))
        old_logprobs = old_logprobs or result.logprobs
        policy.gather_gradients()
        parameters = policy.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm).item()
        skipped = not (math.isfinite(norm) and math.isfinite(result.loss))
        if not skipped:
            try:
                optimizer.step()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # The first step makes Adam's two moments. Smaller microbatches would not help.
                raise RunFailure(
                    "out of memory for the optimizer's state, which is twice the size of the "
                    "trained weights; what helps: lora, a smaller model."
                ) from error
        policy.clear_gradients()
        if skipped:
            break
    first, last = _on_host(old_logprobs), _on_host(result.logprobs)
    gaps = [
        (logprobs_T - torch.tensor(completions[index].logprobs)).abs().max().item()
        for index, logprobs_T in first.items()
    ]
    return UpdateStats(
        loss=result.loss,
        grad_norm=norm,
        kl=result.kl / result.tokens,
        entropy=result.entropy / result.tokens,
        clip_ratio=result.clipped / result.tokens,
        # max() ignores a NaN that is not the first value.
        logprob_gap=nan if any(map(math.isnan, gaps)) else max(gaps),
        trained_rows=sum(len(part.batch.rows) for part in parts),
        tokens_per_microbatch=settings.tokens_per_microbatch,
        skipped=skipped,
        nonfinite_rows=tuple(
            index for index, logprobs_T in sorted(last.items()) if not logprobs_T.isfinite().all()
        ),
    )


def accumulate_gradients(
    policy: LogprobModel,
    parts: Sequence[Part],
    old_logprobs: Mapping[int, Tensor],
    settings: UpdateSettings,
) -> Pass:
    """The gradient of the whole batch's loss, added up over its microbatches.

    For each microbatch: log-probabilities, loss, backward. The head's logits are too large for all
    tokens at once, so the head and the loss take some tokens at a time; the gradients of their
    hidden states are collected and sent through the blocks together.
    """
    policy.clear_gradients()
    logprobs: dict[int, Tensor] = {}
    sums: list[Tensor] = []
    tokens = sum(len(part.advantages_N) for part in parts)
    for part in parts:
        batch, rows = part.batch, part.batch.rows
        old_N = torch.cat([old_logprobs[row.index] for row in rows]) if old_logprobs else None
        hidden_NC = policy.hidden(batch)
        size, written = policy.tokens_at_once, list[Tensor]()
        leaves = [piece.requires_grad_() for piece in hidden_NC.detach().split(size)]
        sequence_N = None
        if settings.loss.sequence and old_N is not None:
            sequence_N = _sequence_log_ratio(policy, part, leaves, old_N, settings.temperature)
        for number, leaf_NC in enumerate(leaves):
            at = slice(number * size, (number + 1) * size)
            logprobs_N, entropy_N = policy.head(
                leaf_NC, batch.targets_N[at], settings.temperature, settings.entropy_coef > 0
            )
            reference_N = part.reference_logprobs_N
            result = token_loss(
                logprobs_N,
                logprobs_N.detach() if old_N is None else old_N[at],
                part.advantages_N[at],
                None if reference_N is None else reference_N[at],
                settings.loss,
                None if sequence_N is None else sequence_N[at],
            )
            loss = (result.loss_N * part.weights_N[at]).sum()
            if settings.entropy_coef:
                loss = loss - settings.entropy_coef * entropy_N.sum() / tokens
            loss.backward()
            figures = (loss, result.kl_N.sum(), result.clipped_N.sum(), entropy_N.sum())
            sums.append(torch.stack([figure.detach() for figure in figures]))
            written.append(logprobs_N.detach())
        hidden_NC.backward(torch.cat([leaf.grad for leaf in leaves if leaf.grad is not None]))
        by_row = torch.cat(written).split([len(row.completion_ids) for row in rows])
        logprobs |= {row.index: logprobs_T for row, logprobs_T in zip(rows, by_row, strict=True)}
    loss_sum, kl, clipped, entropy = torch.stack(sums).cpu().double().sum(dim=0).tolist()
    return Pass(loss_sum, kl, clipped, entropy, tokens, logprobs)


def prepare(
    policy: LogprobModel,
    reference: Reference | None,
    groups: Sequence[Group],
    settings: UpdateSettings,
) -> list[Part]:
    """The update's microbatches, with their tokens' advantages, weights and reference.

    Masked rows are left out. So are rows without advantage when there is neither a reference nor
    a bonus for entropy: they add nothing to the gradient. Both still count in the loss's
    normalisation.
    """
    device = policy.model.device
    flat = [
        (group.prompt.token_ids, completion, advantage)
        for group in groups
        for completion, advantage in zip(group.completions, group.advantages, strict=True)
    ]
    masked = [settings.mask_truncated and completion.truncated for _, completion, _ in flat]
    lengths_B = torch.tensor(
        [0.0 if m else float(len(c.token_ids)) for (_, c, _), m in zip(flat, masked, strict=True)]
    )
    weights_B = row_weights(lengths_B, settings.loss).to(device)
    advantages_B = torch.tensor([advantage for _, _, advantage in flat]).to(device)
    every = reference is not None or settings.every_row
    rows = [
        Row(index, prompt_ids, completion.token_ids)
        for index, (prompt_ids, completion, advantage) in enumerate(flat)
        if not masked[index] and (every or advantage != 0.0)
    ]
    parts = []
    budget, shared = settings.tokens_per_microbatch, policy.shares_prompts
    for batch in micro_batches(rows, budget, device, shared):
        index_N = batch.index_N
        reference_N = None if reference is None else reference.logprobs(batch, settings.temperature)
        parts.append(Part(batch, advantages_B[index_N], weights_B[index_N], reference_N))
    return parts


@torch.no_grad()
def _sequence_log_ratio(
    policy: LogprobModel,
    part: Part,
    leaves: Sequence[Tensor],
    old_N: Tensor,
    temperature: float,
) -> Tensor:
    """Each token's completion's mean of new minus old log-probabilities (N,).

    The head runs once more for it: a completion's tokens may lie in several pieces. In a batch's
    first update nothing is new, and every ratio is 1.
    """
    targets = part.batch.targets_N.split([len(leaf_NC) for leaf_NC in leaves])
    pairs = zip(leaves, targets, strict=True)
    now_N = torch.cat([policy.head(leaf_NC, to_N, temperature)[0] for leaf_NC, to_N in pairs])
    lengths = [len(row.completion_ids) for row in part.batch.rows]
    means = [difference_T.mean().expand(n) for difference_T, n in
             zip((now_N - old_N).split(lengths), lengths, strict=True)]  # fmt: skip
    return torch.cat(means)


def _on_host(logprobs: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """All rows' log-probabilities, copied together: a copy for each row would wait for each."""
    whole = torch.cat(list(logprobs.values())).cpu()
    return dict(zip(logprobs, whole.split([len(x) for x in logprobs.values()]), strict=True))


def _halved(settings: UpdateSettings, groups: Sequence[Group]) -> int:
    """Half the budget. Errors: RunFailure when microbatches hold one row already."""
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
