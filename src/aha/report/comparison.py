"""Several runs on one page: recipes beside each other, the seeds of a recipe as mean and range.

Left out: a test between recipes. With three seeds each it would say little; the seeds' rows say
what there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from aha.reasoning.compare import Estimate, share
from aha.recipe import RecipeChange, changes, dump_recipe
from aha.report.behaviours import behaviours, shares_chart
from aha.report.charts import BarChart
from aha.report.curves import panels
from aha.report.data import Metrics, RunData, load, values
from aha.report.drawn import contents, curves_note, drawn_bars, drawn_headings
from aha.report.numbers import NONE, between, difference, duration, percent
from aha.report.page import render
from aha.report.summary import Rises, rises
from aha.report.words import words_chart
from aha.runs import RunDirectory
from aha.types import UserError
from aha.visible import visible


@dataclass(frozen=True)
class RunRow:
    """A run in the table; what it was not evaluated for is None."""

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
        found = [row.rises for row in self.rows if row.rises is not None]
        return [
            (spread([row.before for row in self.rows]), "percent"),
            (spread([row.after for row in self.rows]), "percent"),
            (spread([one.length for one in found]), "difference"),
            (spread([one.self_check for one in found]), "difference"),
            (spread([one.backtracking for one in found]), "difference"),
        ]


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
    shares, words = shares_of(groups), words_of(groups)
    names = list(dict.fromkeys(one.recipe.name for one in data))
    template_values = {
        "title": " and ".join(names) if len(names) < 4 else f"{names[0]} and others",
        "runs": data,
        "groups": groups,
        "sentences": [
            sentence for group in groups if (sentence := _sentence(group, len(groups) == 1))
        ],
        "differences": _differences(groups),
        "curves_note": curves_note(max(len(one.metrics) for one in data), several=True),
        "headings": drawn_headings(panels(labelled(groups))),
        "shares": drawn_bars(shares) if shares is not None else None,
        "phrases": drawn_bars(words) if words is not None else None,
        "contents": contents(
            ("runs", "Each run", True),
            ("curves", "Curves", True),
            ("behaviours", "Behaviours and words", bool(shares or words)),
            ("reproduce", "Reproduce", True),
        ),
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
    """What makes two runs different recipes: all but the seed and what changes no result."""
    found = changes(one.recipe, two.recipe)
    return [change for change in found if not change.free and change.key != "train.seed"]


def labelled(groups: Sequence[Group]) -> list[tuple[str, list[Metrics]]]:
    """(label, metrics of each run) for the curves."""
    return [(_series_label(group), [run.metrics for run in group.runs]) for group in groups]


def spread(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """Mean, lowest and highest of the values; n is how many. None when there are none."""
    found = [one.value for one in estimates if one is not None]
    return Estimate(fmean(found), min(found), max(found), len(found)) if found else None


def shares_of(groups: Sequence[Group]) -> BarChart | None:
    """Behaviours of every group after training, and of the first before; None without any."""
    sides = []
    for label, pooled, trained in _sides(groups):
        found = behaviours(pooled)
        if found is not None:
            sides.append((label, found.rows, trained))
    return shares_chart(sides) if sides else None


def words_of(groups: Sequence[Group]) -> BarChart | None:
    """Phrases of the same sides; None without any."""
    sides = _sides(groups)
    labels = [label for label, _, _ in sides]
    written = [pooled.after if trained else pooled.before for _, pooled, trained in sides]
    return words_chart(labels, written, groups[0].runs[0].task) if sides else None


def _sides(groups: Sequence[Group]) -> list[tuple[str, RunData, bool]]:
    """(label, seeds taken together, whether after training) of the groups that were evaluated."""
    alone = len(groups) == 1
    sides: list[tuple[str, RunData, bool]] = []
    for group in groups:
        runs = [run for run in group.runs if run.before and run.after]
        if not runs:
            continue
        pooled = replace(
            runs[0],
            before=tuple(one for run in runs for one in run.before),
            after=tuple(one for run in runs for one in run.after),
        )
        if not sides:
            sides.append(("before" if alone else f"{group.label}, before", pooled, False))
        sides.append(("after" if alone else group.label, pooled, True))
    return sides


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


def _label(data: RunData, first: RunData) -> str:
    """The recipe's name, and what tells it from the first recipe where the name does not."""
    name = data.recipe.name
    if data is first or data.recipe.name != first.recipe.name:
        return name
    found = differing(first, data)
    told = ", ".join(f"{change.key.split('.')[-1]}={change.after}" for change in found[:2])
    return f"{name}, {visible(told)}" if len(told) <= 40 else name


def _series_label(group: Group) -> str:
    count = len(group.runs)
    return f"{group.label} ({count} seeds)" if count > 1 else group.label


def _differences(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """(label, changed keys) of every group against the first."""
    first = groups[0].runs[0]
    return [
        (group.label, [str(change) for change in differing(first, group.runs[0])])
        for group in groups[1:]
    ]


def _sentence(group: Group, alone: bool) -> str:
    """What the seeds of a recipe, or its one run, came to; nothing without evaluations."""
    before = spread([row.before for row in group.rows])
    after = spread([row.after for row in group.rows])
    if before is None or after is None:
        return ""
    name = "" if alone else f"{group.label}: "
    if len(group.rows) == 1:
        return (
            f"{name}accuracy (strict) went from {percent(before.value)} to {percent(after.value)}."
        )
    paired = [row.rises for row in group.rows if row.rises is not None]
    length = spread([one.length for one in paired])
    checks = spread([one.self_check for one in paired])
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
