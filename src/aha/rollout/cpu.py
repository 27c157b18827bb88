"""The decoder for Llama-like models on a CPU: C kernels, and a cache in blocks of 64 positions.

A row owns only the blocks that it has filled, so memory and time are proportional to the live
tokens. Rows leave and join without a copy, and the rows of a group share the full blocks of their
prompt (as in vLLM's PagedAttention, arXiv:2309.06180).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aha.model.kernels import calls
from aha.model.kernels.decode import DecodedModel, Drawn
from aha.model.kernels.library import kernels
from aha.model.llama import LlamaBlocks
from aha.model.ops import shared_beginnings
from aha.rollout.base import Decoder
from aha.rollout.cuda import BlocksDecoder

_BURST_TOKENS = 16  # tokens that a small model's rows write before ended ones are dropped
SLAB_BLOCKS = 64  # blocks are allocated this many at a time
PREFILL_TOKENS = 4096  # prompts are read this many tokens at a time: enough for full speed

# The trial of `choose`: 4 prompts of 8 tokens, 32 rows, the best of 3 steps.
_TRIAL_PROMPTS, _TRIAL_ROWS, _TRIAL_TOKENS, _TRIAL_STEPS = 4, 32, 8, 3
_MOST_APART = 1e-3  # between log-probabilities that are summed in another order
_TOLERATED = 1.1  # a few steps cannot be timed more exactly


@dataclass(frozen=True)
class Choice:
    """The kernels that decode a model on a CPU, `off` for PyTorch alone, and the reason."""

    path: str
    why: str


def choose(blocks: LlamaBlocks, before: str = "") -> Choice:
    """Decode a few tokens with the kernels and with PyTorch, and choose for this model.

    The kernels run if their log-probabilities are right and they are not slower; a path forced by
    AHA_KERNELS may be slower. A resumed run keeps its path, `before`, so that its numbers stay the
    same to the bit.
    """
    found = kernels()
    if before and before in (found.path, "off"):
        return Choice(before, "as the run began")
    decoder = CPUDecoder.of(blocks, _TRIAL_TOKENS + _TRIAL_STEPS + 1)
    if found.path == "off" or decoder is None:
        cannot = "the model is not float32, or has layers that the kernels do not know"
        return Choice("off", found.why if found.path == "off" else cannot)
    twin = BlocksDecoder(blocks, _TRIAL_ROWS, _TRIAL_TOKENS + _TRIAL_STEPS + 1)
    sides: tuple[Decoder, Decoder] = (decoder, twin)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(blocks.embedding), (_TRIAL_PROMPTS, _TRIAL_TOKENS), generator=generator)
    tokens_R = ids[:, 0].repeat_interleave(_TRIAL_ROWS // _TRIAL_PROMPTS)
    seconds, apart = [float("inf"), float("inf")], 0.0
    with torch.inference_mode():
        for side in sides:
            side.add(ids.tolist(), _TRIAL_ROWS // _TRIAL_PROMPTS)
        for _ in range(_TRIAL_STEPS):
            logprobs = []
            for index, side in enumerate(sides):
                started = time.perf_counter()
                logits_RV = side.step(tokens_R)
                seconds[index] = min(seconds[index], time.perf_counter() - started)
                logprobs.append(logits_RV.log_softmax(dim=-1))
            apart = max(apart, float((logprobs[0] - logprobs[1]).abs().max()))
    faster = seconds[1] / seconds[0]
    if not apart <= _MOST_APART:  # NaN counts as apart
        return Choice("off", f"the {found.path} kernels differ from PyTorch by {apart:.1e}")
    if faster * _TOLERATED < 1 and not found.forced:
        return Choice("off", f"the {found.path} kernels reach {faster:.1f} of PyTorch's speed here")
    return Choice(found.path, f"{found.why}; {faster:.1f} times as fast as PyTorch on this model")


class CPUDecoder(Decoder):
    """Rows with tables of blocks, decoded in C. `longest` bounds prompt plus completion.

    Create one with `CPUDecoder.of(blocks, longest)`.
    """

    leave_share = 0.03  # dropping rows copies nothing, but takes a little time
    stride = 1
    can_join = True

    def __init__(
        self, blocks: LlamaBlocks, longest: int, model: DecodedModel, angles: tuple[Tensor, Tensor]
    ) -> None:
        self._blocks = blocks
        self._model = model
        self.burst_tokens = _BURST_TOKENS if model.packed else 1
        self._pool = _BlockPool(2 * len(blocks.layers) * blocks.kv_heads * blocks.head_dim)
        self._cos, self._sin = angles
        self._owned: list[list[int]] = []  # each row's block addresses, oldest first
        self._tables_RN = torch.zeros(0, -(-longest // calls.BLOCK), dtype=torch.long)
        self._length_R = torch.zeros(0, dtype=torch.long)

    @classmethod
    def of(cls, blocks: LlamaBlocks, longest: int) -> CPUDecoder | None:
        """The decoder for a model; None if the kernels cannot run it."""
        angles = blocks.angles(longest)
        model = blocks.decoded(*angles)
        return None if model is None else cls(blocks, longest, model, angles)

    def add(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        # Read together: at most PREFILL_TOKENS padded tokens, or one prompt.
        last, start, widest = [], 0, 0
        for end, prompt in enumerate(prompts):
            widest = max(widest, len(prompt))
            if end > start and (end + 1 - start) * widest > PREFILL_TOKENS:
                last.append(self._read(prompts[start:end], repeats))
                start, widest = end, len(prompt)
        last.append(self._read(prompts[start:], repeats))
        return self._blocks.logits(torch.cat(last)).repeat_interleave(repeats, dim=0)

    def step(self, tokens_R: Tensor) -> Tensor:
        self._make_room(1)
        return self._model.logits(self._tables_RN, self._length_R, tokens_R)

    def burst(
        self,
        tokens_R: Tensor,
        uniforms_RS: Tensor,
        limit_R: Tensor,
        end_ids: Tensor,
        temperature: float,
    ) -> Drawn:
        self._make_room(uniforms_RS.shape[1])
        return self._model.draw(
            self._tables_RN, self._length_R, tokens_R, uniforms_RS, limit_R, end_ids, temperature
        )

    def keep(self, rows_K: Tensor) -> None:
        kept = set(rows_K.tolist())
        for row, addresses in enumerate(self._owned):
            if row not in kept:
                self._pool.release(addresses)
        self._owned = [self._owned[row] for row in rows_K.tolist()]
        self._tables_RN, self._length_R = self._tables_RN[rows_K], self._length_R[rows_K]

    def _read(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        """Run the prompts and append their rows; the last hidden states (P, C).

        Tokens with which a prompt begins like the one before it are computed once.
        """
        blocks, lengths = self._blocks, [len(prompt) for prompt in prompts]
        ids_M, position_M, place_PT, pick_M, _ = shared_beginnings(prompts, left=True)
        width = place_PT.shape[1]
        padding_P = width - torch.tensor(lengths)
        first, tables_PN = len(self._owned), self._new_rows(lengths, repeats)
        mask_P1TT = None
        if bool(padding_P.any()):
            position_T = torch.arange(width)
            causal_TT = position_T[None] <= position_T[:, None]
            real_PT = position_T[None] >= padding_P[:, None]
            # Padding attends to itself, so that no softmax is empty.
            itself_TT = torch.eye(width, dtype=torch.bool)
            mask_P1TT = ((causal_TT & real_PT[:, None]) | itself_TT)[:, None]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            query, key, value = (x[place_PT] for x in (query, key, value))
            calls.store_prompt(key, value, tables_PN, padding_P, layer)
            attended = functional.scaled_dot_product_attention(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                attn_mask=mask_P1TT,
                is_causal=mask_P1TT is None,
                enable_gqa=True,
            )
            return attended.transpose(1, 2).flatten(0, 1)[pick_M]

        hidden_MC = functional.embedding(ids_M, blocks.embedding)
        hidden_MC = blocks.run(hidden_MC, self._cos[position_M], self._sin[position_M], attend)
        # A prompt's last, partly filled block is copied from its first row to the others.
        for row, length in zip(range(first, len(self._owned), repeats), lengths, strict=True):
            if length % calls.BLOCK:
                for other in range(row + 1, row + repeats):
                    self._pool.copy(self._owned[row][-1], self._owned[other][-1])
        return hidden_MC[place_PT[:, -1]]

    def _new_rows(self, lengths: Sequence[int], repeats: int) -> Tensor:
        """Append `repeats` rows for each prompt. They share its full blocks, but not the last."""
        for length in lengths:
            shared = [self._pool.take() for _ in range(length // calls.BLOCK)]
            for row in range(repeats):
                if row:
                    self._pool.share(shared)
                own = [self._pool.take()] if length % calls.BLOCK else []
                self._owned.append([*shared, *own])
        added = len(lengths) * repeats
        tables_RN = torch.zeros(added, self._tables_RN.shape[1], dtype=torch.long)
        for row, addresses in enumerate(self._owned[-added:]):
            tables_RN[row, : len(addresses)] = torch.tensor(addresses)
        self._tables_RN = torch.cat((self._tables_RN, tables_RN))
        length_R = torch.tensor(lengths).repeat_interleave(repeats)
        self._length_R = torch.cat((self._length_R, length_R))
        return tables_RN[::repeats].contiguous()

    def _make_room(self, positions: int) -> None:
        """Give every row blocks for that many more positions, at most its whole table."""
        most = self._tables_RN.shape[1]
        needed_R = ((self._length_R + positions - 1) // calls.BLOCK + 1).clamp(max=most).tolist()
        for row, needed in enumerate(needed_R):
            owned = self._owned[row]
            while len(owned) < needed:
                address = self._pool.take()
                self._tables_RN[row, len(owned)] = address
                owned.append(address)


class _BlockPool:
    """Blocks of floats by address. A block is free again when all its owners released it."""

    def __init__(self, floats_per_position: int) -> None:
        self._floats = floats_per_position * calls.BLOCK
        self._views: dict[int, Tensor] = {}
        self._free: list[int] = []
        self._owners: dict[int, int] = {}

    def take(self) -> int:
        if not self._free:
            for block in torch.empty(SLAB_BLOCKS, self._floats):
                self._views[block.data_ptr()] = block
                self._free.append(block.data_ptr())
        address = self._free.pop()
        self._owners[address] = 1
        return address

    def share(self, addresses: Sequence[int]) -> None:
        for address in addresses:
            self._owners[address] += 1

    def release(self, addresses: Sequence[int]) -> None:
        for address in addresses:
            self._owners[address] -= 1
            if self._owners[address] == 0:
                self._free.append(address)

    def copy(self, source: int, target: int) -> None:
        self._views[target].copy_(self._views[source])
