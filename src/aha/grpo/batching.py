"""Rows of prompt and completion, cut into micro-batches by a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One completion to train on; `index` is its place in the update."""

    index: int
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded rows; all completion tensors are aligned at their first token.

    ids_BS: prompt then completion, S the longest row. `first_B`: where the completion
    begins. mask_BT: 1.0 at completion tokens, T the longest completion. `index_B`: places
    in the update.
    """

    ids_BS: Tensor
    first_B: Tensor
    completion_ids_BT: Tensor
    mask_BT: Tensor
    index_B: Tensor


def micro_batches(rows: Sequence[Row], token_budget: int, device: torch.device) -> list[MicroBatch]:
    """All rows, longest first, in micro-batches of at most `token_budget` padded tokens.

    A row longer than the budget gets a micro-batch of its own.
    """
    batches: list[MicroBatch] = []
    pending: list[Row] = []
    for row in sorted(rows, key=lambda row: -row.tokens):
        if pending and (len(pending) + 1) * pending[0].tokens > token_budget:
            batches.append(_collate(pending, device))
            pending = []
        pending.append(row)
    if pending:
        batches.append(_collate(pending, device))
    return batches


def _collate(rows: Sequence[Row], device: torch.device) -> MicroBatch:
    width = max(row.tokens for row in rows)
    longest = max(len(row.completion_ids) for row in rows)
    # Padding stands on the right, where causal attention never looks from a real token.
    ids_BS = torch.zeros(len(rows), width, dtype=torch.long)
    completion_ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), longest)
    for b, row in enumerate(rows):
        ids_BS[b, : row.tokens] = torch.tensor(row.prompt_ids + row.completion_ids)
        completion_ids_BT[b, : len(row.completion_ids)] = torch.tensor(row.completion_ids)
        mask_BT[b, : len(row.completion_ids)] = 1.0
    return MicroBatch(
        ids_BS.to(device),
        torch.tensor([len(row.prompt_ids) for row in rows], device=device),
        completion_ids_BT.to(device),
        mask_BT.to(device),
        torch.tensor([row.index for row in rows], device=device),
    )


def align(values: Sequence[Sequence[float]], batch: MicroBatch) -> Tensor:
    """Per-token values of the update's rows as (B, T) beside the micro-batch's completions."""
    aligned_BT = torch.zeros_like(batch.mask_BT)
    for b, index in enumerate(batch.index_B.tolist()):
        aligned_BT[b, : len(values[index])] = torch.tensor(values[index], dtype=torch.float32)
    return aligned_BT
