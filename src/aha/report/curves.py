"""Curves as inline SVG, drawn by matplotlib in colours that follow the page's theme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Drawn in this ink, then replaced by the page's text colour, so dark mode and print work.
_INK = "#123456"
_LINE = "#2f6fb0"  # blue, told apart from the ink by the colour-blind too


@dataclass(frozen=True)
class Curve:
    """One panel: a title that names the unit, and a value per step (None: not known)."""

    title: str
    steps: Sequence[int]
    values: Sequence[float | None]
    as_percent: bool = False


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Mean over the last `window` values; fewer at the beginning."""
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / (i + 1 - max(0, i - window + 1))
        for i in range(len(values))
    ]


def draw(curve: Curve, axes: Axes, ink: str = "black") -> None:
    """The raw values faintly, their running mean strongly."""
    known = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if v is not None]
    steps, values = [s for s, _ in known], [v for _, v in known]
    axes.plot(steps, values, color=_LINE, alpha=0.3, linewidth=1)
    axes.plot(steps, smooth(values, max(1, len(values) // 20)), color=_LINE, linewidth=2)
    axes.set_title(curve.title, loc="left", fontsize=10, color=ink)
    axes.set_xlabel("step", color=ink)
    axes.tick_params(colors=ink)
    if curve.as_percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink)


def to_svg(curve: Curve) -> str:
    """The curve as an <svg> element that takes its ink from the page."""
    figure = Figure(figsize=(5.2, 2.7), layout="constrained")
    axes = figure.add_subplot()
    draw(curve, axes, ink=_INK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', svg, count=1)
    return svg.replace(_INK, "currentColor")


def to_png(curves: Sequence[Curve], path: str) -> None:
    """All panels side by side in one picture, for a README."""
    columns = 2 if len(curves) > 1 else 1
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(5.2 * columns, 2.7 * rows), layout="constrained")
    for index, curve in enumerate(curves):
        draw(curve, figure.add_subplot(rows, columns, index + 1))
    figure.savefig(path, dpi=110)
