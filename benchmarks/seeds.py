"""Train a recipe over several seeds: `python benchmarks/seeds.py [--recipe NAME]`.

Trains the runs that are missing under --output and prints README's table: a row for each seed, and
one for each difficulty where there are several.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aha.recipe import DEFAULT_RECIPE, load_recipe
from aha.runs import RunDirectory
from aha.train.start import start_run

# The default recipe's models check themselves; others learn a layout.
WAITS = ('"Wait,"', "reflection_rate", ".2f")
LAYOUT = ("layout", "format_rate", ".0%")


def rows(run: RunDirectory, key: str, form: str) -> Iterator[str]:
    evaluation = run.evaluation()
    before, after = evaluation["before"], evaluation["after"]
    seed = str(run.recipe().train.seed)
    yield (
        f"| {seed} | {before['accuracy']:.1%} | {solved(after)} | {before['mean_length']:.0f} "
        f"| {after['mean_length']:.0f} | {before[key]:{form}} | {after[key]:{form}} |"
    )
    classes = before["by_difficulty"]
    for name in classes if len(classes) > 1 else ():
        one, two = classes[name], after["by_difficulty"][name]
        yield (
            f"| {seed}, {name} ({one['n']}) | {one['accuracy']:.1%} | {solved(two)} "
            f"| {one['mean_length']:.0f} | {two['mean_length']:.0f} | | |"
        )


def solved(figures: dict[str, Any]) -> str:
    low, high = (f"{bound:.1%}" for bound in figures["ci95"])
    return f"{figures['accuracy']:.1%} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    runs = []
    for seed in arguments.seeds:
        recipe = load_recipe(arguments.recipe, [*arguments.overrides, f"train.seed={seed}"])
        default = recipe.name == DEFAULT_RECIPE
        folder = arguments.output / ("" if default else recipe.name) / f"seed-{seed}"
        if not (folder / "report.html").exists():
            start_run(recipe, folder)
        runs.append(RunDirectory.open(folder))
    word, key, form = WAITS if default else LAYOUT
    print(
        f"| seed | solved before | solved after | tokens before | after | {word} before | after |"
    )
    print("|---|---|---|---|---|---|---|")
    for run in runs:
        for row in rows(run, key, form):
            print(row)


if __name__ == "__main__":
    main()
