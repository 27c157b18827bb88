"""How a run is repeated: its recipe, or the recipes that its steps ran with, and the commands."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from itertools import pairwise

from aha.recipe import Recipe, changes, dump_recipe
from aha.report.data import RunData


@dataclass(frozen=True)
class Stretch:
    """Steps that ran with one recipe, and the command that runs them again."""

    first: int
    last: int
    recipe_yaml: str
    command: str


def stretches(data: RunData) -> list[Stretch]:
    """The run's stretches in order; one where its recipe was never changed.

    Recipes that no step ran with are left out.
    """
    known = [*data.earlier_recipes, (data.metrics[-1]["step"], data.recipe)]
    parts: list[tuple[int, int, Recipe]] = []
    for last, recipe in known:
        first = parts[-1][1] + 1 if parts else 1
        if first <= last:
            parts.append((first, last, recipe))
    start = "aha train recipe.yaml" + (" --output again" if len(parts) > 1 else "")
    commands = [start, *(_resumed(one[2], two[2]) for one, two in pairwise(parts))]
    return [
        Stretch(first, last, dump_recipe(recipe), command)
        for (first, last, recipe), command in zip(parts, commands, strict=True)
    ]


def _resumed(before: Recipe, after: Recipe) -> str:
    changed = changes(before, after)
    command = ["aha", "train", "--resume", "again"]
    if any(not change.free for change in changed):
        command.append("--allow-change")
    for change in changed:
        command += ["--set", f"{change.key}={json.dumps(change.after, ensure_ascii=False)}"]
    return shlex.join(command)
