"""Model text on a page: escaped, without invisible characters, marked, and not too long.

Left out: rendering of Markdown or mathematics. What the model wrote is shown as it wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from aha.reasoning.analysis import Analysis
from aha.visible import visible

# Shown whole up to here; above, the beginning and the end with the length of what is between.
SHOWN = 6_000
_HEAD = 4_000
_FOLDED = 900
_PREVIEW = 110

_TURN = Markup('<span class="turn"></span>')


@dataclass(frozen=True)
class Shown:
    """A text ready for the page: its markup, a line of preview when it is folded, and how many
    characters were left out of its middle."""

    markup: Markup
    preview: str
    left_out: int

    @property
    def folded(self) -> bool:
        return bool(self.preview)


def show(text: str, analysis: Analysis | None = None, fold: bool = True) -> Shown:
    """A model's text for the page, with the passages of `analysis` marked.

    Longer than `SHOWN` characters: the first 4,000 and the last 2,000.
    """
    spans = _spans(analysis) if analysis is not None else []
    left_out = 0
    if len(text) <= SHOWN:
        markup = _marked(text, 0, len(text), spans)
    else:
        tail = len(text) - (SHOWN - _HEAD)
        left_out = tail - _HEAD
        gap = Markup('\n<span class="gap">[{:,} characters left out]</span>\n').format(left_out)
        markup = _marked(text, 0, _HEAD, spans) + gap + _marked(text, tail, len(text), spans)
    long = fold and len(text) > _FOLDED
    preview = visible(" ".join(text[: 2 * _PREVIEW].split())[:_PREVIEW]) + "…" if long else ""
    return Shown(markup, preview, left_out)


def _spans(analysis: Analysis) -> list[tuple[int, int, str, str]]:
    """(start, end, class, title) of what is marked, without overlaps, in order."""
    spans = [
        (p.start, p.end, p.behaviour.replace("_", "-"), p.behaviour.replace("_", " "))
        for p in analysis.passages
    ]
    spans += [(s.start, s.end, "false", "false equation") for s in analysis.steps if not s.true]
    kept: list[tuple[int, int, str, str]] = []
    # Of two that begin together the phrase goes before the equation, being listed first.
    for span in sorted(spans, key=lambda span: span[0]):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def _marked(text: str, start: int, end: int, spans: Sequence[tuple[int, int, str, str]]) -> Markup:
    """text[start:end], escaped; spans that cross an edge are left unmarked."""
    pieces: list[Markup] = []
    position = start
    for first, last, name, title in spans:
        if first < start or last > end:
            continue
        pieces.append(escape(visible(text[position:first])))
        if name == "backtracking" and first > 0 and text[first - 1] != "\n":
            pieces.append(_TURN)
        pieces.append(
            Markup('<mark class="{}" title="{}">{}</mark>').format(
                name, title, visible(text[first:last])
            )
        )
        position = last
    pieces.append(escape(visible(text[position:end])))
    return Markup("").join(pieces)
