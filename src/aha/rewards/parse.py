"""The one grammar of think and answer tags, for rewards, evaluation and analysis.

Two readings, and every accuracy says which it used. Strict: the completion is exactly one
think block, then one answer block, and nothing else but white space. Lenient: whatever
stands in the last answer block, even when the layout around it is broken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

THINK_OPENED = re.compile(r"<think>\s*\Z")
_TAG = re.compile(r"<(/?)(think|answer)>", re.IGNORECASE)
_STRICT_SEQUENCE = ["<think>", "</think>", "<answer>", "</answer>"]

# TRL's two kinds of prompt and completion: plain text, or chat messages.
Text = str | Sequence[Mapping[str, Any]]


def text_of(message: Text) -> str:
    """The text of a completion or prompt that is a string or a list of chat messages.

    For messages that is the content of the last one.
    """
    if isinstance(message, str):
        return message
    return str(message[-1].get("content") or "") if message else ""


def with_opened_think(prompt: Text, completion: Text) -> str:
    """The completion's text, with `<think>` before it when the prompt had already opened it."""
    text = text_of(completion)
    return f"<think>{text}" if THINK_OPENED.search(text_of(prompt)) else text


def strict_answer(text: str) -> str | None:
    """The answer of a text with exactly the asked layout, else None.

    `text` includes the opening `<think>`; see `with_opened_think`.
    """
    tags = list(_TAG.finditer(text))
    if [tag.group() for tag in tags] != _STRICT_SEQUENCE:
        return None
    outside = (
        text[: tags[0].start()] + text[tags[1].end() : tags[2].start()] + text[tags[3].end() :]
    )
    if outside.strip():
        return None
    return text[tags[2].end() : tags[3].start()].strip()


def lenient_answer(text: str) -> str | None:
    """What stands in the last closed answer block, tags in any case; None without one."""
    opened: int | None = None
    found: str | None = None
    for tag in _TAG.finditer(text):
        if tag.group(2).lower() != "answer":
            continue
        if not tag.group(1):
            opened = tag.end()
        elif opened is not None:
            found, opened = text[opened : tag.start()], None
    return None if found is None else found.strip()


def has_all_tags(text: str) -> bool:
    """Whether all four tags occur, in whatever order and number."""
    return set(_STRICT_SEQUENCE) <= {tag.group() for tag in _TAG.finditer(text)}
