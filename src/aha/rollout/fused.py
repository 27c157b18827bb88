"""A decoder for Llama-like blocks (Qwen2, Qwen3, Llama, Mistral), on the policy's own weights.

Per token it does the block's arithmetic and nothing else: no module calls, no cache objects,
no masks where all rows are equally long. Whatever it does not know (sliding windows, scaled
rotary embeddings, adapters on a projection) is refused by `supports`, and `HFDecoder` serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

_MODEL_TYPES = ("qwen2", "qwen3", "llama", "mistral")
_CACHE_BLOCK = 64  # the cache grows by this many positions at a time


def supports(model: PreTrainedModel) -> bool:
    """Whether `FusedDecoder` computes this model's forward."""
    config: Any = model.config
    if getattr(config, "model_type", None) not in _MODEL_TYPES:
        return False
    if getattr(config, "hidden_act", None) != "silu":
        return False
    if getattr(config, "use_sliding_window", False):
        return False
    if config.model_type == "mistral" and getattr(config, "sliding_window", None) is not None:
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        return False
    return all(
        type(getattr(part, name)) is torch.nn.Linear
        for layer in model.model.layers
        for part, names in (
            (layer.self_attn, ("q_proj", "k_proj", "v_proj", "o_proj")),
            (layer.mlp, ("gate_proj", "up_proj", "down_proj")),
        )
        for name in names
    )


class FusedDecoder:
    """Rows side by side in one preallocated cache of shape (layers, 2, R, KV heads, T, D)."""

    def __init__(self, model: PreTrainedModel) -> None:
        config: Any = model.config
        self._model: Any = model
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._eps: float = config.rms_norm_eps
        self._length_R = torch.empty(0, dtype=torch.long)
        self._cache = torch.empty(0)

    def prefill(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        device = self._model.device
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        ids_PT = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_PT[row, : len(prompt)] = torch.tensor(prompt)
        position_T = torch.arange(width, device=device)
        hidden_PTC, keys_values = self._prompt_forward(ids_PT.to(device), position_T)
        self._length_R = torch.tensor(lengths, device=device).repeat_interleave(repeats)
        self._cache = self._new_cache(len(prompts) * repeats, width)
        for layer, (key, value) in enumerate(keys_values):
            self._cache[layer, 0, :, :, :width] = key.repeat_interleave(repeats, dim=0)
            self._cache[layer, 1, :, :, :width] = value.repeat_interleave(repeats, dim=0)
        last_P = torch.tensor(lengths, device=device) - 1
        hidden_PC = hidden_PTC[torch.arange(len(prompts), device=device), last_P]
        return self._logits(hidden_PC).repeat_interleave(repeats, dim=0)

    def step(self, tokens_R: Tensor) -> Tensor:
        longest = int(self._length_R.max()) + 1
        self._grow(longest)
        rows = torch.arange(len(tokens_R), device=tokens_R.device)
        cos_RD, sin_RD = self._rotary(self._length_R[None])
        mask_R1T = self._mask(longest)
        hidden_RC = self._model.model.embed_tokens(tokens_R)
        for index, layer in enumerate(self._model.model.layers):
            query, key, value = self._project(layer, hidden_RC[:, None], cos_RD[0], sin_RD[0])
            self._cache[index, 0, rows, :, self._length_R] = key[:, :, 0]
            self._cache[index, 1, rows, :, self._length_R] = value[:, :, 0]
            attended_RC = self._attend_one(index, query, mask_R1T, longest)
            hidden_RC = hidden_RC + layer.self_attn.o_proj(attended_RC)
            hidden_RC = hidden_RC + self._mlp(layer, hidden_RC)
        self._length_R = self._length_R + 1
        return self._logits(hidden_RC)

    def keep(self, rows_K: Tensor) -> None:
        self._length_R = self._length_R[rows_K]
        longest = int(self._length_R.max())
        kept = self._cache[:, :, rows_K, :, :longest]
        self._cache = self._new_cache(len(rows_K), longest)
        self._cache[:, :, :, :, :longest] = kept

    def _new_cache(self, rows: int, length: int) -> Tensor:
        capacity = (length // _CACHE_BLOCK + 1) * _CACHE_BLOCK
        layers = len(self._model.model.layers)
        weight = self._model.model.embed_tokens.weight
        return weight.new_zeros(layers, 2, rows, self._kv_heads, capacity, self._head_dim)

    def _grow(self, length: int) -> None:
        if length > self._cache.shape[4]:
            old = self._cache
            self._cache = self._new_cache(old.shape[2], length)
            self._cache[:, :, :, :, : old.shape[4]] = old

    def _mask(self, longest: int) -> Tensor | None:
        """Additive mask (R, 1, T) over cached positions; None when every row is full."""
        if bool((self._length_R == longest - 1).all()):
            return None
        position_T = torch.arange(longest, device=self._length_R.device)
        hidden_RT = position_T[None] > self._length_R[:, None]
        mask_RT = torch.zeros(hidden_RT.shape, device=hidden_RT.device, dtype=self._cache.dtype)
        return mask_RT.masked_fill(hidden_RT, float("-inf"))[:, None]

    def _prompt_forward(self, ids_PT: Tensor, position_T: Tensor) -> tuple[Tensor, list[Any]]:
        """Hidden states and every layer's keys and values, right-padded rows, causal."""
        cos_TD, sin_TD = self._rotary(position_T[None])
        hidden_PTC = self._model.model.embed_tokens(ids_PT)
        keys_values = []
        for layer in self._model.model.layers:
            query, key, value = self._project(layer, hidden_PTC, cos_TD, sin_TD)
            keys_values.append((key, value))
            attended = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=True
            )
            hidden_PTC = hidden_PTC + layer.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
            hidden_PTC = hidden_PTC + self._mlp(layer, hidden_PTC)
        return hidden_PTC, keys_values

    def _project(
        self, layer: Any, hidden_RTC: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (R, heads, T, D), rotated keys and values (R, KV heads, T, D)."""
        attention = layer.self_attn
        normed = self._norm(layer.input_layernorm, hidden_RTC)
        shape = (*hidden_RTC.shape[:2], -1, self._head_dim)
        query = attention.q_proj(normed).view(shape)
        key = attention.k_proj(normed).view(shape)
        value = attention.v_proj(normed).view(shape).transpose(1, 2)
        if hasattr(attention, "q_norm"):
            query, key = self._norm(attention.q_norm, query), self._norm(attention.k_norm, key)
        cos, sin = cos.view(-1, *shape[1:2], 1, shape[3]), sin.view(-1, *shape[1:2], 1, shape[3])
        query = query * cos + _rotate_half(query) * sin
        key = key * cos + _rotate_half(key) * sin
        return query.transpose(1, 2), key.transpose(1, 2), value

    def _attend_one(
        self, index: int, query: Tensor, mask_R1T: Tensor | None, longest: int
    ) -> Tensor:
        """Attention of one new position a row over its cache: (R, heads * D)."""
        rows = query.shape[0]
        key = self._cache[index, 0].flatten(0, 1)[:, :longest]
        value = self._cache[index, 1].flatten(0, 1)[:, :longest]
        grouped = query.reshape(rows * self._kv_heads, -1, self._head_dim)
        scores = torch.bmm(grouped, key.transpose(1, 2)) * self._head_dim**-0.5
        if mask_R1T is not None:
            scores = (scores.view(rows, -1, longest) + mask_R1T).view_as(scores)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        return torch.bmm(weights, value).view(rows, -1)

    def _mlp(self, layer: Any, hidden: Tensor) -> Tensor:
        normed = self._norm(layer.post_attention_layernorm, hidden)
        gated = functional.silu(layer.mlp.gate_proj(normed)) * layer.mlp.up_proj(normed)
        return layer.mlp.down_proj(gated)

    def _logits(self, hidden_RC: Tensor) -> Tensor:
        return self._model.lm_head(self._norm(self._model.model.norm, hidden_RC))

    def _norm(self, module: Any, hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden, (hidden.shape[-1],), module.weight, self._eps)

    def _rotary(self, position: Tensor) -> tuple[Tensor, Tensor]:
        return self._model.model.rotary_emb(self._model.model.embed_tokens.weight, position)


def _rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)
