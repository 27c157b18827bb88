"""A decoder for every Hugging Face causal language model, through the model's own forward.

Llama-like models have faster ones: `aha.rollout.cpu`, and `aha.rollout.cuda` for GPUs.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, DynamicLayer, PreTrainedModel

from aha.model.free_memory import is_out_of_memory
from aha.model.ops import casting
from aha.rollout.base import Decoder, padded_left
from aha.types import UserError


class HFDecoder(Decoder):
    """Any causal language model: its own forward and cache, prompts padded on the left.

    Models with sliding windows finish one batch of rows before they start the next. Padding would
    enter a recurrent state, so models with one read only prompts of equal length together.
    """

    leave_share = 0.125  # dropping rows copies the cache
    stride = 1

    def __init__(self, model: PreTrainedModel, autocast: torch.dtype | None = None) -> None:
        """`autocast` is the type of products, as in training; by default the weights' type."""
        self._model = model
        self._autocast = autocast
        self._cache: Any = None
        self._mask_RT = torch.empty(0)
        self._next_position_R = torch.empty(0)
        self._keyword = _cache_keyword(model) or ""
        layers = DynamicCache(config=model.config).layers
        self._recurrent = any(_is_recurrent(layer) for layer in layers)
        # Without attention nothing is padded, and some such models use a mask wrongly.
        self._masked = not self._recurrent or any(hasattr(layer, "keys") for layer in layers)

    @property
    def can_join(self) -> bool:
        return self._cache is None or all(
            type(layer) is DynamicLayer or _is_recurrent(layer) for layer in self._cache.layers
        )

    def add(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        if not self._recurrent:
            return self._read(prompts, repeats)
        together = itertools.groupby(prompts, key=len)
        return torch.cat([self._read(list(group), repeats) for _, group in together])

    def _read(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        device = self._model.device
        ids_PT = padded_left(prompts)
        mask_PT = padded_left([[1] * len(prompt) for prompt in prompts]).to(device)
        position_PT = (mask_PT.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.config)
        logits_PTV = self._forward(ids_PT.to(device), mask_PT, position_PT, cache)
        row_R = torch.arange(len(prompts), device=device).repeat_interleave(repeats)
        # Every kind of cache layer has this method, but not `batch_repeat_interleave`.
        cache.reorder_cache(row_R)
        self._join(cache, mask_PT[row_R], position_PT[row_R, -1] + 1)
        return logits_PTV[row_R, -1]

    def step(self, tokens_R: Tensor) -> Tensor:
        self._mask_RT = functional.pad(self._mask_RT, (0, 1), value=1)
        position_R1 = self._next_position_R[:, None]
        ids_R1 = tokens_R[:, None].to(self._model.device)
        logits_R1V = self._forward(ids_R1, self._mask_RT, position_R1, self._cache)
        self._next_position_R = self._next_position_R + 1
        return logits_R1V[:, -1]

    def keep(self, rows_K: Tensor) -> None:
        if not len(rows_K):
            self._cache = None
            return
        rows_K = rows_K.to(self._model.device)
        self._cache.reorder_cache(rows_K)
        self._mask_RT = self._mask_RT[rows_K]
        self._next_position_R = self._next_position_R[rows_K]

    def _forward(self, ids_RT: Tensor, mask_RT: Tensor, position_RT: Tensor, cache: Any) -> Tensor:
        """Logits (R, 1, V) after the last token. The tokens are added to `cache`."""
        with casting(ids_RT.device, self._autocast):
            output = self._model(
                input_ids=ids_RT,
                attention_mask=mask_RT if self._masked else None,
                position_ids=position_RT,
                use_cache=True,
                logits_to_keep=1,
                **{self._keyword: cache},
            )
        logits: Tensor = output.logits
        return logits

    def _join(self, cache: Any, mask_RT: Tensor, next_position_R: Tensor) -> None:
        """Append rows. Both sides are padded on the left to one length."""
        if self._cache is None:
            self._cache, self._mask_RT = cache, mask_RT
            self._next_position_R = next_position_R
            return
        old, new = self._mask_RT.shape[1], mask_RT.shape[1]
        width = max(old, new)
        for mine, theirs in zip(self._cache.layers, cache.layers, strict=True):
            if getattr(mine, "keys", None) is not None:
                for name in ("keys", "values"):
                    before = functional.pad(getattr(mine, name), (0, 0, width - old, 0))
                    after = functional.pad(getattr(theirs, name), (0, 0, width - new, 0))
                    setattr(mine, name, torch.cat((before, after)))
            if _is_recurrent(mine):
                for name in ("conv_states", "recurrent_states"):
                    setattr(mine, name, _cat_states(getattr(mine, name), getattr(theirs, name)))
        before = functional.pad(self._mask_RT, (width - old, 0))
        self._mask_RT = torch.cat((before, functional.pad(mask_RT, (width - new, 0))))
        self._next_position_R = torch.cat((self._next_position_R, next_position_R))


def refuse_unfit(model: PreTrainedModel) -> None:
    """Check that `HFDecoder` decodes a recurrent model as it is trained, on a few tokens.

    Plain attention needs no such trial. Errors: UserError.
    """
    layers = DynamicCache(config=model.config).layers
    if not model._is_stateful and not any(_is_recurrent(layer) for layer in layers):
        return
    if _cache_keyword(model) is None:
        why = "its forward takes no cache"
    elif any(getattr(layer, "is_sliding", False) for layer in layers):
        why = "its sliding windows stand beside recurrent states"
    else:
        why = _difference(model)
    if why:
        raise UserError(
            f"model.name: a model of type {model.config.model_type!r} cannot write completions "
            f"here: {why}; allowed are models whose recurrent states transformers' DynamicCache "
            "holds, such as qwen3_next, granitemoehybrid, falcon_h1 or mamba."
        )


@torch.no_grad()
def _difference(model: PreTrainedModel) -> str:
    """The difference between decoding and a plain forward, in words; empty if it is rounding."""
    decoder, ids = HFDecoder(model), list(range(16))
    try:
        # Rows of two lengths join, the first one leaves, and the second one is compared.
        written = [decoder.add([ids[:3], ids[:5]], 1)[1]]
        decoder.keep(torch.tensor([1], device=model.device))
        for token in ids[5:]:
            written.append(decoder.step(torch.tensor([token], device=model.device))[0])
    except (AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
    ids_1T = torch.tensor([ids], device=model.device)
    plain_TV = model(input_ids=ids_1T, use_cache=False).logits[0, 4:].float().log_softmax(dim=-1)
    apart = (torch.stack(written).float().log_softmax(dim=-1) - plain_TV).abs().mean().item()
    return f"its log-probabilities are {apart:.2g} apart from training's" if apart > 0.1 else ""


def _cache_keyword(model: PreTrainedModel) -> str | None:
    """The name of the cache argument in the model's forward. Transformers has used three."""
    taken = inspect.signature(model.forward).parameters
    names = ("cache", "past_key_values", "cache_params")
    return next((name for name in names if name in taken), None)


def _is_recurrent(layer: Any) -> bool:
    return hasattr(layer, "recurrent_states")


def _cat_states(mine: Any, theirs: Any) -> Any:
    """The recurrent states of both sides' rows: a tensor, a dictionary of tensors, or None."""
    if isinstance(mine, dict):
        return {key: _cat_states(state, theirs[key]) for key, state in mine.items()}
    return None if mine is None else torch.cat((mine, theirs))
