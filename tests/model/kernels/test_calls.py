"""The compiled kernels against PyTorch's own operations, on every path this processor can run."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from aha.model import ops
from aha.model.kernels import calls, library
from aha.model.kernels.decode import Widths, pack
from aha.model.kernels.library import kernels, runnable_paths
from aha.model.llama import LlamaBlocks
from aha.rollout.cpu import CPUDecoder
from aha.types import UserError


def forget() -> None:
    kernels.cache_clear()
    calls.library.cache_clear()


@pytest.fixture(autouse=True, params=runnable_paths() or [None])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param is None:
        pytest.skip("there are no kernels for this processor")
    monkeypatch.setenv("AHA_KERNELS", request.param)
    forget()
    yield request.param
    forget()


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


# Rows around the kernels' tiles, inputs and outputs that fill no register, several tasks.
PRODUCTS = [(1, 5, 3), (3, 33, 9), (7, 64, 64), (32, 576, 200), (65, 130, 17)]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), PRODUCTS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_products_in_place(rows: int, inputs: int, outputs: int, with_bias: bool) -> None:
    x, weight = randn(rows, inputs), randn(outputs, inputs, seed=1)
    bias = randn(outputs, seed=2) if with_bias else None
    y = calls.linear(x, weight, bias, outputs, packed=False)
    torch.testing.assert_close(y, functional.linear(x, weight, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), PRODUCTS)
def test_packed_products(rows: int, inputs: int, outputs: int) -> None:
    x, weight = randn(rows, inputs), randn(outputs, inputs, seed=1)
    packed = pack(weight)
    y = calls.linear(x, packed, None, packed.shape[0] * packed.shape[2], packed=True)
    torch.testing.assert_close(y[:, :outputs], x @ weight.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_a_row_is_computed_alike_whatever_stands_beside_it(packed: bool) -> None:
    x, weight = randn(13, 96), randn(64, 96, seed=1)
    weight = pack(weight) if packed else weight
    together = calls.linear(x, weight, None, 64, packed)
    alone = torch.cat([calls.linear(row[None], weight, None, 64, packed) for row in x])
    assert torch.equal(together, alone)


def llama(heads: int, kv_heads: int, width: int, hidden: int, **options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=width, intermediate_size=80, initializer_range=0.3,
        **options,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


# Groups of one to nine query heads; head widths of one to eight registers.
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "hidden"),
    [(1, 1, 16, 64), (4, 2, 32, 64), (9, 3, 64, 72), (5, 1, 48, 40), (14, 2, 64, 112),
     (9, 1, 128, 36)],
)  # fmt: skip
@pytest.mark.parametrize("threads", [1, 3])
def test_decoding_equals_the_models_own_forward(
    heads: int, kv_heads: int, width: int, hidden: int, threads: int
) -> None:
    model = llama(heads, kv_heads, width, hidden, attention_bias=heads == 4)
    lengths = [1, 31, 63, 64, 65, 130]
    ids = [torch.randint(300, (length + 3,)).tolist() for length in lengths]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        decoder = CPUDecoder.of(LlamaBlocks(model), 140)
        assert decoder is not None
        with torch.inference_mode():
            logits = [decoder.add([row[:-3] for row in ids], 1)]
            for place in (-3, -2, -1):
                logits.append(decoder.step(torch.tensor([row[place] for row in ids])))
            for r, row in enumerate(ids):
                expected = model(torch.tensor([row])).logits[0, -4:]
                ours = torch.stack([step[r] for step in logits])
                torch.testing.assert_close(ours, expected, rtol=1e-3, atol=2e-4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("packs", [True, False])
def test_a_burst_draws_what_single_tokens_would(
    packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Widths, "packs", packs)
    blocks = LlamaBlocks(llama(4, 2, 32, 64))
    uniforms = torch.rand(70, 12, dtype=torch.float64)
    limit, ends, last = torch.full((70,), 12), torch.tensor([7, 9]), torch.arange(70)
    drawn = {}
    for steps in (12, 1):
        decoder = CPUDecoder.of(blocks, 40)
        assert decoder is not None
        with torch.inference_mode():
            decoder.add([[5, 6, 7]], 70)
            now, parts = last, []
            for first in range(0, 12, steps):
                columns = uniforms[:, first : first + steps].contiguous()
                # A row that has ended goes on here, and its further tokens are not compared.
                parts.append(decoder.burst(now, columns, limit, ends, 0.9))
                now = parts[-1].tokens_RS[:, -1].contiguous()
            drawn[steps] = parts
    burst = drawn[12][0]
    for row in range(70):
        written = int(burst.written_R[row])
        tokens = [int(part.tokens_RS[row, 0]) for part in drawn[1][:written]]
        assert burst.tokens_RS[row, :written].tolist() == tokens
        assert bool(burst.ended_R[row]) == (tokens[-1] in (7, 9))
        assert written == 12 or burst.ended_R[row]


def test_two_python_threads_may_compute_at_once() -> None:
    x, weight = randn(40, 512), randn(700, 512, seed=1)
    expected, wrong = x @ weight.T, []

    def work() -> None:
        for _ in range(50):
            y = calls.linear(x, weight, None, 700, packed=False)
            if not torch.allclose(y, expected, rtol=1e-4, atol=1e-3):
                wrong.append(y)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_threads_of_its_own() -> None:
    x, weight = randn(40, 512), randn(700, 512, seed=1)
    expected = calls.linear(x, weight, None, 700, packed=False)
    child = os.fork()
    if child == 0:
        # PyTorch's own threads do not survive a fork, so nothing large is left to it here.
        again = calls.linear(x, weight, None, 700, packed=False)
        os._exit(0 if again.numpy().tobytes() == expected.numpy().tobytes() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_why_a_path_was_taken_is_said(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels().path == path
    assert path in kernels().why
    monkeypatch.setenv("AHA_KERNELS", "off")
    forget()
    assert (kernels().path, kernels().why) == ("off", "switched off by AHA_KERNELS=off")
    monkeypatch.delenv("AHA_KERNELS")
    forget()
    assert kernels().path == runnable_paths()[0]


def test_a_path_that_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, message in (("fast", "not a kernel path"), ("neon", "cannot run")):
        if value in runnable_paths():
            continue
        monkeypatch.setenv("AHA_KERNELS", value)
        forget()
        with pytest.raises(UserError, match=message):
            kernels()


def test_without_a_compiler_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AHA_KERNELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    forget()
    assert kernels().path == "off"
    assert "ziglang" in kernels().why
    monkeypatch.setenv("CC", "false")
    forget()
    assert kernels().path == "off"
    assert "false failed" in kernels().why
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(1, 1, 16), (4, 2, 32), (9, 3, 64)])
@pytest.mark.parametrize("tokens", [1, 5, 32, 33, 140])
def test_causal_attention_and_its_gradients(
    heads: int, kv_heads: int, width: int, tokens: int
) -> None:
    rows, shared = 3, tokens // 2
    own = tokens - shared
    # The rows begin with the same tokens, which exist once. The last row is the one before it once
    # more. All are padded with token 0.
    begin = torch.arange(shared).repeat(rows, 1)
    place_BS = torch.cat((begin, shared + torch.arange(rows * own).view(rows, own)), dim=1)
    place_BS = torch.cat((place_BS, place_BS[-1:]))
    place_BS = torch.cat((place_BS, torch.zeros(rows + 1, 1, dtype=torch.long)), dim=1)
    flat = place_BS.flatten().tolist()
    count = shared + rows * own
    pick_M = torch.tensor([flat.index(token) for token in range(count)])
    whole = randn(count, heads + 2 * kv_heads, width).requires_grad_()
    twin = whole.detach().clone().requires_grad_()
    grad = randn(count, heads, width, seed=1)
    own_B2 = torch.tensor([[0, tokens], *[[shared, tokens]] * (rows - 1), [tokens, tokens]])
    inputs = whole.split((heads, kv_heads, kv_heads), dim=1)
    ours = ops.causal_attention(*inputs, place_BS, pick_M, own_B2)
    query, key, value = (
        x[place_BS].transpose(1, 2) for x in twin.split((heads, kv_heads, kv_heads), dim=1)
    )
    expected = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=True
    )
    expected = expected.transpose(1, 2).flatten(0, 1)[pick_M]
    ours.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.grad, twin.grad, rtol=1e-4, atol=2e-5)
