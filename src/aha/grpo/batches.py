"""Rows of prompt and completion, cut into microbatches by a budget of tokens."""

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
    """Right-padded rows, and their completion tokens as one flat list of N without padding.

    ids_BS: prompt then completion, S the longest row. predict_N: where in the flattened (B * S)
    a completion token is predicted, one place before it. targets_N: that token. row_N: its
    row, 0 to B - 1. index_B: the rows' places in the update.
    """

    ids_BS: Tensor
    predict_N: Tensor
    targets_N: Tensor
    row_N: Tensor
    index_B: Tensor


def micro_batches(rows: Sequence[Row], token_budget: int, device: torch.device) -> list[MicroBatch]:
    """All rows, longest first, in microbatches of at most `token_budget` padded tokens.

    A row longer than the budget gets a microbatch of its own.
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
    # Padding stands on the right, where causal attention never looks from a real token.
    ids_BS = torch.zeros(len(rows), width, dtype=torch.long)
    predict, targets, row_of = [], [], []
    for b, row in enumerate(rows):
        ids_BS[b, : row.tokens] = torch.tensor(row.prompt_ids + row.completion_ids)
        first = b * width + len(row.prompt_ids) - 1
        predict.append(torch.arange(first, first + len(row.completion_ids)))
        targets.append(torch.tensor(row.completion_ids))
        row_of.append(torch.full((len(row.completion_ids),), b))
    return MicroBatch(
        ids_BS.to(device),
        torch.cat(predict).to(device),
        torch.cat(targets).to(device),
        torch.cat(row_of).to(device),
        torch.tensor([row.index for row in rows], device=device),
    )
