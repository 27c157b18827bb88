"""Rows of prompt and completion, cut into microbatches by a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aha.model.ops import shared_beginnings

# A microbatch's places, over its tokens: see `micro_batches`.
PLACES = 3


@dataclass(frozen=True)
class Row:
    """One completion to train on; `index` is its place in the update."""

    index: int
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """The tokens that the model reads: the last one predicts nothing."""
        return len(self.prompt_ids) + len(self.completion_ids) - 1


@dataclass(frozen=True)
class MicroBatch:
    """B rows whose M tokens exist once: rows share the tokens with which they begin alike.

    ids_M, position_M: each token, and its position in its rows. place_BS: which of the M tokens
    stands at each place of the right-padded rows, S the longest; padding names token 0. pick_M:
    for each token one place in the flattened (B * S). own_B2, on the host: each row's places that
    pick_M has, from the first to the one after the last. N counts completion tokens, row after row.
    predict_N: which of the M tokens predicts it, the one before it. targets_N: that token.
    index_N: its row's place in the update. `rows` are on the host, so that reading their lengths
    does not wait for a GPU.
    """

    rows: tuple[Row, ...]

    ids_M: Tensor
    position_M: Tensor
    place_BS: Tensor
    pick_M: Tensor
    own_B2: Tensor
    predict_N: Tensor
    targets_N: Tensor
    index_N: Tensor


def micro_batches(
    rows: Sequence[Row], token_budget: int, device: torch.device, shared: bool = True
) -> list[MicroBatch]:
    """All rows in microbatches of at most `token_budget` tokens, the longest rows first.

    With `shared`, a prompt counts once for all its rows in a microbatch (more may be shared), and
    there are at most `PLACES` times as many places, padding included. Without it, places are what
    is counted. A row longer than the budget gets a microbatch of its own.
    """
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: -row.tokens):
        groups.setdefault(row.prompt_ids, []).append(row)
    batches: list[MicroBatch] = []
    pending: list[Row] = []
    tokens = width = 0
    for row in (row for group in groups.values() for row in group):
        first = not pending or pending[-1].prompt_ids != row.prompt_ids
        added = row.tokens if first else len(row.completion_ids) - 1
        width = max(width, row.tokens)
        places = (len(pending) + 1) * width
        over = tokens + added > token_budget or places > PLACES * token_budget
        if pending and (over if shared else places > token_budget):
            batches.append(_collate(pending, device))
            pending, tokens, width, added = [], 0, row.tokens, row.tokens
        pending.append(row)
        tokens += added
    if pending:
        batches.append(_collate(pending, device))
    return batches


def fullest(
    prompts: int, generations: int, prompt: int, completion: int, token_budget: int, shared: bool
) -> tuple[int, int]:
    """The most rows that `micro_batches` puts together, and their tokens, if all are as long."""
    row = prompt + completion
    found = 1, row
    for rows in range(2, prompts * generations + 1):
        places = rows * row
        tokens = -(-rows // generations) * prompt + rows * completion if shared else places
        if tokens > token_budget or places > PLACES * token_budget:
            break
        found = rows, tokens
    return found


def _collate(rows: Sequence[Row], device: torch.device) -> MicroBatch:
    # In sorted order all common beginnings are shared. Padding stands on the right, where causal
    # attention never looks from a real token.
    rows = sorted(rows, key=lambda row: (row.prompt_ids, row.completion_ids))
    read = [(*row.prompt_ids, *row.completion_ids[:-1]) for row in rows]
    ids_M, position_M, place_BS, pick_M, own_B2 = shared_beginnings(read)
    predict = [
        place_BS[b, len(row.prompt_ids) - 1 : len(row.prompt_ids) - 1 + len(row.completion_ids)]
        for b, row in enumerate(rows)
    ]
    targets = [token for row in rows for token in row.completion_ids]
    index = [row.index for row in rows for _ in row.completion_ids]
    return MicroBatch(
        rows=tuple(rows),
        ids_M=ids_M.to(device),
        position_M=position_M.to(device),
        place_BS=place_BS.to(device),
        pick_M=pick_M.to(device),
        own_B2=own_B2,
        predict_N=torch.cat(predict).to(device),
        targets_N=torch.tensor(targets, device=device),
        index_N=torch.tensor(index, device=device),
    )
