"""Small models decoded whole in C: see decode.c.

For a model of a million parameters PyTorch's dispatch costs more than its arithmetic; here a call
is up to sixteen tokens of all rows. Larger models gain nothing from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aha.kernels import calls

PANEL = 64  # outputs of a packed weight side by side, as in decode.c
_CHUNK = 32  # rows that a thread takes along together at most
_MOST_PARAMETERS = 8_000_000  # beyond, large products are most of the time and PyTorch's are faster


@dataclass(frozen=True)
class Layer:
    """Weights of one block; what the model lacks is none."""

    norm1: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    norm2: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Sizes:
    """In the order of decode.c."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    width: int
    inner: int
    vocabulary: int


@dataclass(frozen=True)
class Drawn:
    """Tokens and log-probabilities (R, steps), of which the first `written_R` count."""

    tokens_RS: Tensor
    logprobs_RS: Tensor
    written_R: Tensor
    ended_R: Tensor


def worthwhile(sizes: Sizes) -> bool:
    """Whether a model is small enough, and has the widths that decode.c computes."""
    per_layer = sizes.hidden * (
        (2 * sizes.heads + 2 * sizes.kv_heads) * sizes.width + 3 * sizes.inner
    )
    small = sizes.layers * per_layer + sizes.hidden * sizes.vocabulary <= _MOST_PARAMETERS
    return small and sizes.hidden % PANEL == 0 and sizes.width % calls.LANES == 0


class PackedModel:
    """A model's weights in decode.c's order, copied for one rollout."""

    def __init__(
        self,
        sizes: Sizes,
        layers: list[Layer],
        embedding: Tensor,
        norm: Tensor,
        head: Tensor,
        eps: float,
    ) -> None:
        self._sizes = sizes
        self._eps = eps
        self._embedding, self._norm, self._head = embedding, norm, _packed(head)
        self._kept = [_addresses(layer) for layer in layers]
        self._layers = torch.tensor(
            [[0 if t is None else t.data_ptr() for t in tensors] for tensors in self._kept]
        )
        self._sizes_tensor = torch.tensor(
            [sizes.layers, sizes.hidden, sizes.heads, sizes.kv_heads, sizes.width, sizes.inner,
             sizes.vocabulary]
        )  # fmt: skip

    def decode(
        self,
        cos_TD: Tensor,
        sin_TD: Tensor,
        tables_RN: Tensor,
        length_R: Tensor,
        last_R: Tensor,
        uniforms_RS: Tensor,
        limit_R: Tensor,
        end_ids: Tensor,
        temperature: float,
    ) -> Drawn:
        """Up to S tokens a row; `length_R` (cached positions) is advanced in place.

        A row stops at an end token or after `limit_R` tokens. The draw is `sampler.sample`'s, with
        nothing narrowed.
        """
        rows, steps = uniforms_RS.shape
        # Chunks for every thread first, then full ones.
        chunk = max(1, min(_CHUNK, -(-rows // torch.get_num_threads())))
        floats = self._scratch_floats()
        scratch = torch.empty(-(-rows // chunk) * floats)
        tokens_RS = torch.empty(rows, steps, dtype=torch.long)
        logprobs_RS = torch.empty(rows, steps)
        written_R, ended_R = torch.empty(2, rows, dtype=torch.long).unbind()
        calls.call(
            "decode", self._sizes_tensor, self._layers, self._embedding, self._norm, self._head,
            cos_TD, sin_TD, tables_RN, length_R, last_R, uniforms_RS, limit_R, end_ids, tokens_RS,
            logprobs_RS, written_R, ended_R, scratch, rows, steps, tables_RN.shape[1],
            len(end_ids), chunk, floats, temperature, self._eps,
        )  # fmt: skip
        return Drawn(tokens_RS, logprobs_RS, written_R, ended_R.bool())

    def _scratch_floats(self) -> int:
        s = self._sizes
        attended = s.heads * s.width
        row = 2 * s.hidden + _padded(attended + 2 * s.kv_heads * s.width) + attended
        row += _padded(2 * s.inner) + s.inner + _padded(s.vocabulary)
        return _padded(_CHUNK * row)


def _addresses(layer: Layer) -> list[Tensor | None]:
    """One layer's tensors in the order of decode.c's addresses."""
    return [
        layer.norm1, _packed(layer.qkv), _padded_bias(layer.qkv_bias), _packed(layer.out),
        _padded_bias(layer.out_bias), layer.q_norm, layer.k_norm, layer.norm2,
        _packed(layer.gate_up), _packed(layer.down),
    ]  # fmt: skip


def _packed(weight: Tensor) -> Tensor:
    """(outputs, inputs) as panels (outputs / PANEL, inputs, PANEL), missing outputs 0."""
    filled = functional.pad(weight, (0, 0, 0, -weight.shape[0] % PANEL))
    return filled.unflatten(0, (-1, PANEL)).transpose(1, 2).contiguous()


def _padded_bias(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else functional.pad(bias, (0, -len(bias) % PANEL))


def _padded(width: int) -> int:
    return -(-width // PANEL) * PANEL
