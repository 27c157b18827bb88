"""A model's parameters, what the forward pass keeps of a token, and how many tokens fit at a time.

All of it follows from the configuration, without weights; the trainer, `--dry-run` and `aha doctor`
count by these functions.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from aha.model.llama import supports
from aha.sections import LoraSection

# Beyond this, a CPU's caches hold less than a micro-batch and a step gets slower (docs/log.md).
_MOST_TOKENS = {"cpu": 2048, "cuda": 65_536, "mps": 8192}
_MOST_HIDDEN_VALUES = 2**20
_FEWEST_TOKENS = 256
# The share of free memory that a micro-batch may take; the rest is for what this does not count.
_SHARE = 0.5
# Under `keep_freed_memory`, smaller tensors lie in a heap that never shrinks.
LARGE_TENSOR_BYTES = 2**23
HEAP_STEP_BYTES = 2**26  # by which it grows
# Bytes a weight: 4 bits and a scale of 8 bits for every 64, themselves scaled (arXiv:2305.14314);
# 8 bits, the scales of rows left out.
_QUANTIZED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
_CGROUP = Path("/sys/fs/cgroup")
# glibc's numbers of mallopt's options.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@dataclass(frozen=True)
class Widths:
    """The sizes of a decoder, in elements; what it keeps of a token follows from them."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int

    @staticmethod
    def of(config: Any) -> Widths:
        """From a Hugging Face configuration, with that library's defaults for what it lacks.

        A model without attention counts as one head that is as wide as the stream.
        """
        heads, hidden = getattr(config, "num_attention_heads", None) or 1, config.hidden_size
        return Widths(
            layers=config.num_hidden_layers,
            hidden=hidden,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or hidden // heads,
            inner=getattr(config, "intermediate_size", None) or 4 * hidden,
            vocabulary=config.vocab_size,
        )


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
    """A model's parameters, tied ones once; the head is not among the `linears`.

    `fused` says whether the fused blocks run it.
    """

    parameters: int
    linears: tuple[Linear, ...]
    fused: bool


def counts_of(config: Any, trust_remote_code: bool = False) -> Counts:
    """Counted on torch's meta device: no weights are read or made."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    layers = Counter(
        (path.rpartition(".")[2], x.in_features, x.out_features, x.bias is not None)
        for path, x in model.named_modules()
        if isinstance(x, nn.Linear) and x is not head
    )
    return Counts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        linears=tuple(Linear(n, count, i, o, b) for (n, i, o, b), count in layers.items()),
        fused=supports(model),
    )


def weights_bytes(counts: Counts, item: int, quantization: str = "none") -> int:
    """Of all weights at `item` bytes each, the blocks' linear layers quantised where asked."""
    if quantization == "none":
        return counts.parameters * item
    quantized = sum(layer.weights for layer in counts.linears)
    return int((counts.parameters - quantized) * item + quantized * _QUANTIZED_BYTES[quantization])


def adapted_layers(counts: Counts, lora: LoraSection | None) -> tuple[Linear, ...]:
    """The layers that adapters stand on."""
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
    """How a forward pass runs.

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
    """Bytes that the forward pass keeps for the backward pass, for a token of a micro-batch.

    All blocks' tensors; with `recompute` only their inputs, and one block whole while it is run
    again.
    """
    block, stream = sum(kept_tensors(widths, how)), widths.hidden * how.item
    total = widths.layers * (stream if how.recompute else block) + block * how.recompute
    total += 4 * stream  # the embedding, the last norm's input and output, and its gradient
    return total + logits_per_token(widths, how)


def logits_per_token(widths: Widths, how: Pass) -> int:
    """The logits' share of `kept_per_token`: four times in float32, unless the head is chunked."""
    return 0 if how.fused else 4 * 4 * widths.vocabulary


def kept_tensors(widths: Widths, how: Pass) -> tuple[int, ...]:
    """Bytes a token of each tensor that one block keeps.

    Its input and the stream between its halves; both norms' outputs; queries, keys and values as
    projected, queries and keys as rotated, and what attention returns; gate and up as one, and
    their product.
    """
    w = widths
    queries, keys = w.heads * w.head_dim, w.kv_heads * w.head_dim
    products = (
        w.hidden, w.hidden, queries + 2 * keys, queries + keys, queries, 2 * w.inner, w.inner,
    )  # fmt: skip
    kept = (w.hidden * how.item,) * 2 + tuple(how.product_item * x for x in products)
    if not how.fused:
        kept += kept  # autograd keeps the inside of norms, rotations and gates as well
    if how.adapter_casts:
        kept += (4 * w.hidden,) * 5 + (4 * queries, 4 * w.inner)
    return kept


def token_budget(widths: Widths, per_token: float, free: float, trained: int, device: str) -> int:
    """Tokens of a micro-batch: half of what is `free` once gradients and moments are there.

    `free` and `trained` (the weights with a gradient) are in bytes.
    """
    room = max(0.0, _SHARE * (free - 3 * trained))
    most = _MOST_TOKENS[device]
    if device == "cpu":
        # Products are at full speed with a thousand tokens; more of a wide model only take memory.
        most = min(most, _MOST_HIDDEN_VALUES // widths.hidden)
    return max(_FEWEST_TOKENS, min(int(room / per_token), most))


def tokens_that_fit(
    model: PreTrainedModel, fused: bool, recompute: bool, free_bytes: int | None = None
) -> int:
    """A budget of tokens for a micro-batch, from the model's sizes and the free memory.

    `fused` says whether the fused blocks run the model; without them a micro-batch's logits all
    exist at once.
    """
    free = free_memory(model.device) if free_bytes is None else free_bytes
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    per_token = bytes_per_token(model, fused, recompute)
    return token_budget(Widths.of(model.config), per_token, free, trained, model.device.type)


def bytes_per_token(model: PreTrainedModel, fused: bool, recompute: bool) -> float:
    """`kept_per_token` of a model that is loaded, its products in the type of its weights."""
    item = next(model.parameters()).element_size()
    return float(kept_per_token(Widths.of(model.config), Pass(fused, recompute, item, item)))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on the device."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    available, room = psutil.virtual_memory().available, container_room()
    return int(available if room is None else min(available, room))


def container_limit(root: Path = _CGROUP) -> int | None:
    """Bytes that this container may have, none where there is no such limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        value = _number(root / name)
        # Version 1 writes a number beyond all memory for none.
        if value is not None and value < psutil.virtual_memory().total:
            return value
    return None


def container_room(root: Path = _CGROUP) -> int | None:
    """What is left of `container_limit`; files that were read and can be dropped are no use."""
    limit = container_limit(root)
    if limit is None:
        return None
    used = _number(root / "memory.current") or _number(root / "memory/memory.usage_in_bytes") or 0
    for name in ("memory.stat", "memory/memory.stat"):
        used -= _inactive_file(root / name)
    return max(0, limit - used)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _inactive_file(path: Path) -> int:
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return 0
    return next((int(row[1]) for row in rows if row[0] == "inactive_file"), 0)


def keep_freed_memory() -> None:
    """Ask glibc to hand freed memory to the next tensor instead of the system.

    Left alone it returns every large tensor at once, and a step spends a tenth of its time in
    page faults (docs/log.md). Tensors above 8 MiB still come and go: kept, they would leave holes.
    Other C libraries are left as they are.
    """
    if sys.platform == "win32":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    for option, value in ((_M_MMAP_THRESHOLD, LARGE_TENSOR_BYTES), (_M_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(option, value)
    mallopt(_M_TOP_PAD, HEAP_STEP_BYTES)
