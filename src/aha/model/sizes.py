"""A model's sizes from its configuration alone: widths, parameters, adapters, kept activations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from aha.model.kernels.decode import Widths
from aha.model.llama import supports
from aha.sections import LoraSection

# Bytes a weight: 4 bits and a scale of 8 bits for every 64, themselves scaled (arXiv:2305.14314);
# 8 bits, the scales of rows left out.
_QUANTIZED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}


@dataclass(frozen=True)
class Linear:
    """`count` linear layers of one name in a model's blocks."""

    name: str
    count: int
    inputs: int
    outputs: int
    bias: bool

    @property
    def weights(self) -> int:
        return self.count * self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        return self.weights + (self.count * self.outputs if self.bias else 0)


@dataclass(frozen=True)
class Counts:
    """A model's parameters, tied ones once; `linears` without the head; `fused` blocks run it.

    `largest`: values of the largest parameter.
    """

    parameters: int
    largest: int
    linears: tuple[Linear, ...]
    fused: bool


@dataclass(frozen=True)
class Shape:
    """A model without its weights.

    `saved_item`: bytes of a weight in its files, none where the configuration does not say.
    `known_from`: where the configuration was found. `positions`: tokens of the longest text.
    """

    name: str
    widths: Widths
    counts: Counts
    saved_item: int | None
    known_from: str
    positions: int | None


def counts_of(config: Any, trust_remote_code: bool = False) -> Counts:
    """Count parameters on torch's meta device: no weights are read or made."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    layers = Counter(
        (path.rpartition(".")[2], x.in_features, x.out_features, x.bias is not None)
        for path, x in model.named_modules()
        if isinstance(x, nn.Linear) and x is not head
    )
    sizes = [parameter.numel() for parameter in model.parameters()]
    return Counts(
        parameters=sum(sizes),
        largest=max(sizes),
        linears=tuple(Linear(n, count, i, o, b) for (n, i, o, b), count in layers.items()),
        fused=supports(model),
    )


def weights_bytes(counts: Counts, item: int, quantization: str = "none") -> int:
    """Bytes of all weights at `item` bytes each; the blocks' linear layers may be quantised."""
    if quantization == "none":
        return counts.parameters * item
    quantized = sum(layer.weights for layer in counts.linears)
    return int((counts.parameters - quantized) * item + quantized * _QUANTIZED_BYTES[quantization])


def adapted_layers(counts: Counts, lora: LoraSection | None) -> tuple[Linear, ...]:
    """The linear layers that get adapters."""
    if lora is None:
        return ()
    names = lora.target_modules
    return tuple(x for x in counts.linears if names == "all-linear" or x.name in names)


def adapter_parameters(counts: Counts, lora: LoraSection | None) -> int:
    """r (inputs + outputs) for every adapted layer (arXiv:2106.09685, section 4.1)."""
    rank = 0 if lora is None else lora.r
    return sum(x.count * rank * (x.inputs + x.outputs) for x in adapted_layers(counts, lora))


@dataclass(frozen=True)
class Pass:
    """The settings of a forward pass that decide what it keeps.

    `fused`: through the fused blocks, not autograd's own operations. `recompute`: gradient
    checkpointing. `item` and `product_item`: bytes of a value of the residual stream, and of the
    large products (fewer under autocast). `adapter_casts`: adapters in float32 beside weights in
    another type, each with a copy of its input.
    """

    fused: bool
    recompute: bool
    item: int = 4
    product_item: int = 4
    adapter_casts: bool = False


def kept_per_token(widths: Widths, how: Pass) -> int:
    """Bytes that the forward pass keeps for the backward pass, for one token of a microbatch.

    All blocks' tensors; with `recompute` only their inputs, and one block whole while it is run
    again. A block keeps its input and the stream between its halves; both norms' outputs;
    queries, keys and values as projected, queries and keys as rotated, and what attention
    returns; gate and up as one, and their product.
    """
    w, stream = widths, widths.hidden * how.item
    queries, keys = w.heads * w.head_dim, w.kv_heads * w.head_dim
    products = 2 * w.hidden + (queries + 2 * keys) + (queries + keys) + queries + 3 * w.inner
    block = 2 * stream + how.product_item * products
    if not how.fused:
        block *= 2  # autograd keeps the inside of norms, rotations and gates as well
    if how.adapter_casts:
        block += 4 * (5 * w.hidden + queries + w.inner)
    blocks = w.layers * stream + block if how.recompute else w.layers * block
    # 4: the embedding, the last norm's input and output, and its gradient.
    return blocks + 4 * stream + logits_per_token(widths, how)


def logits_per_token(widths: Widths, how: Pass) -> int:
    """The logits' share of `kept_per_token`: four times in float32, unless the head is chunked."""
    return 0 if how.fused else 4 * 4 * widths.vocabulary
