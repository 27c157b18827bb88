"""The decoder of Llama-like blocks in PyTorch: on GPUs, and on CPUs without kernels.

On a GPU a step of a small model is hundreds of kernels of a few microseconds. Launching them one
by one from Python takes ten times as long as running them. So rows and cached positions are rounded
up to a few sizes, and each pair of sizes is captured once as a CUDA graph and replayed. On other
devices the same function runs directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aha.model.llama import LlamaBlocks
from aha.model.ops import casting, cudnn_attention
from aha.rollout.base import Decoder

_LEAST_ROWS = 8
STRIDE = 16
POSITIONS = 256  # on a GPU cached positions are rounded up to a multiple of this
PREFILL_TOKENS = 32_768


class BlocksDecoder(Decoder):
    """Keys and values of `slots` rows in two tensors (layers, slots, KV heads, capacity, D).

    Row r is slot r. Live rows are always the first slots: when rows leave, the others move down.
    """

    can_join = True

    def __init__(
        self,
        blocks: LlamaBlocks,
        slots: int,
        longest: int,
        fixed_shapes: bool | None = None,
        autocast: torch.dtype | None = None,
        graphs: bool = True,
    ) -> None:
        """`fixed_shapes` rounds sizes up, by default only on a GPU.

        `autocast` is the type of products and of the cache, by default the weights'. `graphs` must
        be false if a layer waits for the GPU: a capture forbids that.
        """
        self._blocks = blocks
        weight = blocks.embedding
        self._fixed_shapes = weight.device.type != "cpu" if fixed_shapes is None else fixed_shapes
        # To find the ended rows the engine must wait for the GPU.
        self.stride = STRIDE if self._fixed_shapes else 1
        # Dropping rows copies the cache, and the next number of rows may need a new graph.
        self.leave_share = 0.5 if self._fixed_shapes else 0.125
        capacity = self._rounded(longest + self.stride)
        shape = (len(blocks.layers), slots, blocks.kv_heads, capacity, blocks.head_dim)
        # Zeros: masked positions are multiplied by weight 0, and must not be NaN.
        self._autocast, dtype = autocast, autocast or weight.dtype
        self._keys, self._values = weight.new_zeros((2, *shape), dtype=dtype)
        self._cos, self._sin = (angle.to(dtype) for angle in blocks.angles(capacity))
        self._graphs_fit = graphs and weight.device.type == "cuda"
        self._length_S = torch.zeros(slots, dtype=torch.long, device=weight.device)
        self._token_S = torch.zeros(slots, dtype=torch.long, device=weight.device)
        self._rows = 0
        self._ages: list[tuple[int, int]] = []  # (rows, length of the longest of them), on the host
        self._graphs: dict[tuple[int, int], tuple[Any, Tensor]] = {}
        self._pool: Any = None  # the memory of all graphs: one runs at a time
        self._stream: Any = None

    def add(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        logits = []
        per_chunk = max(1, PREFILL_TOKENS // max(len(prompt) for prompt in prompts))
        for start in range(0, len(prompts), per_chunk):
            logits.append(self._read(prompts[start : start + per_chunk], repeats))
        return torch.cat(logits)

    def step(self, tokens_R: Tensor) -> Tensor:
        rows = self._bucket(self._rows)
        reach = max(length for _, length in self._ages) + 1
        positions = min(self._rounded(reach), self._keys.shape[3])
        self._token_S[: self._rows] = tokens_R
        self._ages = [(count, length + 1) for count, length in self._ages]
        if not self._graphs_fit:
            return self._forward(rows, positions)[: self._rows]
        if (rows, positions) not in self._graphs:
            self._graphs[rows, positions] = self._capture(rows, positions)
        graph, logits_RV = self._graphs[rows, positions]
        graph.replay()
        return logits_RV[: self._rows]

    def keep(self, rows_K: Tensor) -> None:
        kept, rows_K = len(rows_K), rows_K.to(self._length_S.device)
        for cache in (self._keys, self._values):
            for layer in cache:
                layer[:kept] = layer[rows_K]
        self._length_S[:kept] = self._length_S[rows_K]
        # Free slots attend to one position: little work, and every value is defined.
        self._length_S[kept:] = 0
        rows, first, ages = rows_K.tolist(), 0, []
        for count, length in self._ages:
            mine = sum(first <= row < first + count for row in rows)
            if mine:
                ages.append((mine, length))
            first += count
        self._ages, self._rows = ages, kept

    def _rounded(self, positions: int) -> int:
        return -(-positions // POSITIONS) * POSITIONS if self._fixed_shapes else positions

    def _bucket(self, rows: int) -> int:
        if not self._fixed_shapes:
            return rows
        bucket = _LEAST_ROWS
        while bucket < rows:
            bucket *= 2
        return min(bucket, len(self._length_S))

    def _capture(self, rows: int, positions: int) -> tuple[Any, Tensor]:
        """A CUDA graph of the forward pass and its logits. Lengths are restored afterwards."""
        if self._pool is None:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        lengths, graph = self._length_S.clone(), torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        # `torch.cuda.graph` would empty PyTorch's cache before every capture, and training would
        # have to allocate all of it again.
        with torch.cuda.stream(self._stream), cudnn_attention(True):
            self._forward(rows, positions)
            graph.capture_begin(self._pool)
            try:
                logits_RV = self._forward(rows, positions)
            except BaseException:
                # An error of `capture_end` would hide that memory ran out.
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        self._length_S.copy_(lengths)
        return graph, logits_RV

    def _forward(self, rows: int, positions: int) -> Tensor:
        """Logits of the first `rows` slots, which attend to at most `positions` cached ones."""
        blocks, length_R = self._blocks, self._length_S[:rows]
        index_R = torch.arange(rows, device=length_R.device)
        position_T = torch.arange(positions, device=length_R.device)
        # A mask to add: every layer would make one from a boolean mask.
        mask_R11T = self._keys.new_zeros(rows, 1, 1, positions)
        mask_R11T.masked_fill_(position_T > length_R[:, None, None, None], float("-inf"))

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self._keys[layer], self._values[layer]
            keys[index_R, :, length_R] = key
            values[index_R, :, length_R] = value
            # Queries that share keys and values are passed as positions of one sequence.
            attended = functional.scaled_dot_product_attention(
                query.reshape(rows, blocks.kv_heads, -1, blocks.head_dim),
                keys[:rows, :, :positions],
                values[:rows, :, :positions],
                attn_mask=mask_R11T,
            )
            return attended.reshape(rows, -1, blocks.head_dim)

        hidden_RC = functional.embedding(self._token_S[:rows], blocks.embedding)
        cos, sin = self._cos[length_R], self._sin[length_R]
        with casting(hidden_RC.device, self._autocast):
            hidden_RC = blocks.run(hidden_RC, cos, sin, attend)
        logits_RV = blocks.logits(hidden_RC)
        # Free slots are counted too. They must not leave the cache.
        length_R.add_(1).clamp_(max=self._keys.shape[3] - 1)
        return logits_RV

    def _read(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        """Run the prompts and put their rows into the next free slots; logits (P * repeats, V)."""
        blocks, device = self._blocks, self._token_S.device
        width, first = max(len(prompt) for prompt in prompts), self._rows
        added = len(prompts) * repeats
        ids_PT = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_PT[row, : len(prompt)] = torch.tensor(prompt)
        length_P = torch.tensor([len(prompt) for prompt in prompts], device=device)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            query, key, value = (
                x.unflatten(0, (-1, width)).transpose(1, 2) for x in (query, key, value)
            )
            # Padding is on the right. New tokens overwrite it.
            slots = slice(first, first + added)
            self._keys[layer, slots, :, :width] = key.repeat_interleave(repeats, dim=0)
            self._values[layer, slots, :, :width] = value.repeat_interleave(repeats, dim=0)
            attended = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=True
            )
            return attended.transpose(1, 2).flatten(0, 1)

        hidden_NC = functional.embedding(ids_PT.to(device).flatten(), blocks.embedding)
        cos, sin = (x[:width].repeat(len(prompts), 1, 1) for x in (self._cos, self._sin))
        with casting(device, self._autocast):
            hidden_NC = blocks.run(hidden_NC, cos, sin, attend)
        last_PC = hidden_NC.unflatten(0, (-1, width))[torch.arange(len(prompts)), length_P - 1]
        self._length_S[first : first + added] = length_P.repeat_interleave(repeats)
        self._rows += added
        self._ages.append((added, width))
        logits_PV = blocks.logits(last_PC)
        return logits_PV.repeat_interleave(repeats, dim=0)
