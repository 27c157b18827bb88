"""The small operations of a block, each with its gradient written out.

With autograd, a root-mean-square norm or a gated unit takes five to ten passes over memory in each
direction. Written out it takes two or three and keeps fewer tensors, and with compiled kernels on a
CPU it takes one (`aha.model.kernels`). Large products and attention are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aha.model.kernels import calls

# Measured: PyTorch's attention is faster for longer sequences.
_LONGEST = 512


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32."""
    if x.is_cuda:  # there PyTorch has one kernel for each direction
        return functional.rms_norm(x.to(weight.dtype), weight.shape, weight, eps).to(x.dtype)
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)
    return _normed(x, weight, eps)[0]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (R, heads, D); cos and sin (R, 1, D), sin's first half negated."""
    if torch.is_grad_enabled():
        return _Rotate.apply(x, cos, sin)
    return _rotated(x, cos, sin)


def shared_beginnings(
    rows: Sequence[Sequence[int]], left: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Ids, positions, `place_BS`, `pick_M` and `own_B2` of rows whose beginnings exist once.

    A row shares what it has in common with the row before it; so in sorted order every beginning
    exists once. Rows are padded on the right, or on the left; padding names token 0. The three
    last are as in `causal_attention`.
    """
    width = max(map(len, rows))
    place_BS = torch.zeros(len(rows), width, dtype=torch.long)
    own_B2 = torch.empty(len(rows), 2, dtype=torch.long)
    ids, position, pick, at = list[int](), list[int](), list[int](), list[int]()
    before: Sequence[int] = ()
    for b, row in enumerate(rows):
        pairs = enumerate(zip(row, before, strict=False))
        same = next((i for i, (x, y) in pairs if x != y), min(len(row), len(before)))
        first, before = (width - len(row) if left else 0), row
        at = [*at[:same], *range(len(ids), len(ids) + len(row) - same)]
        place_BS[b, first : first + len(row)] = torch.tensor(at)
        ids += row[same:]
        position += range(same, len(row))
        own_B2[b] = torch.tensor((first + same, first + len(row)))
        pick += range(b * width + first + same, b * width + first + len(row))
    return torch.tensor(ids), torch.tensor(position), place_BS, torch.tensor(pick), own_B2


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, place_BS: Tensor, pick_M: Tensor, own_B2: Tensor
) -> Tensor:
    """Causal attention of B sequences that may share tokens, for each token once: (M, heads, D).

    query (M, heads, D), key and value (M, KV heads, D); query heads share keys in groups.
    place_BS: which token stands where. pick_M: one place of each token in the flattened (B * S);
    before it stand the same tokens as before its other places. own_B2, on the host: the places of
    each row, from the first to the one after the last, that pick_M has. They hold tokens that
    follow one another; tokens before them are an earlier row's.
    """
    fits = query.shape[2] % calls.HEAD_MULTIPLE == 0 and place_BS.shape[1] <= _LONGEST
    if fits and calls.usable(query, key, value):
        return _CausalAttention.apply(query, key, value, place_BS, own_B2)
    query, key, value = (
        # As an embedding, whose gradient adds the places of a token fast.
        functional.embedding(place_BS, x.flatten(1)).unflatten(2, x.shape[1:]).transpose(1, 2)
        for x in (query, key, value)
    )
    attended = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    return attended.transpose(1, 2).flatten(0, 1)[pick_M]


def casting(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast of products to `dtype` on a device; None changes nothing."""
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


@contextmanager
def cudnn_attention(enabled: bool) -> Iterator[None]:
    """Allow or forbid cuDNN's attention inside the context.

    It builds a plan of about 0.1 s for every new shape. For a shape that is used often it is a
    little faster than PyTorch's own kernels.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def linear_float32(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight^T + bias in float32, the factors in the weight's type. No gradient.

    A GPU sums products of bfloat16 factors in float32; rounding the sums of a head to bfloat16
    would move log-probabilities by up to 1 %.
    """
    if x.device.type == "cuda" and weight.dtype != torch.float32:
        y = torch.mm(x.to(weight.dtype), weight.t(), out_dtype=torch.float32)
        return y if bias is None else y.add_(bias)
    bias = None if bias is None else bias.to(weight.dtype)
    return functional.linear(x.to(weight.dtype), weight, bias).float()


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a^T @ b to `total` in place; the sums stay float32 on a GPU if `total` is."""
    if a.dtype == total.dtype:
        total.addmm_(a.t(), b)
    elif total.is_cuda and total.dtype == torch.float32:
        torch.addmm(total, a.t(), b, out_dtype=torch.float32, out=total)
    else:
        total.add_(a.t() @ b)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where the last dimension holds gate, then up."""
    if torch.is_grad_enabled():
        return _SwiGLU.apply(gate_up)
    return _gated(gate_up)


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm, and 1 / root mean square (..., 1) or (...)."""
    if calls.usable(x, weight) and x.is_contiguous():
        return calls.rms_norm(x, weight, eps)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse = norm.square_().mul_(1.0 / x.shape[-1]).add_(eps).rsqrt_()
    return (x * inverse).mul_(weight).to(x.dtype), inverse


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if calls.usable(x, cos) and x.stride(2) == 1 and x.stride(1) == x.shape[2]:
        return calls.rotate(x, cos, sin, back=False)
    return torch.addcmul(x * cos.to(x.dtype), _swap_halves(x), sin.to(x.dtype))


def _gated(gate_up: Tensor) -> Tensor:
    if calls.usable(gate_up) and gate_up.is_contiguous():
        return calls.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)


def _swap_halves(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((x[..., half:], x[..., :half]), dim=-1)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, inverse = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        if calls.usable(x, weight, grad) and x.is_contiguous():
            return *calls.rms_norm_backward(grad.contiguous(), x, weight, inverse), None
        inverse = inverse.view(*x.shape[:-1], 1)
        unit = x * inverse
        grad_weight = (grad * unit).flatten(0, -2).sum(dim=0).to(weight.dtype)
        grad_unit = grad * weight
        dot = (grad_unit * unit).mean(dim=-1, keepdim=True)
        grad_x = torch.addcmul(grad_unit, unit, dot, value=-1.0).mul_(inverse)
        return grad_x.to(x.dtype), grad_weight, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        if calls.usable(grad, cos):
            return calls.rotate(grad.contiguous(), cos, sin, back=True), None, None
        turned = _swap_halves(grad * sin.to(grad.dtype))
        return turned.addcmul_(grad, cos.to(grad.dtype)), None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        if calls.usable(gate_up, grad) and gate_up.is_contiguous():
            return calls.swiglu_backward(grad.contiguous(), gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        grad_gate, grad_up = result.chunk(2, dim=-1)
        torch.mul(functional.silu(gate), grad, out=grad_up)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad * up, gate))
        return result


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, place_BS: Tensor, own_B2: Tensor
    ) -> Tensor:
        out, total = calls.causal(query, key, value, place_BS, own_B2)
        ctx.save_for_backward(query, key, value, place_BS, own_B2, out, total)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        return *calls.causal_backward(grad.contiguous(), *ctx.saved_tensors), None, None
