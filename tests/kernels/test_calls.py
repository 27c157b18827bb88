"""The compiled kernels against PyTorch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from aha.kernels import calls
from aha.kernels.build import kernels

pytestmark = pytest.mark.skipif(not calls.usable(), reason=f"no kernels: {kernels().missing}")

# Widths that do not fill a vector register, and enough rows for several threads.
SIZES = [(1, 5), (3, 16), (700, 33), (64, 896)]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_rms_norm_and_its_gradients(rows: int, width: int) -> None:
    x, weight, grad = randn(rows, width), randn(width, seed=1), randn(rows, width, seed=2)
    y, inverse = calls.rms_norm(x, weight, 1e-5)
    x_leaf, weight_leaf = x.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = functional.rms_norm(x_leaf, (width,), weight_leaf, 1e-5)
    expected.backward(grad)
    grad_x, grad_weight = calls.rms_norm_backward(grad, x, weight, inverse)
    torch.testing.assert_close(y, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad_x, x_leaf.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_weight, weight_leaf.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_swiglu_and_its_gradient(rows: int, width: int) -> None:
    x, grad = 6 * randn(rows, 2 * width), randn(rows, width, seed=2)
    leaf = x.clone().requires_grad_()
    gate, up = leaf.chunk(2, dim=-1)
    expected = functional.silu(gate) * up
    expected.backward(grad)
    torch.testing.assert_close(calls.swiglu(x), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(calls.swiglu_backward(grad, x), leaf.grad, rtol=1e-4, atol=1e-5)


def test_swiglu_at_the_ends_of_the_range_and_with_faults() -> None:
    x = torch.tensor([[-200.0, -80.0, 0.0, 80.0, 200.0] + [1.0] * 5])
    y = calls.swiglu(x)
    torch.testing.assert_close(y, functional.silu(x[:, :5]), rtol=1e-5, atol=1e-6)
    x[0, 2] = float("nan")
    assert calls.swiglu(x).isnan().tolist() == [[False, False, True, False, False]]


@pytest.mark.parametrize(("rows", "heads", "width"), [(1, 1, 2), (5, 3, 8), (300, 16, 64)])
def test_rotation_and_its_inverse(rows: int, heads: int, width: int) -> None:
    wide = randn(rows, heads + 2, width)
    x, angle = wide[:, :heads], randn(rows, 1, width // 2, seed=3)
    cos = torch.cat((angle.cos(), angle.cos()), dim=-1)
    sin = torch.cat((-angle.sin(), angle.sin()), dim=-1)
    half = width // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    y = calls.rotate(x, cos, sin, back=False)
    torch.testing.assert_close(y, x * cos + swapped * sin, rtol=1e-5, atol=1e-6)
    # A rotation's gradient is the rotation back.
    torch.testing.assert_close(calls.rotate(y, cos, sin, back=True), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(1, 1, 16), (4, 2, 32), (14, 2, 64)])
def test_attention_over_blocks(heads: int, kv_heads: int, width: int) -> None:
    lengths, layers, layer = [0, 1, 31, 63, 64, 65, 200], 2, 1
    longest = max(lengths) + 1
    keys, values = (randn(len(lengths), longest, kv_heads, width, seed=s) for s in (4, 5))
    blocks = -(-longest // calls.BLOCK)
    # What is not written yet may be anything, NaN included.
    cache = torch.full(
        (len(lengths), blocks, 2 * layers * kv_heads * width * calls.BLOCK), torch.nan
    )
    tables = torch.tensor([[block.data_ptr() for block in row] for row in cache])
    for row, length in enumerate(lengths):
        skip = torch.tensor([longest - length])
        shifted = [
            x[row : row + 1].roll(longest - length, dims=1).contiguous() for x in (keys, values)
        ]
        calls.store_prompt(*shifted, tables[row : row + 1], skip, layer)
    query = randn(len(lengths), heads, width, seed=6)
    rows = torch.arange(len(lengths))
    new_key, new_value = (x[rows, torch.tensor(lengths)] for x in (keys, values))
    attended = calls.attend(query, new_key, new_value, tables, torch.tensor(lengths), layer)
    for row, length in enumerate(lengths):
        key, value = (x[row, : length + 1].transpose(0, 1)[None] for x in (keys, values))
        expected = functional.scaled_dot_product_attention(
            query[row][None, :, None], key, value, enable_gqa=True
        )
        torch.testing.assert_close(attended[row], expected[0, :, 0], rtol=1e-4, atol=1e-5)


def test_without_kernels_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHA_KERNELS", "0")
    assert "AHA_KERNELS" in kernels.__wrapped__().missing
    monkeypatch.delenv("AHA_KERNELS")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "compiler" in kernels.__wrapped__().missing


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 5, 3), (3, 33, 9), (16, 896, 130)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_narrow_product(rows: int, inputs: int, outputs: int, with_bias: bool) -> None:
    x, weight = randn(rows, inputs), randn(outputs, inputs, seed=1)
    bias = randn(outputs, seed=2) if with_bias else None
    y = calls.narrow_product(x, weight, bias)
    torch.testing.assert_close(y, functional.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
