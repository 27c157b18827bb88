"""Several runs on one page or in one set of PNG figures: the seeds of a recipe as mean and range.

Left out: a test between recipes. With three seeds each it would say little; the table has a row
for each seed. And a choice of style for the figures: metrics.jsonl holds every number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from aha.expected import window_of
from aha.reasoning.compare import Estimate, share
from aha.recipe import RecipeChange, changes
from aha.report.before_after import Side, rises, shares_chart, words_chart
from aha.report.charts import Chart, charts_png
from aha.report.curves import BEHAVIOUR_KEYS, bin_size, panels
from aha.report.pages import render
from aha.report.run_data import Metrics, RunData, load
from aha.runs import RunDirectory
from aha.types import UserError
from aha.visible import visible

_CURVES = ("reward", "accuracy", "completions/mean_length", "reflection_rate")
_POLICY = ("entropy", "kl")


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ in the seed alone.

    `found` holds each run's accuracy before and after and its rises, as far as it was evaluated.
    """

    label: str
    runs: Sequence[RunData]
    found: Sequence[Mapping[str, Estimate]]

    @property
    def seeds(self) -> str:
        return ", ".join(str(run.recipe.train.seed) for run in self.runs)

    @property
    def curves(self) -> tuple[str, list[Metrics]]:
        """The label of the group's curves, and the metrics of each run."""
        count = len(self.runs)
        label = f"{self.label} ({count} seeds)" if count > 1 else self.label
        return label, [run.metrics for run in self.runs]

    def mean(self, column: str) -> Estimate | None:
        """Mean, lowest and highest over the seeds; n is how many. None without an evaluation."""
        known = [found[column].value for found in self.found if column in found]
        return Estimate(fmean(known), min(known), max(known), len(known)) if known else None


def render_comparison(runs: Sequence[RunDirectory]) -> str:
    """The HTML of a page that compares runs. Errors: UserError when one has no steps yet."""
    data = [load(run) for run in runs]
    groups = group_runs(data)
    sides = _sides(groups)
    names = list(dict.fromkeys(one.recipe.name for one in data))
    longest = max(len(one.metrics) for one in data)
    template_values = {
        "title": " and ".join(names) if len(names) < 4 else f"{names[0]} and others",
        "runs": data,
        "groups": groups,
        "differences": [
            (group.label, [str(change) for change in differing(data[0], group.runs[0])])
            for group in groups[1:]
        ],
        "window": window_of(longest),
        "bin": bin_size(longest),
        "headings": panels([group.curves for group in groups]),
        "shares": shares_chart(sides) if sides else None,
        "phrases": words_chart(sides, data[0].rules) if sides else None,
    }
    return render("comparison.html.j2", template_values)


def group_runs(data: Sequence[RunData]) -> list[Group]:
    """The runs by recipe up to the seed, in the order of their first run, with labels apart."""
    members: list[list[RunData]] = []
    for one in data:
        same = [runs for runs in members if not differing(runs[0], one)]
        if same:
            same[0].append(one)
        else:
            members.append([one])
    groups: list[Group] = []
    for runs in members:
        label = _label(runs[0], members[0][0])
        again = sum(group.label == label for group in groups)
        if again:
            label = f"{label} ({again + 1})"
        found = [rises(run.before, run.after) or {} for run in runs]
        for run, estimates in zip(runs, found, strict=True):
            for column, side in (("before", run.before), ("after", run.after)):
                if side:
                    estimates[column] = share([one.correct for one in side])
        groups.append(Group(label, runs, found))
    return groups


def differing(one: RunData, two: RunData) -> list[RecipeChange]:
    """The changes that make two recipes differ: not the seed, nor a key that changes no result."""
    found = changes(one.recipe, two.recipe)
    return [change for change in found if not change.free and change.key != "train.seed"]


def _label(data: RunData, first: RunData) -> str:
    """The recipe's name; if it is the first recipe's name too, also the first changed keys."""
    name = data.recipe.name
    if data is first or name != first.recipe.name:
        return name
    changed = differing(first, data)
    keys = ", ".join(f"{change.key.split('.')[-1]}={change.after}" for change in changed[:2])
    return f"{name}, {visible(keys)}" if len(keys) <= 40 else name


def _sides(groups: Sequence[Group]) -> list[Side]:
    """The completions of each evaluated group after training, and of the first before it.

    The seeds of a group are taken together.
    """
    alone = len(groups) == 1
    sides: list[Side] = []
    for group in groups:
        runs = [run for run in group.runs if run.before and run.after]
        if not runs:
            continue
        if not sides:
            label = "before" if alone else f"{group.label}, before"
            sides.append((label, [one for run in runs for one in run.before]))
        label = "after" if alone else group.label
        sides.append((label, [one for run in runs for one in run.after]))
    return sides


def write_figure(run: RunDirectory, path: Path) -> None:
    """The main curves of a run as one PNG.

    Errors: UserError when the run has no steps yet, or no curve that changes.
    """
    charts = _panels(group_runs([load(run)]), _CURVES)
    if not charts:
        raise UserError(f"{str(run.path)!r} has no curve that changes; there is nothing to draw.")
    charts_png(charts, path)


def write_figures(runs: Sequence[RunDirectory], folder: Path) -> list[Path]:
    """curves.png, behaviours.png, words.png and entropy_kl.png in `folder`; the paths written.

    Several runs are overlaid, the seeds of a recipe as mean and band. A picture is written only
    if the runs hold data for it; a metric that never changes has no panel.
    Errors: UserError when a run has no steps yet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = [load(run) for run in runs]
    groups = group_runs(data)
    sides = _sides(groups)
    behaviours: list[Chart] = [shares_chart(sides)] if sides else []
    words = words_chart(sides, data[0].rules) if sides else None
    figures: dict[str, list[Chart]] = {
        "curves.png": _panels(groups, _CURVES),
        "entropy_kl.png": _panels(groups, _POLICY),
        "behaviours.png": behaviours + _panels(groups, BEHAVIOUR_KEYS),
        "words.png": [words] if words is not None else [],
    }
    return [charts_png(charts, folder / name) for name, charts in figures.items() if charts]


def _panels(groups: Sequence[Group], keys: Sequence[str]) -> list[Chart]:
    curves = [group.curves for group in groups]
    return [panel for _, found in panels(curves, keys) for panel in found]
