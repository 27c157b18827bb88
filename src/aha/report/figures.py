"""PNG figures for a README or a paper, on white, drawn as the page's charts are.

Left out: a choice of style. Who needs another takes metrics.jsonl, which holds every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from aha.report.charts import BarChart, Panel, bars_height, draw, draw_bars
from aha.report.comparison import Group, group_runs, labelled, shares_of, words_of
from aha.report.curves import BEHAVIOUR_KEYS, panels
from aha.report.data import load
from aha.runs import RunDirectory

_CURVES = ("reward", "accuracy", "completions/mean_length", "reflection_rate")
_POLICY = ("entropy", "kl")
_DPI = 150


def write_figure(run: RunDirectory, path: Path) -> None:
    """The main curves of a run as one PNG. Errors: UserError when it has no steps yet."""
    _panels_png(_panels(group_runs([load(run)]), _CURVES), path)


def write_figures(runs: RunDirectory | Sequence[RunDirectory], folder: Path) -> list[Path]:
    """curves.png, behaviours.png, words.png and entropy_kl.png in `folder`; the paths written.

    Several runs are overlaid, the seeds of a recipe as mean and band. A picture whose figures the
    runs do not hold is not written; nor is a panel in which nothing ever changes.
    Errors: UserError when a run has no steps yet.
    """
    chosen = [runs] if isinstance(runs, RunDirectory) else list(runs)
    folder.mkdir(parents=True, exist_ok=True)
    groups = group_runs([load(run) for run in chosen])
    curves, policy = _panels(groups, _CURVES), _panels(groups, _POLICY)
    over_time = _panels(groups, [key for key, _ in BEHAVIOUR_KEYS])
    written = []
    if curves:
        written.append(_panels_png(curves, folder / "curves.png"))
    if policy:
        written.append(_panels_png(policy, folder / "entropy_kl.png"))
    shares, words = shares_of(groups), words_of(groups)
    if shares is not None or over_time:
        written.append(_panels_png(over_time, folder / "behaviours.png", shares))
    if words is not None:
        written.append(_panels_png([], folder / "words.png", words))
    return written


def _panels(groups: Sequence[Group], keys: Sequence[str]) -> list[Panel]:
    drawn = [panel for _, found in panels(labelled(groups), keys) for panel in found]
    return [panel for panel in drawn if any(len(set(s.strong)) > 1 for s in panel.series)]


def _panels_png(found: Sequence[Panel], path: Path, bars: BarChart | None = None) -> Path:
    """Panels two in a row, the bars before them."""
    count = len(found) + (bars is not None)
    columns = min(2, count)
    rows = -(-count // columns)
    height = 3.2 if bars is None else max(3.2 if found else 2.0, 0.3 + bars_height(bars))
    figure = Figure(figsize=(5.4 * columns, height * rows), layout="constrained")
    # A part of the figure each, so that each legend stands under its own drawing.
    parts = list(figure.subfigures(rows, columns, squeeze=False).flat)
    if bars is not None:
        axes = parts.pop(0).add_subplot()
        draw_bars(bars, axes)
        axes.set_title(bars.title, loc="left", fontsize=11)
    for panel, part in zip(found, parts, strict=False):
        axes = part.add_subplot()
        draw(panel, axes)
        axes.set_title(panel.title, loc="left", fontsize=11)
    figure.savefig(path, dpi=_DPI)
    return path
