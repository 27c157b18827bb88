"""How long a text may be for a model: beyond that GPT-2 fails, and others write worse unnoticed."""

from __future__ import annotations

from typing import Any

from aha.types import UserError


def positions_of(config: Any) -> int | None:
    """Tokens that prompt and completion may have together, none where there is no limit.

    There is none for state-space models and ALiBi. `max_position_embeddings` may be what a model
    was first trained with or what its rotary embedding is scaled to, so the larger of it and the
    scaled length counts.
    """
    text = config.get_text_config()
    stated = getattr(text, "max_position_embeddings", None)
    if stated is None or getattr(text, "alibi", False):
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    # Some models have one rotary embedding for each type of layer.
    kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]
    scaled = [
        int((kind.get("factor") or 1) * (kind.get("original_max_position_embeddings") or stated))
        for kind in kinds
    ]
    return max([stated, *scaled])


def require_positions(config: Any, prompt_tokens: int, completion_tokens: int) -> None:
    """Errors: UserError where the longest prompt and completion are too long for the model."""
    limit = positions_of(config)
    if limit is None or prompt_tokens + completion_tokens <= limit:
        return
    allowed = limit - prompt_tokens
    way = f"allowed is at most {allowed}" if allowed > 0 else "the prompts must become shorter"
    raise UserError(
        f"generation.max_completion_length is {completion_tokens} and the longest prompt has "
        f"{prompt_tokens} tokens, but the model ({config.model_type}) takes {limit} tokens "
        f"together; {way}."
    )
