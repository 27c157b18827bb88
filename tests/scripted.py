"""An engine that recites given texts, for tests of everything around a rollout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aha.rollout.base import SamplingSettings
from aha.types import Completion, Prompt


class ScriptedEngine:
    """Answers with `script(prompt, index_in_group)`, encoded by `encode`."""

    def __init__(
        self, script: Callable[[Prompt, int], str], encode: Callable[[str], list[int]]
    ) -> None:
        self._script = script
        self._encode = encode

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
        limits: Sequence[int] | None = None,
    ) -> list[tuple[Completion, ...]]:
        return [
            tuple(
                self._completion(self._script(prompt, g), settings) for g in range(num_generations)
            )
            for prompt in prompts
        ]

    def _completion(self, text: str, settings: SamplingSettings) -> Completion:
        ids = tuple(self._encode(text))
        kept = ids[: settings.max_completion_length]
        logprobs = (0.0,) * len(kept)
        return Completion(text, kept, logprobs, "stop" if len(kept) == len(ids) else "length")
