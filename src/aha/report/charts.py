"""Charts drawn by matplotlib: lines and bars, as SVG for the page or on axes for a PNG.

The SVG names its colours by the page's CSS variables, so dark mode and print need no second
picture. Series differ in dash and marker as well as in colour. The palette is Okabe and Ito's
(Color Universal Design, 2008), without its yellow, which is too light on paper.
Left out: zooming and tooltips. They need a script, and the figures stand in the tables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aha.report.numbers import known, write

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000001")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
# Drawn in these, which nothing else uses, then replaced by the page's colours.
INK, GRID, PAPER = "#123456", "#123457", "#123458"
_LONGEST = 48  # characters of a label
_WIDTH = 4.7  # inches, at 72 a pixel: about a phone's column, so text keeps its size there

_LEAST_SPAN = 0.1


@dataclass(frozen=True)
class Colours:
    """What a drawing is drawn in beside its series: text and axes, grid, background."""

    ink: str
    grid: str
    paper: str


ON_WHITE = Colours("black", "#d0d0d0", "white")
_OF_PAGE = Colours(INK, GRID, PAPER)


@dataclass(frozen=True)
class Series:
    """A curve: a strong line, and faintly either the raw values or a band from low to high."""

    label: str
    steps: Sequence[float]
    strong: Sequence[float]
    raw: Sequence[float] | None = None
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Panel:
    """Curves of one kind over the steps; `form` is how its values are written."""

    title: str
    form: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Bars:
    """One set of bars: a value for each category, with an interval where there is one."""

    label: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class BarChart:
    """Sets of horizontal bars side by side over the same categories."""

    title: str
    form: str
    categories: Sequence[str]
    bars: tuple[Bars, ...]


def draw(panel: Panel, axes: Axes, colours: Colours = ON_WHITE) -> None:
    """The panel's curves on axes; a legend when there are several."""
    several = len(panel.series) > 1
    for index, series in enumerate(panel.series):
        colour = COLOURS[index % len(COLOURS)]
        if series.raw is not None and not several:
            axes.plot(series.steps, series.raw, color=colour, alpha=0.45, linewidth=0.8)
        if series.low is not None and series.high is not None:
            axes.fill_between(
                series.steps, series.low, series.high, color=colour, alpha=0.18, linewidth=0
            )
        axes.plot(
            series.steps,
            series.strong,
            color=colour,
            linewidth=1.9,
            linestyle=_DASHES[index % len(_DASHES)] if several else "-",
            marker=_MARKERS[index % len(_MARKERS)] if several else None,
            markersize=4.5,
            markevery=(index * max(1, len(series.steps) // 35), max(1, len(series.steps) // 7)),
            label=series.label,
        )
    if panel.form == "percent":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.4g} %")
        _ten_points(axes)
    axes.set_xlabel("step", color=colours.ink, fontsize=10)
    axes.margins(x=0.01)
    _dress(axes, colours, "y")
    if several:
        _legend(axes, colours.ink, [series.label for series in panel.series])


def _ten_points(axes: Axes) -> None:
    """At least ten points of a share on the axis, so that nothing looks like much."""
    low, high = axes.get_ylim()
    if high - low < _LEAST_SPAN:
        low = min(max(low, 0.0), 1.0 - _LEAST_SPAN)
        axes.set_ylim(low - 0.002, low + _LEAST_SPAN + 0.002)


def draw_bars(chart: BarChart, axes: Axes, colours: Colours = ON_WHITE) -> None:
    """The chart's bars on axes, the first category on top, values written at their ends."""
    count = len(chart.bars)
    height = 0.8 / count
    for index, bars in enumerate(chart.bars):
        places = [row + (index - (count - 1) / 2) * height for row in range(len(bars.values))]
        colour = COLOURS[index % len(COLOURS)]
        axes.barh(
            places,
            bars.values,
            height * 0.86,
            color=colour,
            edgecolor=colours.paper,
            linewidth=0,
            hatch=_HATCHES[index % len(_HATCHES)],
            label=bars.label,
        )
        ends = list(bars.high or bars.values)
        if bars.low is not None and bars.high is not None:
            axes.hlines(places, bars.low, bars.high, color=colours.ink, linewidth=1.1)
        for place, value, end in zip(places, bars.values, ends, strict=True):
            axes.annotate(
                write(value, chart.form), (end, place), xytext=(4, 0), va="center",
                textcoords="offset points", fontsize=9.5, color=colours.ink,
            )  # fmt: skip
    axes.set_yticks(range(len(chart.categories)), chart.categories)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    if chart.form == "percent":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.4g} %")
    _dress(axes, colours, "x")
    if count > 1:
        _legend(axes, colours.ink, [bars.label for bars in chart.bars])


def panel_svg(panel: Panel) -> Markup:
    """The panel as an <svg> element that takes its colours from the page."""
    rows = _rows([series.label for series in panel.series])
    figure = Figure(figsize=(_WIDTH, 2.55 + 0.22 * rows), layout="constrained")
    draw(panel, figure.add_subplot(), _OF_PAGE)
    return _svg(figure, panel.title, describe(panel))


def bars_svg(chart: BarChart) -> Markup:
    """The bar chart as an <svg> element; its height follows the number of bars."""
    figure = Figure(figsize=(_WIDTH, bars_height(chart)), layout="constrained")
    draw_bars(chart, figure.add_subplot(), _OF_PAGE)
    return _svg(figure, chart.title, describe_bars(chart))


def bars_height(chart: BarChart) -> float:
    """Inches that the chart needs: its bars, axis and legend."""
    count = len(chart.categories) * len(chart.bars)
    return 0.5 + 0.23 * count + 0.22 * _rows([bars.label for bars in chart.bars])


def describe(panel: Panel) -> str:
    """The panel in words: where each smoothed curve begins, ends, and its extremes."""
    sentences = []
    for series in panel.series:
        known_ = [value for value in series.strong if known(value)]
        name = f"{series.label}: " if len(panel.series) > 1 else ""
        first, last, low, high = (
            write(value, panel.form) for value in (known_[0], known_[-1], min(known_), max(known_))
        )
        sentences.append(
            f"{name}from {first} at step {series.steps[0]:.0f} to {last} at step "
            f"{series.steps[-1]:.0f}, lowest {low}, highest {high}."
        )
    return f"{panel.title}. {' '.join(sentences)}"


def describe_bars(chart: BarChart) -> str:
    """The bar chart in words: every value."""
    rows = [
        f"{category} "
        + ", ".join(f"{bars.label} {write(bars.values[row], chart.form)}" for bars in chart.bars)
        for row, category in enumerate(chart.categories)
    ]
    return f"{chart.title}. {'; '.join(rows)}."


def _dress(axes: Axes, colours: Colours, lines: Literal["x", "y"]) -> None:
    axes.tick_params(colors=colours.ink, length=0, labelsize=10)
    axes.grid(axis=lines, color=colours.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(colours.ink)


def _legend(axes: Axes, ink: str, labels: Sequence[str]) -> None:
    """Under the drawing, where it meets neither a title nor a curve."""
    handles, _ = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, [_plain(label) for label in labels], loc="outside lower left",
        ncols=_columns(labels), frameon=False, fontsize=9.5, labelcolor=ink, handlelength=3.2,
        borderaxespad=0.2, columnspacing=1.4,
    )  # fmt: skip


def _columns(labels: Sequence[str]) -> int:
    return 2 if max(map(len, labels)) <= 20 else 1


def _rows(labels: Sequence[str]) -> int:
    return -(-len(labels) // _columns(labels)) if len(labels) > 1 else 0


def _plain(label: str) -> str:
    """A label that fits, without matplotlib's reading of dollars as mathematics."""
    short = label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
    return short.replace("$", r"\$")


def _svg(figure: Figure, title: str, description: str) -> Markup:
    buffer = io.StringIO()
    # Text stays text (a page's font, small files); the salt keeps references of several charts
    # on one page apart, and the same from build to build.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    # matplotlib's own style rule would hold for the whole page, and its metadata names hosts.
    svg = re.sub(
        r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r'="[^"]*"', _short, svg).replace("xlink:href", "href")
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", svg)
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    svg = svg.replace(PAPER, "var(--paper)")
    for index, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--series-{index})")
    label = f'<svg role="img" aria-label="{escape(description)}"'
    # The text in the drawing is ours but for labels, which matplotlib escapes.
    return Markup(svg.replace("<svg", label, 1))  # noqa: S704


def _short(attribute: re.Match[str]) -> str:
    """An attribute on one line with coordinates to a hundredth; labels are text and stay whole."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", " ".join(attribute.group().split()))
