"""Text for people to read: model text made harmless, values in messages, and text and data files.

Escape codes, other control characters and marks that turn the direction of writing can hide or
forge text. They are shown as ⟨U+001B⟩; letters of every language stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import resources
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

_QUOTED = 200

# Control characters but tab and newline, marks for the direction of writing, line and paragraph
# separators, invisible characters, tags, and halves of surrogate pairs. The joiners U+200C and
# U+200D stay: scripts and emoji need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Text in which every control or invisible character is written out, such as ⟨U+202E⟩."""
    return _HIDDEN.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", text)


def quoted(value: object) -> str:
    """A value as a message shows it: its repr, a long one without its middle."""
    text = repr(value)
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 40]} ... {text[-30:]}"


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its repr if the message is empty."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def did_you_mean(
    name: object, allowed: Iterable[str], written: Mapping[str, str] | None = None
) -> str:
    """The end of a message about an unknown name: the nearest allowed one, or nothing.

    `written` gives the form to show, where it is not the name itself.
    """
    for near in get_close_matches(str(name).lower(), list(allowed), n=1, cutoff=0.7):
        return f" Did you mean {(written or {}).get(near, near)!r}?"
    return ""


def package_yaml(package: str, name: str) -> Any:
    """The content of a YAML file that stands beside a package's modules."""
    text = (resources.files(package) / name).read_text(encoding="utf-8")
    # Both loaders are safe. The one in C is ten times as fast, where PyYAML was built with it.
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506


def text_template(package: str, name: str, **filters: Callable[..., object]) -> Template:
    """A plain-text template from a package's folder `templates`.

    A tag alone on its line leaves no line behind. A value that is not given is an error.
    Nothing is escaped, so it is not for HTML.
    """
    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - text for terminals, shells and files, never HTML
    )
    environment.filters |= filters
    return environment.get_template(name)
