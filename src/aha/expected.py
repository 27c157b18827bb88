"""Curves of earlier runs of a shipped recipe, and what a run is, compared with them.

`recipes/expected/NAME.csv` begins with comment lines in YAML: `source`, which says where its
figures come from, and `recipe`, the fingerprint of the recipe they belong to. Its columns are
`seed`, `step` and keys of metrics.jsonl. A row with a seed is a step of a run of ours. A row
without one is a published figure: it is shown, and no run is judged by it.

A run is within what was seen before if its running mean over a twentieth of the steps lies between
the lowest and the highest single step that the earlier runs had, at most a twentieth of the steps
away.
Left out: a test of significance. A few seeds give none that means anything.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from aha.recipe import Recipe, fingerprint

FOLDER = Path(__file__).parent / "recipes" / "expected"
Range = tuple[float, float]
# The name of a metric in a sentence, the form of a value, and its unit.
_WORDS = {
    "reward": ("reward", "{:.2f}", ""),
    "accuracy": ("accuracy", "{:.1%}", ""),
    "completions/mean_length": ("length", "{:.0f}", " tokens"),
}


@dataclass(frozen=True)
class Expected:
    """The known curves of a recipe, by key of metrics.jsonl and by step.

    `bands` has the lowest and highest values near the step in `runs` earlier runs; `points` has
    published figures. `window`: the steps of the running mean that is compared.
    """

    source: str
    runs: int
    window: int
    bands: Mapping[str, Mapping[int, Range]]
    points: Mapping[str, Mapping[int, float]]

    def compare(self, records: Sequence[Mapping[str, Any]]) -> str:
        """The last of a run's records compared with the bands, as a clause about that step.

        Empty while there is nothing to compare: before `window` steps, or without a band.
        """
        recent = records[-self.window :]
        within, outside = [], []
        for key, band in self.bands.items():
            known = [record[key] for record in recent if record.get(key) is not None]
            if len(recent) < self.window or not known or recent[-1]["step"] not in band:
                continue
            name, form, unit = _WORDS.get(key, (key, "{:.3g}", ""))
            value, (low, high) = fmean(known), band[recent[-1]["step"]]
            if low <= value <= high:
                within.append(name)
                continue
            side = "below" if value < low else "above"
            value_text, low_text, high_text = map(form.format, (value, low, high))
            outside.append(
                f"{name} is {value_text}{unit}, {side} the {low_text} to {high_text} seen before"
            )
        seen = f"({self.runs} {'run' if self.runs == 1 else 'runs'} of this recipe)"
        if outside:
            return f"{'; '.join(outside)} {seen}"
        if within:
            listed = " and ".join(filter(None, (", ".join(within[:-1]), within[-1])))
            return (
                f"{listed} {'is' if len(within) == 1 else 'are'} within what was seen before {seen}"
            )
        return ""


def window_of(count: int) -> int:
    """The steps of a running mean over a run of `count` steps: a twentieth of them."""
    return max(1, count // 20)


def expected_of(recipes: Sequence[Recipe]) -> Expected | None:
    """The known curves for a run with these recipes, one after the other; the last has its name.

    None without a file of that name, and if any setting that decides the curves differs.
    """
    recipe = recipes[-1]
    file = FOLDER / f"{recipe.name}.csv"
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#") for line in lines if line.startswith("#")]
    about = yaml.safe_load("\n".join(comments))
    if {fingerprint(one) for one in recipes} != {about["recipe"]}:
        return None
    window = window_of(recipe.train.max_steps)
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    bands, points = {}, {}
    for key in [key for key in rows[0] if key not in ("seed", "step")]:
        ours: dict[int, list[float]] = {}
        published: dict[int, float] = {}
        for row in rows:
            if row[key] and row["seed"]:
                ours.setdefault(int(row["step"]), []).append(float(row[key]))
            elif row[key]:
                published[int(row["step"])] = float(row[key])
        if ours:
            bands[key] = _near(ours, window)
        if published:
            points[key] = published
    seeds = {row["seed"] for row in rows if row["seed"]}
    return Expected(about["source"], len(seeds), window, bands, points)


def _near(values: Mapping[int, Sequence[float]], window: int) -> dict[int, Range]:
    """The lowest and highest value at most `window` steps away, for every step."""
    ends = {step: (min(found), max(found)) for step, found in values.items()}
    bands = {}
    for step in sorted(ends):
        near = [ends[other] for other in range(step - window, step + window + 1) if other in ends]
        bands[step] = (min(low for low, _ in near), max(high for _, high in near))
    return bands
