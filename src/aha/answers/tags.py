"""The one grammar of layouts and answers, for rewards, evaluation and analysis.

It has two readings, and every accuracy says which it used. Strict: the text is exactly in the
layout that the prompt asks for (`LAYOUTS`). Lenient: the text of the last answer block, even when
the layout around it is broken; without such a block the last `\\boxed{...}`, else the text after
the last `####`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# TRL's two kinds of prompt and completion: plain text, or chat messages.
Text = str | Sequence[Mapping[str, Any]]

_TAG = re.compile(r"<(/?)(think|reasoning|answer)>", re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]*([^\n<]*)")
_HASH_AT_END = re.compile(r"####[ \t]*([-+\u2212]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?)\s*\Z")
_BRACE = re.compile(r"(?<!\\)[{}]")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")

# The four tags of a layout in order: one block of thoughts, one answer, nothing else but space.
TAGS = {
    thoughts: (f"<{thoughts}>", f"</{thoughts}>", "<answer>", "</answer>")
    for thoughts in ("think", "reasoning")
}
# Each layout in words.
LAYOUTS = {
    "think": "in <think> and <answer> tags",
    "reasoning": "in <reasoning> and <answer> tags",
    "boxed": "in one \\boxed{}",
    "hash": "with one #### NUMBER, at the end",
}
_OPENED = re.compile(r"<(?:think|reasoning)>\s*\Z")


def text_of(message: Text) -> str:
    """The text of a completion or prompt; of chat messages, the last one's content."""
    if isinstance(message, str):
        return message
    return str(message[-1].get("content") or "") if message else ""


def opened_thoughts(prompt: Text) -> str:
    """The opening tag, and the space after it, that the prompt ends in; "" without one."""
    opened = _OPENED.search(text_of(prompt))
    return opened.group() if opened else ""


def with_opened_thoughts(prompt: Text, completion: Text) -> str:
    """The completion's text, after the opening tag when the prompt ended in one."""
    return opened_thoughts(prompt) + text_of(completion)


def strict_answer(text: str, layout: str | None = None) -> str | None:
    """The answer of a text in exactly the named layout of `LAYOUTS`, or in any if None; else None.

    `text` includes the opening tag; see `with_opened_thoughts`. Tags are lower case. The box is
    looked for after the thoughts, if there are any.
    """
    if layout is None:
        found = (strict_answer(text, name) for name in LAYOUTS)
        return next((answer for answer in found if answer is not None), None)
    if layout == "hash":
        at_end = _HASH_AT_END.search(text) if text.count("####") == 1 else None
        return at_end.group(1) if at_end else None
    if layout == "boxed":
        said = text.rpartition("</think>")[2]
        return last_boxed(said) if len(_BOXED.findall(said)) == 1 else None
    tags = list(_TAG.finditer(text))
    if tuple(tag.group() for tag in tags) != TAGS[layout]:
        return None
    between = text[tags[1].end() : tags[2].start()]
    outside = text[: tags[0].start()] + between + text[tags[3].end() :]
    if outside.strip():
        return None
    return text[tags[2].end() : tags[3].start()].strip()


def lenient_answer(text: str) -> str | None:
    """The last closed answer block, else the last box, else the text after `####`; else None."""
    for found in (answer_block(text), last_boxed(text)):
        if found is not None:
            return found
    hashes = _HASHES.findall(text)
    return hashes[-1].strip() if hashes else None


def answer_block(text: str) -> str | None:
    """The text of the last closed answer block, with tags in any case; None without one."""
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


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}` whose braces close; None without one."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(brace.end())
        elif opened:
            closing[opened.pop()] = brace.start()
    starts = [match.end() for match in _BOXED.finditer(text)]
    whole = [start for start in starts if start in closing]
    return text[whole[-1] : closing[whole[-1]]].strip() if whole else None
