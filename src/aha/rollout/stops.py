"""Stop strings: a completion ends with the token that completes one of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from aha.rollout.partial import INCOMPLETE


class StopStrings:
    """Watches rows for stop strings, however their characters fall into tokens.

    Only a row whose newest token holds the last character of a stop string, or bytes that may end
    it, is read back, so a step costs one look-up.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        # A token holds at least one byte, so this many tokens reach over any stop string.
        self._window = max(len(stop.encode()) for stop in stops) + 1
        self._tails: dict[int, list[int]] = {}
        # Some decoders drop the space of a first token, so another one stands before each.
        before = tokenizer.encode("a", add_special_tokens=False)
        pieces = tokenizer.batch_decode([[*before, i] for i in range(len(tokenizer))])
        last, start = {stop[-1] for stop in stops}, len(tokenizer.decode(before))
        if any(not character.isascii() for character in last):
            last.add(INCOMPLETE)  # a token may hold only the last bytes of such a character
        self._may_end_V = torch.tensor([any(c in last for c in piece[start:]) for piece in pieces])

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
