"""Llama-like blocks (Llama, Qwen2, Qwen3, Mistral) run without module calls, masks or caches.

Rollouts and training call the same functions on the same weights, so the sampler draws from the
distribution that the trainer computes. `supports` is false for models with anything else (sliding
windows, other activations, rotary embeddings that depend on the length). Those run through their
own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from aha.model.kernels import calls
from aha.model.kernels.decode import DecodedModel, Layer, Sizes
from aha.model.ops import linear_float32, rms_norm, rotate, swiglu

_MODEL_TYPES = ("qwen2", "qwen3", "llama", "mistral")
# Rotary embeddings whose angles do not depend on the length of the text.
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_GATES = ("gate_proj", "up_proj")

# (layer, query (M, heads, D), key and value (M, KV heads, D)) -> attended (M, heads, D)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def supports(model: PreTrainedModel) -> bool:
    """True if `LlamaBlocks` computes this model's forward."""
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
    return rope.get("rope_type", "default") in _ROPE_TYPES


@dataclass(frozen=True)
class Stack:
    """Several linear layers with the same input, computed as one product.

    The layers' own parameters are views of `weight` and `bias`, so there is one copy in memory
    and an optimizer step is seen at once. Gradients gather in `weight.grad`; `share_gradients`
    shows them to the layers.
    """

    layers: tuple[nn.Linear, ...]
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def share_gradients(self) -> None:
        """Make each layer's gradient a view of the stack's gradient, or None if it has none."""
        row = 0
        for layer in self.layers:
            end = row + layer.out_features
            layer.weight.grad = None if self.weight.grad is None else self.weight.grad[row:end]
            if self.bias is not None:
                layer.bias.grad = None if self.bias.grad is None else self.bias.grad[row:end]
            row = end

    def clear_gradients(self) -> None:
        self.weight.grad = None
        if self.bias is not None:
            self.bias.grad = None


def stack(layers: Sequence[Any]) -> Stack | None:
    """The layers as a stack, with their parameters moved into it; None if one is not plain.

    Plain: an `nn.Linear` and nothing else (an adapter or a quantised layer is not).
    """
    if any(type(layer) is not nn.Linear for layer in layers):
        return None
    if len({layer.weight.requires_grad for layer in layers}) > 1:
        return None
    if len({layer.bias is None for layer in layers}) > 1:
        return None
    weight = torch.cat([layer.weight.detach() for layer in layers])
    bias = None
    if layers[0].bias is not None:
        bias = torch.cat([layer.bias.detach() for layer in layers])
    row = 0
    for layer in layers:
        end = row + layer.out_features
        layer.weight.data = weight[row:end]
        if bias is not None:
            layer.bias.data = bias[row:end]
        row = end
    trainable = layers[0].weight.requires_grad
    if bias is not None:
        bias.requires_grad_(trainable)
    return Stack(tuple(layers), weight.requires_grad_(trainable), bias)


def blocks_of(model: PreTrainedModel) -> LlamaBlocks | None:
    """The model's fused blocks; None if they do not compute its forward."""
    return LlamaBlocks(model) if supports(model) else None


class LlamaBlocks:
    """The model's embedding, blocks, last norm and head, as functions of tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        config: Any = model.config
        self._base: Any = model.get_decoder()
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self._eps: float = config.rms_norm_eps
        self.embedding: Tensor = self._base.embed_tokens.weight
        self.head: nn.Linear = model.get_output_embeddings()
        self.layers: list[Any] = list(self._base.layers)
        with torch.no_grad():
            self._qkv = [
                stack([getattr(x.self_attn, n) for n in _PROJECTIONS]) for x in self.layers
            ]
            self._gate_up = [stack([getattr(x.mlp, n) for n in _GATES]) for x in self.layers]

    @property
    def stacks(self) -> list[Stack]:
        return [s for s in (*self._qkv, *self._gate_up) if s is not None]

    def decoded(self, cos_TD: Tensor, sin_TD: Tensor) -> DecodedModel | None:
        """The model for the C kernels, with the angles of `angles`; None if they cannot run it.

        They compute float32 on a CPU, plain linear layers, head widths of a multiple of 16.
        """
        config: Any = self._base.config
        plain = type(self.head) is nn.Linear and self.head.bias is None
        narrow = self.head_dim % calls.HEAD_MULTIPLE != 0
        if narrow or not (plain and calls.usable(self.embedding, self.head.weight)):
            return None
        layers = [self._weights(index) for index in range(len(self.layers))]
        if any(layer is None for layer in layers):
            return None
        sizes = Sizes(
            len(self.layers), config.hidden_size, self.heads, self.kv_heads, self.head_dim,
            config.intermediate_size, self.head.weight.shape[0],
        )  # fmt: skip
        return DecodedModel(
            sizes, [x for x in layers if x], self.embedding, self._base.norm.weight,
            self.head.weight, cos_TD, sin_TD, self._eps,
        )  # fmt: skip

    def _weights(self, index: int) -> Layer | None:
        """One block's weights; None if a projection is not plain or the gated unit has biases."""
        layer, qkv, gate_up = self.layers[index], self._qkv[index], self._gate_up[index]
        attention, down = layer.self_attn, layer.mlp.down_proj
        plain = type(attention.o_proj) is nn.Linear and type(down) is nn.Linear
        if qkv is None or gate_up is None or not plain:
            return None
        if down.bias is not None or gate_up.bias is not None:
            return None
        return Layer(
            norm1=layer.input_layernorm.weight,
            qkv=qkv.weight,
            qkv_bias=qkv.bias,
            out=attention.o_proj.weight,
            out_bias=attention.o_proj.bias,
            q_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
            k_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
            norm2=layer.post_attention_layernorm.weight,
            gate_up=gate_up.weight,
            down=down.weight,
        )

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of positions 0..length-1, both (length, 1, D)."""
        position_1T = torch.arange(length, device=self.embedding.device)[None]
        cos_1TD, sin_1TD = self._base.rotary_emb(self.embedding, position_1T)
        sin_TD = sin_1TD[0].clone()
        sin_TD[:, : sin_TD.shape[1] // 2].neg_()
        return cos_1TD[0][:, None].contiguous(), sin_TD[:, None].contiguous()

    def run(
        self, hidden_MC: Tensor, cos: Tensor, sin: Tensor, attend: Attend, recompute: bool = False
    ) -> Tensor:
        """Hidden states (M, C) after all blocks, before the last norm; cos and sin (M, 1, D).

        With `recompute` a block keeps only its input and is run again in the backward pass.
        """
        for index in range(len(self.layers)):
            arguments = (index, hidden_MC, cos, sin, attend)
            if recompute:
                hidden_MC = checkpoint(self._block, *arguments, use_reentrant=False)
            else:
                hidden_MC = self._block(*arguments)
        return hidden_MC

    def logits(self, hidden: Tensor) -> Tensor:
        """The head's float32 logits (M, V) of hidden states (M, C), the last norm included."""
        normed = self.last_norm(hidden)
        if type(self.head) is nn.Linear:
            return linear_float32(normed, self.head.weight, self.head.bias)
        return self.head(normed).float()

    def last_norm(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self._base.norm.weight, self._eps)

    def _block(
        self, index: int, hidden_MC: Tensor, cos: Tensor, sin: Tensor, attend: Attend
    ) -> Tensor:
        layer, stacked = self.layers[index], self._gate_up[index]
        normed_MC = rms_norm(hidden_MC, layer.input_layernorm.weight, self._eps)
        attended = attend(index, *self._project(index, normed_MC, cos, sin)).flatten(1)
        hidden_MC = _add_linear(hidden_MC, attended, layer.self_attn.o_proj)
        normed_MC = rms_norm(hidden_MC, layer.post_attention_layernorm.weight, self._eps)
        if stacked is not None:
            gate_up = stacked(normed_MC)
        else:
            gate_up = torch.cat([getattr(layer.mlp, name)(normed_MC) for name in _GATES], dim=-1)
        return _add_linear(hidden_MC, swiglu(gate_up), layer.mlp.down_proj)

    def _project(
        self, index: int, normed_MC: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (M, heads, D), rotated keys and values (M, KV heads, D)."""
        attention, stacked = self.layers[index].self_attn, self._qkv[index]
        if stacked is not None:
            flat = stacked(normed_MC)
        else:
            parts = [getattr(attention, name)(normed_MC) for name in _PROJECTIONS]
            flat = torch.cat(parts, dim=-1)
        together = flat.view(len(flat), -1, self.head_dim)
        turned, value = together.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        if hasattr(attention, "q_norm"):
            query, key = turned.split((self.heads, self.kv_heads), dim=1)
            query = rms_norm(query.contiguous(), attention.q_norm.weight, self._eps)
            key = rms_norm(key.contiguous(), attention.k_norm.weight, self._eps)
            turned = torch.cat((query, key), dim=1)
        query, key = rotate(turned, cos, sin).split((self.heads, self.kv_heads), dim=1)
        return query, key, value


def _add_linear(residual_MC: Tensor, x: Tensor, layer: Any) -> Tensor:
    """residual + layer(x), as one product if the layer is plain and nothing is cast."""
    if type(layer) is not nn.Linear:
        return residual_MC + layer(x)
    same = residual_MC.dtype == x.dtype == layer.weight.dtype
    if not torch.is_grad_enabled() or not same or torch.is_autocast_enabled(x.device.type):
        return residual_MC + functional.linear(x, layer.weight, layer.bias)
    total = torch.addmm(residual_MC, x, layer.weight.t())
    return total if layer.bias is None else total.add_(layer.bias)
