"""Write a recipe's expected curves from finished runs: `python benchmarks/expected.py RUN ...`.

The runs are seeds of one shipped recipe without other settings. The file is
src/aha/recipes/expected/NAME.csv, which `aha.expected` reads.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from aha.expected import FOLDER
from aha.recipe import fingerprint, load_recipe, shipped_recipes
from aha.runs import RunDirectory
from aha.types import UserError

KEYS = ("reward", "accuracy", "completions/mean_length")


def check(runs: list[RunDirectory]) -> str:
    """The name of the recipe that all runs trained. Errors: UserError naming the run at fault."""
    name, seeds = runs[0].recipe().name, set[int]()
    for run in runs:
        recipe, steps = run.recipe(), len(run.metrics())
        if recipe.name != name:
            raise UserError(f"{run.path} is a run of {recipe.name!r}, not of {name!r}.")
        shipped = fingerprint(load_recipe(name)) if name in shipped_recipes() else None
        if {fingerprint(one) for one in (recipe, *dict(run.earlier_recipes()).values())} != {
            shipped
        }:
            raise UserError(f"{run.path} has other settings than the shipped recipe {name!r}.")
        if steps != recipe.train.max_steps:
            raise UserError(f"{run.path} has {steps} of {recipe.train.max_steps} steps.")
        if recipe.train.seed in seeds:
            raise UserError(f"{run.path} repeats seed {recipe.train.seed}.")
        seeds.add(recipe.train.seed)
    return name


def write(runs: list[RunDirectory], folder: Path) -> Path:
    """Write the file and return its path. Errors: as `check`."""
    name = check(runs)
    runs = sorted(runs, key=lambda run: run.recipe().train.seed)
    environment = runs[0].environment()
    seeds = ", ".join(str(run.recipe().train.seed) for run in runs)
    source = (
        f"aha train {name} --seed N for N in {seeds}; {environment['processor']}, torch "
        f"{environment['packages']['torch']}, {environment['started'][:10]}"
    )
    path = folder / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# source: {json.dumps(source)}\n# recipe: {fingerprint(runs[0].recipe())}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("seed", "step", *KEYS))
        for run in runs:
            seed = run.recipe().train.seed
            for record in run.metrics():
                values = ("" if record[key] is None else f"{record[key]:.5g}" for key in KEYS)
                writer.writerow((seed, record["step"], *values))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    try:
        print(write([RunDirectory.open(path) for path in parser.parse_args().runs], FOLDER))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
