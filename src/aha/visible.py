"""Model text made harmless for people's eyes: what would steer a terminal or a page is spelled out.

Escape codes, other control characters and the marks that turn the direction of writing can hide
or forge what a text says. They are shown as `<U+001B>`; letters of every language stay.
"""

from __future__ import annotations

import re

_QUOTED = 200

# Controls but newline and tab; marks and overrides of direction; other line ends; the BOM.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def visible(text: str) -> str:
    """The text with every steering character as `<U+XXXX>`."""
    return _STEERING.sub(lambda match: f"<U+{ord(match.group()):04X}>", text)


def quoted(value: object) -> str:
    """A value as a message shows it: its repr, a long one without its middle."""
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 40]} ... {text[-30:]}"
