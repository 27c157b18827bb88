"""Models that recite, for tests of everything around what real ones write."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from aha.play.session import Session
from aha.rollout.base import Partial, SamplingSettings
from aha.types import Prompt

MakeSession = Callable[..., Session]

# Of 3 13 5 to 15: one try that fails; and one that is right after two given-up tries.
GIVES_UP = "13 * 3 = 39 , 39 + 5 = 44 , not 15 . </think> <answer> ( 13 * 3 ) + 5 </answer>"
GOES_ON = (
    "13 * 3 = 39 , 39 + 5 = 44 , not 15 . Wait, 13 - 3 = 10 , 10 - 5 = 6 , not 15 . "
    "Wait, 5 - 3 = 2 , 13 + 2 = 15 , yes . </think> <answer> 13 + ( 5 - 3 ) </answer>"
)


class WordTokenizer:
    """Tokens are words with the blank before them, numbered in the order of their first use."""

    chat_template = unk_token_id = bos_token_id = eos_token_id = pad_token_id = None

    def __init__(self) -> None:
        self._words: list[str] = []

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids = []
        for place, word in enumerate(text.split(" ")):
            piece = word if place == 0 else f" {word}"
            if piece not in self._words:
                self._words.append(piece)
            ids.append(self._words.index(piece))
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return "".join(self._words[i] for i in ids)


class RecitingEngine:
    """Streams given texts, a token of every row at a time, `texts[i]` in the row i."""

    def __init__(self, texts: Sequence[str], tokenizer: WordTokenizer) -> None:
        self._ids = [tokenizer.encode(text) for text in texts]
        self._tokenizer = tokenizer
        self.closed = False

    def stream(
        self, prompts: Sequence[Prompt], rows: int, settings: SamplingSettings, seed: int
    ) -> Generator[list[tuple[Partial, ...]], None, None]:
        limit = settings.max_completion_length
        texts = [self._ids[row % len(self._ids)] for row in range(rows)]
        try:
            for count in range(1, min(limit, max(map(len, texts))) + 1):
                yield [tuple(self._partial(ids, min(count, len(ids)), limit) for ids in texts)]
        finally:
            self.closed = True

    def _partial(self, ids: Sequence[int], count: int, limit: int) -> Partial:
        reason: Any = "stop" if count == len(ids) else "length" if count == limit else None
        text = self._tokenizer.decode(ids[:count])
        return Partial(text, tuple(ids[:count]), (0.0,) * count, reason)
