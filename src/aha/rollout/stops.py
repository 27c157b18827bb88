"""Stop strings: a completion ends with the token that completes one of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


class StopStrings:
    """Watches rows for stop strings, however their characters fall into tokens.

    Only a row whose newest token holds the last character of a stop string is read back, so a
    step costs one look-up.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        # A token holds at least one byte, so this many tokens reach over any stop string.
        self._window = max(len(stop.encode()) for stop in stops) + 1
        self._tails: dict[int, list[int]] = {}
        pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        last = {stop[-1] for stop in stops}
        self._may_end_V = torch.tensor([any(c in last for c in piece) for piece in pieces])

    def reached(self, row_R: Tensor, tokens_R: Tensor) -> Tensor:
        """Which rows (R,) have a stop string that their newest token completes."""
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
