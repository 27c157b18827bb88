"""The C functions with tensors for arguments. All tensors are float32 on the CPU.

Callers ask `usable` first; these functions do not check.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from aha.model.kernels.library import kernels

BLOCK = 64  # positions in a block of the cache, as in attention.h
HEAD_MULTIPLE = 16  # attention's head width is a multiple of this
_PARTS = 16  # partial sums of a norm's weight gradient, whatever the number of threads

_POINTER, _INTEGER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "linear": [_POINTER] * 4 + [_INTEGER] * 5,
    "rms_norm": [_POINTER] * 4 + [_INTEGER] * 2 + [_FLOAT, _INTEGER],
    "rms_norm_backward": [_POINTER] * 6 + [_INTEGER] * 4,
    "rotate": [_POINTER] * 4 + [_INTEGER] * 6,
    "swiglu": [_POINTER] * 2 + [_INTEGER] * 3,
    "swiglu_backward": [_POINTER] * 3 + [_INTEGER] * 3,
    "store_prompt": [_POINTER] * 4 + [_INTEGER] * 7,
    "causal_forward": [_POINTER] * 7 + [_INTEGER] * 9,
    "causal_backward": [_POINTER] * 12 + [_INTEGER] * 9,
    "panel_width": [],
    "scratch_floats": [_POINTER, _INTEGER],
    "decode": [_POINTER] * 2,
    "decode_logits": [_POINTER] * 3,
}


@functools.cache
def library() -> Any:
    """The loaded library with its functions' arguments declared; none on path `off`."""
    loaded = kernels().library
    if loaded is not None:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, None
        loaded.panel_width.restype = loaded.scratch_floats.restype = _INTEGER
    return loaded


def usable(*tensors: Tensor) -> bool:
    """True if there are kernels and they compute on tensors such as these."""
    return library() is not None and all(
        x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors
    )


def call(name: str, *arguments: Tensor | int | float) -> None:
    """A C function on tensors' memory and plain numbers; its last argument is the threads."""
    getattr(library(), name)(
        *(x.data_ptr() if isinstance(x, Tensor) else x for x in arguments), torch.get_num_threads()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int, packed: bool) -> Tensor:
    """x (R, inputs) @ weight^T + bias; weight (outputs, inputs), or as `decode.pack` returns it."""
    y = x.new_empty(len(x), outputs)
    offset = 0 if bias is None else bias
    call("linear", x, weight, offset, y, len(x), x.shape[1], outputs, int(packed))
    return y


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of dense x over its last dimension, and 1 / root mean square a row."""
    y, inverse = torch.empty_like(x), x.new_empty(x.shape[:-1])
    call("rms_norm", x, weight, y, inverse, inverse.numel(), x.shape[-1], eps)
    return y, inverse


def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight."""
    grad_x, parts = torch.empty_like(x), x.new_empty(_PARTS, x.shape[-1])
    sizes = (inverse.numel(), x.shape[-1], _PARTS)
    call("rms_norm_backward", grad, x, weight, inverse, grad_x, parts, *sizes)
    return grad_x, parts.sum(dim=0)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """x (R, heads, D), dense but for its row stride; cos and sin (R, 1, D) dense."""
    rows, heads, width = x.shape
    y = x.new_empty(rows, heads, width)
    call("rotate", x, cos, sin, y, rows, heads, width, x.stride(0), int(back))
    return y


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up of dense x (..., 2 * width)."""
    width = x.shape[-1] // 2
    y = x.new_empty(*x.shape[:-1], width)
    call("swiglu", x, y, y.numel() // width, width)
    return y


def swiglu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of x."""
    grad_x = torch.empty_like(x)
    call("swiglu_backward", grad, x, grad_x, grad.numel() // grad.shape[-1], grad.shape[-1])
    return grad_x


def store_prompt(key: Tensor, value: Tensor, tables: Tensor, skip: Tensor, layer: int) -> None:
    """Keys and values (P, T, KV heads, D), dense, into the blocks that `tables` (P, n) names."""
    prompts, tokens, kv_heads, width = key.shape
    sizes = (prompts, tokens, tables.shape[1], layer, kv_heads, width)
    call("store_prompt", key, value, tables, skip, *sizes)


def causal(
    query: Tensor, key: Tensor, value: Tensor, place_BS: Tensor, own_B2: Tensor
) -> tuple[Tensor, Tensor]:
    """Causal attention of each token (M, heads, D), and its log of the sum of exp(score).

    query (M, heads, D), key and value (M, KV heads, D), dense but for the stride of M; place_BS and
    own_B2 as in `ops.causal_attention`, dense, rows padded on the right.
    """
    out = query.new_empty(query.shape)
    total = query.new_empty(query.shape[:2])
    sizes = _causal_sizes(query, key, value, place_BS)
    call("causal_forward", query, key, value, place_BS, own_B2, out, total, *sizes)
    return out, total


def causal_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    place_BS: Tensor,
    own_B2: Tensor,
    out: Tensor,
    total: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; grad and out are dense."""
    grads = query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)
    parts = key.new_empty(2 * place_BS.numel() * key.shape[1] * key.shape[2])
    inputs = (query, key, value, place_BS, own_B2, grad, out, total)
    call("causal_backward", *inputs, *grads, parts, *_causal_sizes(query, key, value, place_BS))
    return grads


def _causal_sizes(query: Tensor, key: Tensor, value: Tensor, place_BS: Tensor) -> tuple[int, ...]:
    heads, kv_heads, width = query.shape[1], key.shape[1], query.shape[2]
    strides = (query.stride(0), key.stride(0), value.stride(0))
    return (*place_BS.shape, heads, kv_heads, width, *strides)
