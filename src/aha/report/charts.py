"""Charts drawn by matplotlib: curves and bars, as SVG for the page or as PNG on white.

The SVG names its colours by the page's CSS variables, so dark mode and print need no second
picture. Series differ in dash and marker as well as in colour. The palette is Okabe and Ito's
(Color Universal Design, 2008), without its yellow, which is too light on paper.
Left out: zooming and tooltips. They need a script, and the tables hold the numbers.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from aha.report.run_data import write
from aha.visible import text_template, visible

_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000001")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
_LONGEST = 48  # characters of a label
_WIDTH = 4.7  # inches, at 72 a pixel: about a phone's column, so text keeps its size there
_LEAST_SPAN = 0.1  # of an axis of shares
_STYLE = matplotlib.rc_params_from_file(
    str(resources.files("aha.report") / "chart.mplstyle"), use_default_template=False
)

_FONT = "DejaVu Sans"  # comes with matplotlib
_INK, _GRID, _PAPER = "#123456", "#123457", "#123458"  # no series has these colours
_OF_PAGE = {
    _INK: "currentColor",
    _GRID: "var(--grid)",
    _PAPER: "var(--paper)",
    f"'{_FONT}', sans-serif": "var(--font)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES)},
}
_REPLACED = re.compile("|".join(map(re.escape, _OF_PAGE)))
_LONG_FRACTION = re.compile(r"(\.\d\d)\d+")


@dataclass(frozen=True)
class Series:
    """A curve over `steps`, or a bar for each category, perhaps with a range from low to high.

    A curve without a range may have its `raw` values drawn faintly behind it.
    """

    label: str
    values: Sequence[float]
    steps: Sequence[float] = ()
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    raw: Sequence[float] | None = None


@dataclass(frozen=True)
class Chart:
    """Curves over the steps; with `categories`, sets of horizontal bars side by side.

    `form` is the form of its values (`run_data.write`), and `across` names the axis of the curves'
    steps. `behind` the curves are grey bands and
    points, drawn from the range or else from the values of a series.
    """

    title: str
    form: str
    series: tuple[Series, ...]
    categories: Sequence[str] = ()
    behind: tuple[Series, ...] = ()
    across: str = "step"

    @property
    def labels(self) -> list[str]:
        """The entries of the legend; none for a curve that stands alone."""
        shown = [series.label for series in (*self.behind, *self.series)]
        return shown if len(shown) > 1 else []


def _style(ink: str, grid: str, paper: str) -> dict[str, Any]:
    """matplotlib's settings, with text and axes, the grid and the background in these colours."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {**_STYLE, **dict.fromkeys(inked, ink), "axes.facecolor": paper, "grid.color": grid}


def _draw(chart: Chart, axes: Axes) -> None:
    """The chart on axes; under it a legend when there is more than a curve."""
    value_axis: Axis
    if chart.categories:
        _draw_bars(chart, axes)
        value_axis = axes.xaxis
    else:
        _draw_curves(chart, axes)
        value_axis = axes.yaxis
    value_axis.grid(True)
    if chart.form == "percent":
        value_axis.set_major_formatter(lambda value, _: f"{value * 100:.4g} %")
    if chart.labels:
        handles, labels = axes.get_legend_handles_labels()
        axes.figure.legend(handles, labels, loc="outside lower left", ncols=_columns(chart))


def _draw_curves(chart: Chart, axes: Axes) -> None:
    several = len(chart.series) > 1
    grey = {"color": matplotlib.rcParams["text.color"], "linewidth": 0}
    for index, series in enumerate(chart.behind):
        label = _plain(series.label)
        if series.low is not None and series.high is not None:
            axes.fill_between(
                series.steps,
                series.low,
                series.high,
                alpha=0.13,
                label=label,
                hatch=_HATCHES[index % len(_HATCHES)],
                **grey,
            )
        else:
            axes.plot(
                series.steps,
                series.values,
                alpha=0.6,
                marker="*",
                markersize=9,
                label=label,
                **grey,
            )
    for index, series in enumerate(chart.series):
        colour = _SERIES[index % len(_SERIES)]
        if series.raw is not None and not several:
            axes.plot(series.steps, series.raw, color=colour, alpha=0.45, linewidth=0.8)
        if series.low is not None and series.high is not None:
            axes.fill_between(
                series.steps, series.low, series.high, color=colour, alpha=0.18, linewidth=0
            )
        count = len(series.steps)
        axes.plot(
            series.steps,
            series.values,
            color=colour,
            linewidth=1.9,
            linestyle=_DASHES[index % len(_DASHES)] if several else "-",
            marker=_MARKERS[index % len(_MARKERS)] if several else None,
            markersize=4.5,
            markevery=(index * max(1, count // 35) % count, max(1, count // 7)),
            label=_plain(series.label),
        )
    axes.set_xlabel(chart.across)
    # Points that stand alone would lie on the frame.
    axes.margins(x=0.01 if any(len(series.steps) > 1 for series in chart.series) else 0.1)
    low, high = axes.get_ylim()
    if chart.form == "percent" and high - low < _LEAST_SPAN:
        # So that a small change looks small.
        low = min(max(low, 0.0), 1.0 - _LEAST_SPAN)
        axes.set_ylim(low - 0.002, low + _LEAST_SPAN + 0.002)


def _draw_bars(chart: Chart, axes: Axes) -> None:
    """The first category on top, values written at the ends of the bars."""
    count = len(chart.series)
    height = 0.8 / count
    for index, bars in enumerate(chart.series):
        places = [row + (index - (count - 1) / 2) * height for row in range(len(bars.values))]
        axes.barh(
            places,
            bars.values,
            height * 0.86,
            color=_SERIES[index % len(_SERIES)],
            edgecolor=axes.get_facecolor(),
            linewidth=0,
            hatch=_HATCHES[index % len(_HATCHES)],
            label=_plain(bars.label),
        )
        if bars.low is not None and bars.high is not None:
            axes.hlines(
                places, bars.low, bars.high, color=matplotlib.rcParams["text.color"], linewidth=1.1
            )
        for place, value, end in zip(places, bars.values, bars.high or bars.values, strict=True):
            axes.annotate(
                write(value, chart.form), (end, place), xytext=(4, 0), va="center",
                textcoords="offset points", fontsize=9.5,
            )  # fmt: skip
    axes.set_yticks(range(len(chart.categories)), chart.categories)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlim(left=0)


def _plain(label: str) -> str:
    """A label that fits, without matplotlib's reading of dollars as mathematics."""
    short = label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
    return visible(short).replace("$", r"\$")


def _columns(chart: Chart) -> int:
    """Columns of the legend."""
    return 2 if max(map(len, chart.labels)) <= 20 else 1


def chart_height(chart: Chart) -> float:
    """The inches that the chart needs: its curves or bars, its axis and its legend."""
    legend = 0.22 * -(-len(chart.labels) // _columns(chart)) if chart.labels else 0.0
    if chart.categories:
        return 0.5 + 0.23 * len(chart.categories) * len(chart.series) + legend
    return 2.55 + legend


def chart_svg(chart: Chart) -> Markup:
    """The chart as an <svg> element that takes its colours and font from the page.

    Text stays text. Two builds give the same bytes, and several charts can stand on one page.
    """
    written = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": chart.title, "font.sans-serif": [_FONT]}
    with matplotlib.rc_context(settings | _style(_INK, _GRID, _PAPER)):
        figure = Figure(figsize=(_WIDTH, chart_height(chart)), layout="constrained")
        _draw(chart, figure.add_subplot())
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(written.getvalue())  # noqa: S314 matplotlib has just written it
    for element in root.iter():
        # In HTML an <svg> needs no namespaces; the page shall name no host.
        element.tag = element.tag.rpartition("}")[2]
        attributes = element.attrib
        element.attrib = {}
        for name, value in attributes.items():
            text = _REPLACED.sub(lambda match: _OF_PAGE[match.group()], " ".join(value.split()))
            # Coordinates to a hundredth are enough, and make the page smaller.
            element.attrib[name.rpartition("}")[2]] = _LONG_FRACTION.sub(r"\1", text)
        element.tail = None
        if element.tag == "g":
            # Every drawing has the same ids of groups; nothing refers to them.
            element.attrib.pop("id", None)
        for child in list(element):
            # The metadata names hosts, and matplotlib's style would hold for the whole page.
            if child.tag.endswith(("}metadata", "}style")):
                element.remove(child)
    for name in ("width", "height"):
        del root.attrib[name]
    words = text_template("aha.report", "chart.txt.j2", write=write).render(chart=chart)
    root.attrib |= {"role": "img", "aria-label": visible(words)}
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 ElementTree escapes labels


def charts_png(charts: Sequence[Chart], path: Path) -> Path:
    """`charts_figure` as a file."""
    charts_figure(charts).savefig(path, dpi=150)
    return path


def charts_figure(charts: Sequence[Chart]) -> Figure:
    """Charts with their titles on white, two in a row."""
    columns = min(2, len(charts))
    rows = -(-len(charts) // columns)
    row_height = max(map(chart_height, charts)) + 0.65  # room for the title
    with matplotlib.rc_context(_style("black", "#d0d0d0", "white")):
        figure = Figure(figsize=(5.4 * columns, row_height * rows), layout="constrained")
        # A part of the figure each, so that each legend stands under its own drawing.
        parts = figure.subfigures(rows, columns, squeeze=False).flat
        for chart, part in zip(charts, parts, strict=False):
            axes = part.add_subplot()
            _draw(chart, axes)
            axes.set_title(chart.title, loc="left", fontsize=11)
    return figure
