"""What a step of a model costs in arithmetic and memory traffic, from its sizes."""

from __future__ import annotations

from typing import Any


def training_flops(config: Any, rows: int, prompt: int, completion: int) -> float:
    """Forward and backward of an update: 6 a weight and token, plus causal attention.

    The head counts where completions are predicted; what is computed again (checkpointing) does
    not count.
    """
    tokens = rows * (prompt + completion)
    head = config.hidden_size * config.vocab_size
    products = 6.0 * (tokens * block_weights(config) + rows * completion * head)
    width = config.num_attention_heads * _head_dim(config)
    attention = 6.0 * config.num_hidden_layers * rows * (prompt + completion) ** 2 * width
    return products + attention


def decode_bytes(config: Any, cached: float, bytes_per_value: int = 4) -> float:
    """What one token of one row reads: all weights, and keys and values of `cached` positions."""
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * _head_dim(config)
    weights = block_weights(config) + config.hidden_size * config.vocab_size
    return bytes_per_value * (weights + kv * cached)


def block_weights(config: Any) -> int:
    """Parameters of the blocks' matrices."""
    hidden, head_dim = config.hidden_size, _head_dim(config)
    attention = hidden * head_dim * 2 * (config.num_attention_heads + config.num_key_value_heads)
    return int(config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size))


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
