"""How many tokens fit at a time."""

from __future__ import annotations

import ctypes
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

# Beyond this, a CPU's caches hold less than a micro-batch and a step gets slower (docs/log.md).
_MOST_TOKENS = {"cpu": 2048, "cuda": 65_536}
_MOST_HIDDEN_VALUES = 2**20
_FEWEST_TOKENS = 256
# The share of free memory that a micro-batch may take; the rest is for what this does not count.
_SHARE = 0.5
# glibc's numbers of mallopt's options.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def tokens_that_fit(
    model: PreTrainedModel, fused: bool, recompute: bool, free_bytes: int | None = None
) -> int:
    """A budget of tokens for a micro-batch, from the model's sizes and the free memory.

    `fused` says whether the fused blocks run the model; without them a micro-batch's logits all
    exist at once.
    """
    free = free_memory(model.device) if free_bytes is None else free_bytes
    # Gradients and Adam's two moments come on top of the weights that are already loaded.
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    room = max(0.0, _SHARE * (free - 3 * trained))
    fitting = int(room / bytes_per_token(model, fused, recompute))
    most = _MOST_TOKENS[model.device.type]
    if model.device.type == "cpu":
        # Products are at full speed with a thousand tokens; more of a wide model only take memory.
        most = min(most, _MOST_HIDDEN_VALUES // model.config.hidden_size)
    return max(_FEWEST_TOKENS, min(fitting, most))


def bytes_per_token(model: PreTrainedModel, fused: bool, recompute: bool) -> float:
    """What the forward pass keeps for the backward pass, a token of a micro-batch."""
    config: Any = model.config
    heads, hidden = config.num_attention_heads, config.hidden_size
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or hidden // heads
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    # Inputs and outputs of a block's norms, products and attention, once each.
    block = 4 * hidden + (3 * heads + 3 * kv_heads) * width + 3 * inner
    if not fused:
        block *= 2  # autograd keeps the inside of norms, rotations and gates as well
    layers = config.num_hidden_layers
    floats = layers * hidden + block if recompute else layers * block
    floats += 4 * hidden
    if not fused:
        floats += 4 * config.vocab_size
    return float(floats * next(model.parameters()).element_size())


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on the device."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    return int(psutil.virtual_memory().available)


def keep_freed_memory() -> None:
    """Ask glibc to hand freed memory to the next tensor instead of the system.

    Left alone it returns every large tensor at once, and a step spends a tenth of its time in
    page faults (docs/log.md). Tensors above 8 MiB still come and go: kept, they would leave holes.
    Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    for option, value in ((_M_MMAP_THRESHOLD, 2**23), (_M_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(option, value)
    mallopt(_M_TOP_PAD, 2**26)
