"""A decoder feeds a model one token a row and remembers the rest: the KV cache behind a rollout.

`HFDecoder` works for every Hugging Face causal LM through the model's own forward.
Llama-like models have faster ones: `aha.rollout.cpu`, and `aha.rollout.static` for GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, DynamicLayer, PreTrainedModel

from aha.kernels.decode import Drawn


class Decoder(Protocol):
    """The rows in the making; a row is one completion, and new ones may join the others.

    Ended rows are dropped once they are `leave_share` of all, which is looked at every `stride`
    tokens; until then they write on.
    """

    leave_share: float
    stride: int
    burst_tokens: int = 0  # tokens of a burst; 0 where the decoder has none

    @property
    def can_join(self) -> bool:
        """Whether `add` may be called while rows are live."""
        ...

    def add(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        """Read each prompt once and append `repeats` rows of it; logits (P * repeats, V)."""
        ...

    def step(self, tokens_R: Tensor) -> Tensor:
        """Append one token to every row; logits (R, V) for the next."""
        ...

    def burst(
        self,
        tokens_R: Tensor,
        uniforms_RS: Tensor,
        limit_R: Tensor,
        end_ids: Tensor,
        temperature: float,
    ) -> Drawn:
        """Append each row's token and draw up to S more, as many `step`s and draws would.

        A row stops at an end token or after `limit_R` tokens; the last one drawn is not appended.
        """
        raise TypeError(f"{type(self).__name__} has no bursts")

    def keep(self, rows_K: Tensor) -> None:
        """Drop all rows but these, given in ascending order; they are renumbered from 0."""
        ...


class HFDecoder(Decoder):
    """Any causal LM: its forward, its cache class, left-padded prompts.

    Rows join live ones where every layer's cache is plain keys and values; models with sliding
    windows or recurrent states finish one batch of rows before they begin the next.
    """

    leave_share = 0.125  # leaving copies the cache
    stride = 1

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache: Any = None
        self._mask_RT = torch.empty(0)
        self._next_position_R = torch.empty(0)

    @property
    def can_join(self) -> bool:
        return self._cache is None or all(type(x) is DynamicLayer for x in self._cache.layers)

    def add(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
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
            past_key_values=DynamicCache(config=self._model.config),
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        cache.batch_repeat_interleave(repeats)
        next_position_R = (position_PT[:, -1] + 1).repeat_interleave(repeats)
        self._join(cache, mask_PT.repeat_interleave(repeats, dim=0), next_position_R)
        return output.logits[:, -1].repeat_interleave(repeats, dim=0)

    def step(self, tokens_R: Tensor) -> Tensor:
        self._mask_RT = functional.pad(self._mask_RT, (0, 1), value=1)
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
        if not len(rows_K):
            self._cache = None
            return
        self._cache.batch_select_indices(rows_K)
        self._mask_RT = self._mask_RT[rows_K]
        self._next_position_R = self._next_position_R[rows_K]

    def _join(self, cache: Any, mask_RT: Tensor, next_position_R: Tensor) -> None:
        """Append rows, both sides padded on the left to one length."""
        if self._cache is None:
            self._cache, self._mask_RT = cache, mask_RT
            self._next_position_R = next_position_R
            return
        old, new = self._mask_RT.shape[1], mask_RT.shape[1]
        width = max(old, new)
        for mine, theirs in zip(self._cache.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                joined = (
                    functional.pad(getattr(mine, name), (0, 0, width - old, 0)),
                    functional.pad(getattr(theirs, name), (0, 0, width - new, 0)),
                )
                setattr(mine, name, torch.cat(joined))
        self._mask_RT = torch.cat(
            (
                functional.pad(self._mask_RT, (width - old, 0)),
                functional.pad(mask_RT, (width - new, 0)),
            )
        )
        self._next_position_R = torch.cat((self._next_position_R, next_position_R))


def prompt_mask(padding_P: Tensor, width: int) -> Tensor:
    """Which columns a prompt's positions see, (P, 1, T, T): itself and earlier tokens.

    Prompts are padded on the left; padding sees itself, so that no softmax is empty.
    """
    position_T = torch.arange(width, device=padding_P.device)
    causal_TT = position_T[None] <= position_T[:, None]
    real_PT = position_T[None] >= padding_P[:, None]
    itself_TT = torch.eye(width, dtype=torch.bool, device=padding_P.device)
    return ((causal_TT & real_PT[:, None]) | itself_TT)[:, None]
