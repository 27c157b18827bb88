"""Llama-like blocks (Llama, Qwen2, Qwen3, Mistral) run without module calls, masks or caches.

Rollouts and training call the same functions on the same weights, so the sampler draws from the
distribution that the trainer computes. `supports` is false for models with anything else (sliding
windows, other activations, rotary embeddings that depend on the length). Those run through their
own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from aha.model.kernels import calls
from aha.model.kernels.decode import DecodedModel, Widths
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
            rows = slice(row, row + layer.out_features)
            for mine, whole in ((layer.weight, self.weight), (layer.bias, self.bias)):
                if whole is not None:
                    mine.grad = None if whole.grad is None else whole.grad[rows]
            row = rows.stop

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
    if len({(layer.weight.requires_grad, layer.bias is None) for layer in layers}) > 1:
        return None
    joined = []
    for name in ("weight", "bias") if layers[0].bias is not None else ("weight",):
        parts = [getattr(layer, name) for layer in layers]
        whole = torch.cat([part.detach() for part in parts])
        for part, view in zip(parts, whole.split([len(part) for part in parts]), strict=True):
            part.data = view
        joined.append(whole.requires_grad_(layers[0].weight.requires_grad))
    return Stack(tuple(layers), joined[0], joined[1] if len(joined) > 1 else None)


def blocks_of(model: PreTrainedModel) -> LlamaBlocks | None:
    """The model's fused blocks; None if they do not compute its forward."""
    return LlamaBlocks(model) if supports(model) else None


class LlamaBlocks:
    """The model's embedding, blocks, last norm and head, as functions of tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        config: Any = model.config
        self._base: Any = model.get_decoder()
        widths = Widths.of(config)
        self.heads, self.kv_heads, self.head_dim = widths.heads, widths.kv_heads, widths.head_dim
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
        head, layers = self.head, []
        plain = type(head) is nn.Linear and head.bias is None
        narrow = self.head_dim % calls.HEAD_MULTIPLE != 0
        if narrow or not (plain and calls.usable(self.embedding, head.weight)):
            return None
        for layer, qkv, gate_up in zip(self.layers, self._qkv, self._gate_up, strict=True):
            attention, down = layer.self_attn, layer.mlp.down_proj
            plain = type(attention.o_proj) is nn.Linear and type(down) is nn.Linear
            if qkv is None or gate_up is None or not plain:
                return None
            if down.bias is not None or gate_up.bias is not None:
                return None
            normed = hasattr(attention, "q_norm")
            layers.append(
                [
                    layer.input_layernorm.weight,
                    qkv.weight,
                    qkv.bias,
                    attention.o_proj.weight,
                    attention.o_proj.bias,
                    attention.q_norm.weight if normed else None,
                    attention.k_norm.weight if normed else None,
                    layer.post_attention_layernorm.weight,
                    gate_up.weight,
                    down.weight,
                ]
            )
        # The head's rows: a checkpoint's vocabulary may be padded.
        widths = replace(Widths.of(self._base.config), vocabulary=len(head.weight))
        norm = self._base.norm.weight
        return DecodedModel(
            widths, layers, self.embedding, norm, head.weight, cos_TD, sin_TD, self._eps
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
        layer = self.layers[index]
        normed_MC = rms_norm(hidden_MC, layer.input_layernorm.weight, self._eps)
        attended = attend(index, *self._project(index, normed_MC, cos, sin)).flatten(1)
        hidden_MC = _add_linear(hidden_MC, attended, layer.self_attn.o_proj)
        normed_MC = rms_norm(hidden_MC, layer.post_attention_layernorm.weight, self._eps)
        gate_up = _together(self._gate_up[index], layer.mlp, _GATES, normed_MC)
        return _add_linear(hidden_MC, swiglu(gate_up), layer.mlp.down_proj)

    def _project(
        self, index: int, normed_MC: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (M, heads, D), rotated keys and values (M, KV heads, D)."""
        attention = self.layers[index].self_attn
        flat = _together(self._qkv[index], attention, _PROJECTIONS, normed_MC)
        together = flat.view(len(flat), -1, self.head_dim)
        turned, value = together.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        if hasattr(attention, "q_norm"):
            query, key = turned.split((self.heads, self.kv_heads), dim=1)
            query = rms_norm(query.contiguous(), attention.q_norm.weight, self._eps)
            key = rms_norm(key.contiguous(), attention.k_norm.weight, self._eps)
            turned = torch.cat((query, key), dim=1)
        query, key = rotate(turned, cos, sin).split((self.heads, self.kv_heads), dim=1)
        return query, key, value


def _together(stacked: Stack | None, owner: Any, names: Sequence[str], x: Tensor) -> Tensor:
    """The products of several layers side by side; one product if they are stacked."""
    if stacked is not None:
        return stacked(x)
    return torch.cat([getattr(owner, name)(x) for name in names], dim=-1)


def _add_linear(residual_MC: Tensor, x: Tensor, layer: Any) -> Tensor:
    """residual + layer(x), as one product if the layer is plain and nothing is cast."""
    if type(layer) is not nn.Linear:
        return residual_MC + layer(x)
    same = residual_MC.dtype == x.dtype == layer.weight.dtype
    if not torch.is_grad_enabled() or not same or torch.is_autocast_enabled(x.device.type):
        return residual_MC + functional.linear(x, layer.weight, layer.bias)
    total = torch.addmm(residual_MC, x, layer.weight.t())
    return total if layer.bias is None else total.add_(layer.bias)
