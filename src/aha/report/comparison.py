"""Several runs on one page or in one set of PNG figures: the seeds of a recipe as mean and range.

Left out: a test between recipes. With three seeds each it would say little; the table has a row
for each seed. And a choice of style for the figures: metrics.jsonl holds every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from aha.reasoning.compare import Estimate, share
from aha.recipe import RecipeChange, changes, dump_recipe
from aha.report.before_after import Rises, Side, rises, shares_chart, words_chart
from aha.report.charts import Chart, charts_png
from aha.report.curves import BEHAVIOUR_KEYS, curves_note, panels
from aha.report.pages import render
from aha.report.run_data import (
    NONE,
    Metrics,
    RunData,
    between,
    difference,
    duration,
    load,
    percent,
    values,
)
from aha.runs import RunDirectory
from aha.types import UserError
from aha.visible import visible

_CURVES = ("reward", "accuracy", "completions/mean_length", "reflection_rate")
_POLICY = ("entropy", "kl")


@dataclass(frozen=True)
class RunRow:
    """A run in the table; None without an evaluation."""

    name: str
    seed: int
    steps: int
    before: Estimate | None
    after: Estimate | None
    rises: Rises | None
    time: str


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ in the seed alone; `runs` and `rows` are in one order."""

    label: str
    runs: tuple[RunData, ...]
    rows: tuple[RunRow, ...]

    @property
    def seeds(self) -> str:
        return ", ".join(str(row.seed) for row in self.rows)

    @property
    def recipe_yaml(self) -> str:
        return dump_recipe(self.runs[0].recipe)

    @property
    def mean(self) -> list[tuple[Estimate | None, str]]:
        """(spread over seeds, form) of the table's columns; empty for a single run."""
        if len(self.rows) < 2:
            return []
        return [
            (spread([row.before for row in self.rows]), "percent"),
            (spread([row.after for row in self.rows]), "percent"),
            *(
                (self.mean_rise(name), "difference")
                for name in ("length", "self_check", "backtracking")
            ),
        ]

    def mean_rise(self, measure: str) -> Estimate | None:
        """The spread over seeds of a paired difference; None without evaluations."""
        return spread([row.rises[measure] for row in self.rows if row.rises is not None])


def build_comparison(runs: Sequence[RunDirectory], path: Path) -> Path:
    """Write one page that compares `runs` to `path`, and return it.

    Errors: UserError when there are fewer than two runs or one has no steps yet.
    """
    path.write_text(render_comparison(runs), encoding="utf-8")
    return path


def render_comparison(runs: Sequence[RunDirectory]) -> str:
    """The comparison's HTML. Errors: as `build_comparison`."""
    if len(runs) < 2:
        raise UserError(f"a comparison takes two runs or more, not {len(runs)}.")
    data = [load(run) for run in runs]
    groups = group_runs(data)
    sides = _sides(groups)
    names = list(dict.fromkeys(one.recipe.name for one in data))
    sections = [
        ("runs", "Each run", True),
        ("curves", "Curves", True),
        ("behaviours", "Behaviours and words", sides),
        ("reproduce", "Reproduce", True),
    ]
    template_values = {
        "title": " and ".join(names) if len(names) < 4 else f"{names[0]} and others",
        "contents": [(name, title) for name, title, there in sections if there],
        "runs": data,
        "groups": groups,
        "sentences": [
            sentence for group in groups if (sentence := _sentence(group, len(groups) == 1))
        ],
        "differences": [
            (group.label, [str(change) for change in differing(data[0], group.runs[0])])
            for group in groups[1:]
        ],
        "curves_note": curves_note(max(len(one.metrics) for one in data), several=True),
        "headings": panels(_labelled(groups)),
        "shares": shares_chart(sides) if sides else None,
        "phrases": words_chart(sides, data[0].rules) if sides else None,
    }
    return render("comparison.html.j2", template_values)


def group_runs(data: Sequence[RunData]) -> list[Group]:
    """The runs by recipe up to the seed, in the order of their first run, with labels apart."""
    members: list[list[RunData]] = []
    for one in data:
        same = (group for group in members if not differing(group[0], one))
        group = next(same, None)
        if group is None:
            members.append([one])
        else:
            group.append(one)
    labels: list[str] = []
    for group in members:
        label = _label(group[0], members[0][0])
        again = labels.count(label)
        labels.append(label if not again else f"{label} ({again + 1})")
    return [
        Group(label, tuple(group), tuple(_row(one) for one in group))
        for label, group in zip(labels, members, strict=True)
    ]


def differing(one: RunData, two: RunData) -> list[RecipeChange]:
    """The changes that make two runs different recipes: not the seed, nor a key without effect
    on results."""
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


def _row(data: RunData) -> RunRow:
    times = [value for _, value in values(data.metrics, "time/step_s")]
    return RunRow(
        name=data.name,
        seed=data.recipe.train.seed,
        steps=data.metrics[-1]["step"],
        before=share([one.correct for one in data.before]) if data.before else None,
        after=share([one.correct for one in data.after]) if data.after else None,
        rises=rises(data.before, data.after),
        time=duration(sum(times)) if times else NONE,
    )


def spread(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """Mean, lowest and highest of the values; n is how many. None when there are none."""
    found = [one.value for one in estimates if one is not None]
    return Estimate(fmean(found), min(found), max(found), len(found)) if found else None


def _labelled(groups: Sequence[Group]) -> list[tuple[str, list[Metrics]]]:
    """(label, metrics of each run) for the curves."""
    labelled = []
    for group in groups:
        count = len(group.runs)
        label = f"{group.label} ({count} seeds)" if count > 1 else group.label
        labelled.append((label, [run.metrics for run in group.runs]))
    return labelled


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


def _sentence(group: Group, alone: bool) -> str:
    """The result of a recipe, over its seeds if there are several; empty without evaluations."""
    before = spread([row.before for row in group.rows])
    after = spread([row.after for row in group.rows])
    if before is None or after is None:
        return ""
    name = "" if alone else f"{group.label}: "
    if len(group.rows) == 1:
        return (
            f"{name}accuracy (strict) went from {percent(before.value)} to {percent(after.value)}."
        )
    length, checks = group.mean_rise("length"), group.mean_rise("self_check")
    more = ""
    if length is not None and checks is not None:
        more = (
            f" Completions changed by {difference(length.value)} tokens "
            f"({between(length, 'difference')}) and self-checks by {difference(checks.value)} a "
            f"completion ({between(checks, 'difference')})."
        )
    return (
        f"{name}{'o' if name else 'O'}ver {after.n} seeds accuracy (strict) on held-out problems "
        f"went from {percent(before.value)} on average (lowest to highest "
        f"{between(before, 'percent')}) to {percent(after.value)} ({between(after, 'percent')})."
        f"{more}"
    )


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
    return [panel for _, found in panels(_labelled(groups), keys) for panel in found]
