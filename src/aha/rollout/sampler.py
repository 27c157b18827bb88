"""Draw tokens, and watch for the stop strings that end a completion.

A draw inverts the cumulative distribution. That needs one uniform number per token, so every row
has a random stream of its own, and a completion does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from aha.rollout.base import INCOMPLETE, SamplingSettings

_BLOCK = 128


def uniforms(seed: int, rows: Sequence[int], length: int) -> Tensor:
    """Float64 numbers in [0, 1), (B, length); row i depends only on (seed, rows[i])."""
    streams = [
        np.random.Generator(np.random.Philox(key=[seed, row])).random(length) for row in rows
    ]
    return torch.from_numpy(np.stack(streams))


def sample(
    logits_BV: Tensor, uniforms_B: Tensor, settings: SamplingSettings
) -> tuple[Tensor, Tensor]:
    """Next tokens, and their log-probabilities at the scoring temperature, both (B,)."""
    logprobs_BV = torch.log_softmax(logits_BV.float() / settings.scoring_temperature, dim=-1)
    if settings.temperature == 0:
        tokens_B = logprobs_BV.argmax(dim=-1)
    else:
        tokens_B = _draw(_narrow(logprobs_BV.exp(), settings), uniforms_B)
    return tokens_B, logprobs_BV.gather(1, tokens_B[:, None]).squeeze(1)


def _draw(weights_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """Indices (B,) where the running sum of the weights passes u times their total."""
    if weights_BV.shape[1] <= _BLOCK * _BLOCK:
        return _search(weights_BV, uniforms_B)[0]
    # For a large vocabulary: first the block, then the place in it, not 150,000 running sums.
    blocks_BKN = functional.pad(weights_BV, (0, -weights_BV.shape[1] % _BLOCK))
    blocks_BKN = blocks_BKN.unflatten(1, (-1, _BLOCK))
    totals_BK = blocks_BKN.sum(dim=2, dtype=torch.float64)
    block_B, points_B, cumulative_BK = _search(totals_BK, uniforms_B)
    total_B = totals_BK.gather(1, block_B[:, None]).squeeze(1)
    before_B = cumulative_BK.gather(1, block_B[:, None]).squeeze(1) - total_B
    # The point's place in its block, from 0 to 1; below 1 in spite of rounding.
    inside_B = ((points_B - before_B) / total_B).clamp(0.0, 1.0 - 1e-12)
    chosen_BN = blocks_BKN.gather(1, block_B[:, None, None].expand(-1, 1, _BLOCK)).squeeze(1)
    return block_B * _BLOCK + _search(chosen_BN, inside_B)[0]


def _search(weights_BN: Tensor, uniforms_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index and point (B,) at which u times the total falls, and the running sums (B, N)."""
    # In float64: a float32 running sum would lose rare tokens.
    cumulative_BN = weights_BN.cumsum(dim=-1, dtype=torch.float64)
    points_B = uniforms_B * cumulative_BN[:, -1]
    # right=True skips entries of weight 0. u < 1 keeps the index in range, unless the model's
    # weights are NaN: those rows take the last entry, and the update skips them.
    index_B1 = torch.searchsorted(cumulative_BN, points_B[:, None], right=True)
    index_B1 = index_B1.clamp(max=weights_BN.shape[1] - 1)
    return index_B1.squeeze(1), points_B, cumulative_BN


def _narrow(probs_BV: Tensor, settings: SamplingSettings) -> Tensor:
    """Probabilities, 0 where top_k, then top_p, then min_p exclude (transformers' order)."""
    if settings.top_k > 0 and settings.top_k < probs_BV.shape[1]:
        threshold_B1 = probs_BV.topk(settings.top_k, dim=-1).values[:, -1:]
        probs_BV = probs_BV.where(probs_BV >= threshold_B1, 0.0)
    if settings.top_p < 1:
        sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True)
        before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        limit_B1 = settings.top_p * probs_BV.sum(dim=-1, keepdim=True)
        kept_BV = sorted_BV.where(before_BV < limit_B1, 0.0)
        probs_BV = torch.zeros_like(probs_BV).scatter(1, order_BV, kept_BV)
    if settings.min_p > 0:
        threshold_B1 = settings.min_p * probs_BV.max(dim=-1, keepdim=True).values
        probs_BV = probs_BV.where(probs_BV >= threshold_B1, 0.0)
    return probs_BV


class StopStrings:
    """Finds the rows that complete a stop string, even one that starts inside a token.

    A row is decoded only if its newest token holds the last character of a stop string, or bytes
    that may end it. So most steps cost one look-up.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        # A token holds at least one byte, so this many tokens cover any stop string.
        self._window = max(len(stop.encode()) for stop in stops) + 1
        self._tails: dict[int, list[int]] = {}
        # Some tokenizers drop the space of a first token, so another token goes before each.
        before = tokenizer.encode("a", add_special_tokens=False)
        pieces = tokenizer.batch_decode([[*before, i] for i in range(len(tokenizer))])
        last, start = {stop[-1] for stop in stops}, len(tokenizer.decode(before))
        if any(not character.isascii() for character in last):
            last.add(INCOMPLETE)  # a token may hold only the last bytes of such a character
        self._may_end_V = torch.tensor([any(c in last for c in piece[start:]) for piece in pieces])

    def forget(self) -> None:
        """Begin with other rows."""
        self._tails.clear()

    def end_of(self, tokens: Sequence[int]) -> int:
        """The count of a whole row's tokens until a stop string is complete; 0: none is."""
        self.forget()
        return next((n for n, token in enumerate(tokens, 1) if self._reached(0, token)), 0)

    def reached(self, row_R: Tensor, tokens_R: Tensor) -> Tensor:
        """True (R,) for each row whose newest token completes a stop string."""
        rows, tokens = row_R.tolist(), tokens_R.tolist()
        reached = [self._reached(row, token) for row, token in zip(rows, tokens, strict=True)]
        return torch.tensor(reached, device=tokens_R.device)

    def _reached(self, row: int, token: int) -> bool:
        tail = self._tails.setdefault(row, [])
        tail.append(token)
        del tail[: -self._window]
        if token >= len(self._may_end_V) or not self._may_end_V[token]:
            return False
        text = self._tokenizer.decode(tail)
        return any(stop in text for stop in self._stops)
