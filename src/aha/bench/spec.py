"""What both sides of a benchmark are given, and what they report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

Side = Literal["native", "trl", "trl-continuous"]

# Random weights in these shapes: what a run costs depends on nothing else about a model.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "qwen2.5-3b": {
        "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "intermediate_size": 11_008, "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49_152,
        "tie_word_embeddings": True,
    },
    # Four of the 24 layers of 0.5B and a small vocabulary: what one layer costs at each length.
    "qwen2.5-0.5b-4-layers": {
        "hidden_size": 896, "num_hidden_layers": 4, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 8192,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """One side's work: a step of `prompts` x `generations`, learning rate 0.

    `model` is a name or folder as in a recipe, on Countdown problems with the default recipe's
    rewards; or the name of a shape, with random weights, every completion exactly `limit` tokens
    long and rewards that only alternate. `checkpointing` is gradient checkpointing.
    """

    side: Side
    model: str
    prompts: int
    generations: int
    limit: int
    threads: int
    checkpointing: bool = False

    @property
    def is_shape(self) -> bool:
        return self.model in SHAPES

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Spec:
        return Spec(**json.loads(text))


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step, its completion tokens, and the process's peak memory so far in GiB."""

    step_s: float
    rollout_s: float
    train_s: float
    tokens: int
    peak_gb: float
    logprob_gap: float | None = None
    tokens_per_microbatch: int | None = None
