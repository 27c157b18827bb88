"""A Llama-like model decoded whole in C: see decode.c.

Weights of small models are copied into panels for the time of a rollout, and sixteen tokens of all
rows are one call. Weights of large models are read where they are, a token a call.
"""

from __future__ import annotations

import ctypes
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aha.model.kernels import calls

# Beyond this many parameters a copy costs more memory than packing saves time.
_MOST_PACKED = 8_000_000
_PACKED_ROWS = 12  # most rows that one thread computes together: two full tiles
_ROWS_IN_PLACE = 64  # most rows that all threads compute together; MOST_ROWS in decode.c


@dataclass(frozen=True)
class Widths:
    """A decoder's sizes, in elements and in the order of decode.c."""

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

    @property
    def packs(self) -> bool:
        """True if the kernels copy the weights into panels."""
        attended = (2 * self.heads + 2 * self.kv_heads) * self.head_dim
        weights = self.layers * self.hidden * (attended + 3 * self.inner)
        # 64: then the residual stream is whole panels on every kind of processor.
        return self.hidden % 64 == 0 and weights + self.hidden * self.vocabulary <= _MOST_PACKED


@dataclass(frozen=True)
class Drawn:
    """Tokens and log-probabilities (R, steps), of which the first `written_R` count."""

    tokens_RS: Tensor
    logprobs_RS: Tensor
    written_R: Tensor
    ended_R: Tensor


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in (
            "layers", "hidden", "heads", "kv_heads", "width", "inner", "vocabulary", "packed")),
        *((name, ctypes.c_void_p) for name in (
            "layer", "embedding", "norm", "head", "cos", "sin")),
        ("eps", ctypes.c_float),
    )  # fmt: skip


class _Burst(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in (
            "rows", "steps", "table_width", "ends", "chunk", "threads")),
        *((name, ctypes.c_void_p) for name in (
            "tables", "lengths", "last", "uniforms", "limits", "end_ids", "tokens", "logprobs",
            "written", "ended", "scratch")),
        ("temperature", ctypes.c_float),
    )  # fmt: skip


class DecodedModel:
    """A model as decode.c reads it. The weights must not move while it is used."""

    def __init__(
        self,
        widths: Widths,
        layers: list[list[Tensor | None]],
        embedding: Tensor,
        norm: Tensor,
        head: Tensor,
        cos_TD: Tensor,
        sin_TD: Tensor,
        eps: float,
    ) -> None:
        """Each layer's weights are in the order of decode.c, None for what the model lacks."""
        self.packed = widths.packs
        ready = _packed if self.packed else torch.Tensor.contiguous
        kept = [[None if x is None else ready(x) for x in layer] for layer in layers]
        addresses = torch.tensor([[0 if x is None else x.data_ptr() for x in y] for y in kept])
        whole = (addresses, embedding, norm, ready(head), cos_TD, sin_TD)
        self._kept = (kept, whole)  # C holds addresses only
        pointers = [x.data_ptr() for x in whole]
        self._model = _Model(*astuple(widths), self.packed, *pointers, eps)

    def draw(
        self,
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
        tokens_RS = torch.empty(rows, steps, dtype=torch.long)
        logprobs_RS = torch.empty(rows, steps)
        written_R, ended_R = torch.zeros(2, rows, dtype=torch.long).unbind()
        burst, scratch = self._burst(tables_RN, length_R, last_R, steps)
        burst.ends, burst.temperature = len(end_ids), temperature
        burst.uniforms, burst.limits = uniforms_RS.data_ptr(), limit_R.data_ptr()
        burst.end_ids, burst.tokens = end_ids.data_ptr(), tokens_RS.data_ptr()
        burst.logprobs = logprobs_RS.data_ptr()
        burst.written, burst.ended = written_R.data_ptr(), ended_R.data_ptr()
        calls.library().decode(ctypes.byref(self._model), ctypes.byref(burst))
        del scratch
        return Drawn(tokens_RS, logprobs_RS, written_R, ended_R.bool())

    def logits(self, tables_RN: Tensor, length_R: Tensor, last_R: Tensor) -> Tensor:
        """Append a token to every row; logits (R, V) of the next. Advances `length_R`."""
        logits_RV = torch.empty(len(last_R), self._model.vocabulary)
        burst, scratch = self._burst(tables_RN, length_R, last_R, steps=1)
        calls.library().decode_logits(
            ctypes.byref(self._model), ctypes.byref(burst), logits_RV.data_ptr()
        )
        del scratch
        return logits_RV

    def _burst(
        self, tables_RN: Tensor, length_R: Tensor, last_R: Tensor, steps: int
    ) -> tuple[_Burst, Tensor]:
        """The fields that every call needs, and the scratch memory that they point to."""
        rows, threads = len(last_R), torch.get_num_threads()
        chunk = min(rows, _ROWS_IN_PLACE)
        if self.packed:  # chunks for every thread first, then full ones
            chunk = max(1, min(_PACKED_ROWS, -(-rows // threads)))
        chunks = -(-rows // chunk) if self.packed else 1
        floats = calls.library().scratch_floats(ctypes.byref(self._model), chunk)
        scratch = torch.empty(chunks * floats)
        burst = _Burst(
            rows, steps, tables_RN.shape[1], 0, chunk, threads,
            tables_RN.data_ptr(), length_R.data_ptr(), last_R.data_ptr(),
        )  # fmt: skip
        burst.scratch = scratch.data_ptr()
        return burst, scratch


def pack(weight: Tensor) -> Tensor:
    """(outputs, inputs) as panels (outputs / panel, inputs, panel), missing outputs 0."""
    panel = calls.library().panel_width()
    filled = functional.pad(weight, (0, 0, 0, -weight.shape[0] % panel))
    return filled.unflatten(0, (-1, panel)).transpose(1, 2).contiguous()


def _packed(weight: Tensor) -> Tensor:
    """A matrix in panels, a vector as long as its matrix's panels."""
    if weight.ndim == 2:
        return pack(weight)
    return functional.pad(weight, (0, -len(weight) % calls.library().panel_width()))
