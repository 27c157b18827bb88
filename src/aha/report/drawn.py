"""Charts as a page holds them, and what one page and a comparison say alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from aha.report import curves as curves_
from aha.report.charts import BarChart, Panel, bars_svg, panel_svg


@dataclass(frozen=True)
class Drawn:
    """A chart ready for the page."""

    title: str
    svg: Markup


def contents(*sections: tuple[str, str, bool]) -> list[tuple[str, str]]:
    """(id, name) of the sections that are there."""
    return [(name, title) for name, title, there in sections if there]


def drawn_headings(
    headings: Sequence[tuple[str, Sequence[Panel]]],
) -> list[tuple[str, list[Drawn]]]:
    """The panels under their headings, as SVG."""
    return [
        (heading, [Drawn(panel.title, panel_svg(panel)) for panel in panels])
        for heading, panels in headings
    ]


def drawn_bars(chart: BarChart) -> Drawn:
    """The bar chart as SVG."""
    return Drawn(chart.title, bars_svg(chart))


def curves_note(steps: int, several: bool) -> str:
    """How the curves were smoothed and thinned, for `steps` records."""
    window = curves_.window_of(steps)
    strong = f"the running mean over {window} step{'s' if window > 1 else ''}"
    if several:
        return (
            f"Lines: {strong}. Where a recipe has several seeds: their mean, and a band from the "
            "lowest to the highest of the seeds' running means, over the steps they all have."
        )
    if steps > curves_.POINTS:
        size = -(-steps // curves_.POINTS)
        return f"Strong: {strong}. Faint: from lowest to highest within {size} steps."
    return f"Strong: {strong}. Faint: each step."
