"""A decoder feeds a model one token a row and remembers the rest: the KV cache behind a rollout.

`HFDecoder` works for every Hugging Face causal LM through the model's own forward.
`aha.rollout.fused` has a faster one for Llama-like models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class Decoder(Protocol):
    """One rollout's state; a row is one completion in the making."""

    def prefill(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        """Read each prompt once, then hold `repeats` rows of it; logits (P * repeats, V)."""
        ...

    def step(self, tokens_R: Tensor) -> Tensor:
        """Append one token to every row; logits (R, V) for the next."""
        ...

    def keep(self, rows_K: Tensor) -> None:
        """Drop all rows but these; they are renumbered in the given order."""
        ...


class HFDecoder:
    """Any causal LM: its forward, its cache class, left-padded prompts."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache: Any = DynamicCache(config=model.config)
        self._mask_RT = torch.empty(0)
        self._next_position_R = torch.empty(0)

    def prefill(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        device = self._model.device
        width = max(len(prompt) for prompt in prompts)
        ids_PT = torch.zeros(len(prompts), width, dtype=torch.long)
        mask_PT = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_PT[row, width - len(prompt) :] = torch.tensor(prompt)
            mask_PT[row, width - len(prompt) :] = 1
        mask_PT = mask_PT.to(device)
        position_PT = (mask_PT.cumsum(dim=1) - 1).clamp(min=0)
        output = self._model(
            input_ids=ids_PT.to(device),
            attention_mask=mask_PT,
            position_ids=position_PT,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        self._cache.batch_repeat_interleave(repeats)
        self._mask_RT = mask_PT.repeat_interleave(repeats, dim=0)
        self._next_position_R = (position_PT[:, -1] + 1).repeat_interleave(repeats)
        return output.logits[:, -1].repeat_interleave(repeats, dim=0)

    def step(self, tokens_R: Tensor) -> Tensor:
        self._mask_RT = torch.nn.functional.pad(self._mask_RT, (0, 1), value=1)
        output = self._model(
            input_ids=tokens_R[:, None],
            attention_mask=self._mask_RT,
            position_ids=self._next_position_R[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next_position_R = self._next_position_R + 1
        return output.logits[:, -1]

    def keep(self, rows_K: Tensor) -> None:
        self._cache.batch_select_indices(rows_K)
        self._mask_RT = self._mask_RT[rows_K]
        self._next_position_R = self._next_position_R[rows_K]
