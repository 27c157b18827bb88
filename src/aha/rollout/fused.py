"""A decoder for Llama-like blocks on a CPU without compiled kernels, in PyTorch alone.

Rows that joined together form a cohort with a cache of its own. They have written equally many
tokens, so a cohort's cache has no holes but the padding of its shorter prompts, and the work of a
step is proportional to the tokens that are live, however old the other rows are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aha.blocks.llama import LlamaBlocks
from aha.rollout.decoder import prompt_mask

_BLOCK = 64  # a cache holds a multiple of this many positions
_PREFILL_TOKENS = 4096  # prompts are read this many tokens at a time: enough for full speed


@dataclass
class _Cohort:
    """Rows of one age: keys and values (layers, R, KV heads, capacity, D), used up to `length`.

    Prompts stand at the right of the first columns: `mask_R1T` is 0 at tokens and -inf at the
    padding before them; none when all prompts are equally long. `position_R` is the next
    token's.
    """

    keys: Tensor
    values: Tensor
    length: int
    position_R: Tensor
    mask_R1T: Tensor | None

    @property
    def rows(self) -> int:
        return len(self.position_R)

    def begin_step(self) -> None:
        """Room in cache and mask for one more position a row."""
        if self.length == self.keys.shape[3]:
            self._move(self.length + self.length // 4 + 1, slice(None))
        if self.mask_R1T is not None:
            self.mask_R1T = functional.pad(self.mask_R1T, (0, 1))

    def end_step(self) -> None:
        self.length += 1
        self.position_R = self.position_R + 1

    def keep(self, rows_K: Tensor) -> None:
        self._move(self.length, rows_K)
        self.position_R = self.position_R[rows_K]
        if self.mask_R1T is not None:
            self.mask_R1T = self.mask_R1T[rows_K]

    def _move(self, capacity: int, rows: Tensor | slice) -> None:
        capacity = _capacity(capacity)
        kept_rows = self.rows if isinstance(rows, slice) else len(rows)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(old.shape[0], kept_rows, old.shape[2], capacity, old.shape[4])
            # Layer by layer: selecting rows makes a copy, and this one is soon gone.
            for layer in range(old.shape[0]):
                new[layer, :, :, : self.length] = old[layer, rows, :, : self.length]
            setattr(self, name, new)


class FusedDecoder:
    """Cohorts of rows, oldest first; `longest` bounds prompt plus completion."""

    leave_share = 0.125  # leaving copies the cache
    stride = 1

    def __init__(self, blocks: LlamaBlocks, longest: int) -> None:
        self._blocks = blocks
        self._cohorts: list[_Cohort] = []
        self._cos, self._sin = blocks.angles(longest)

    @property
    def can_join(self) -> bool:
        return True

    def add(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        blocks = self._blocks
        device, width = blocks.embedding.device, max(len(prompt) for prompt in prompts)
        ids_PT = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_PT[row, width - len(prompt) :] = torch.tensor(prompt)
        ids_PT = ids_PT.to(device)
        lengths_P = torch.tensor([len(prompt) for prompt in prompts], device=device)
        cohort = self._new_cohort(lengths_P, repeats, width)
        per_chunk = max(1, _PREFILL_TOKENS // width)
        last = [
            self._read(cohort, ids_PT[p : p + per_chunk], lengths_P[p : p + per_chunk], p, repeats)
            for p in range(0, len(prompts), per_chunk)
        ]
        self._cohorts.append(cohort)
        return self._logits(_cat(last)).repeat_interleave(repeats, dim=0)

    def _read(
        self, cohort: _Cohort, ids_PT: Tensor, lengths_P: Tensor, first: int, repeats: int
    ) -> Tensor:
        """Run some of a cohort's prompts, from number `first` on; hidden states (P, C)."""
        blocks, width = self._blocks, ids_PT.shape[1]
        rows = slice(first * repeats, (first + len(ids_PT)) * repeats)
        padding_P = width - lengths_P
        mask_P1TT = prompt_mask(padding_P, width) if cohort.mask_R1T is not None else None

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            key = key.unflatten(0, (-1, width)).transpose(1, 2)
            value = value.unflatten(0, (-1, width)).transpose(1, 2)
            cohort.keys[layer, rows, :, :width] = key.repeat_interleave(repeats, dim=0)
            cohort.values[layer, rows, :, :width] = value.repeat_interleave(repeats, dim=0)
            attended = functional.scaled_dot_product_attention(
                query.unflatten(0, (-1, width)).transpose(1, 2),
                key,
                value,
                attn_mask=mask_P1TT,
                is_causal=mask_P1TT is None,
                enable_gqa=True,
            )
            return attended.transpose(1, 2).flatten(0, 1)

        column_T = torch.arange(width, device=ids_PT.device)
        position_N = (column_T - padding_P[:, None]).clamp(min=0).flatten()
        hidden_NC = functional.embedding(ids_PT.flatten(), blocks.embedding)
        hidden_NC = blocks.run(hidden_NC, self._cos[position_N], self._sin[position_N], attend)
        return hidden_NC.unflatten(0, (-1, width))[:, -1]

    def step(self, tokens_R: Tensor) -> Tensor:
        blocks, cohorts = self._blocks, self._cohorts
        for cohort in cohorts:
            cohort.begin_step()
        position_R = _cat([cohort.position_R for cohort in cohorts])
        sizes = [cohort.rows for cohort in cohorts]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            parts = zip(cohorts, *(x.split(sizes) for x in (query, key, value)), strict=True)
            return _cat([_attend_one(cohort, layer, q, k, v) for cohort, q, k, v in parts])

        hidden_RC = functional.embedding(tokens_R, blocks.embedding)
        hidden_RC = blocks.run(hidden_RC, self._cos[position_R], self._sin[position_R], attend)
        for cohort in cohorts:
            cohort.end_step()
        return self._logits(hidden_RC)

    def keep(self, rows_K: Tensor) -> None:
        first, kept = 0, []
        for cohort in self._cohorts:
            last = first + cohort.rows
            mine_K = rows_K[(rows_K >= first) & (rows_K < last)] - first
            if 0 < len(mine_K) < cohort.rows:
                cohort.keep(mine_K)
            if len(mine_K):
                kept.append(cohort)
            first = last
        self._cohorts = kept

    def _new_cohort(self, lengths_P: Tensor, repeats: int, width: int) -> _Cohort:
        blocks = self._blocks
        position_R = lengths_P.repeat_interleave(repeats)
        shape = (len(blocks.layers), len(position_R), blocks.kv_heads)
        keys = blocks.embedding.new_empty(*shape, _capacity(width + 1), blocks.head_dim)
        mask_R1T = None
        if bool((lengths_P != width).any()):
            column_T = torch.arange(width, device=lengths_P.device)
            mask_R1T = _additive(column_T < width - position_R[:, None], keys.dtype)[:, None]
        return _Cohort(keys, torch.empty_like(keys), width, position_R, mask_R1T)

    def _logits(self, hidden_RC: Tensor) -> Tensor:
        return self._blocks.logits(hidden_RC)


def _attend_one(cohort: _Cohort, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one new position a row over its cohort's cache: (R, heads, D)."""
    end = cohort.length + 1
    keys, values = cohort.keys[layer], cohort.values[layer]
    keys[:, :, cohort.length], values[:, :, cohort.length] = key, value
    rows, kv_heads, _, width = keys.shape
    mask_R1T = cohort.mask_R1T
    # Two batched products are up to twice as fast as the CPU's attention kernel.
    grouped = query.reshape(rows * kv_heads, -1, width)
    keys_DT = keys.flatten(0, 1)[:, :end].transpose(1, 2)
    scale = width**-0.5
    if mask_R1T is None:
        scores = torch.baddbmm(grouped.new_empty(1), grouped, keys_DT, beta=0, alpha=scale)
    else:
        mask = mask_R1T.repeat_interleave(kv_heads, dim=0)
        scores = torch.baddbmm(mask, grouped, keys_DT, alpha=scale)
    attended = torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1)[:, :end])
    return attended.view(rows, -1, width)


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(
        hidden, float("-inf")
    )


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _capacity(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK
