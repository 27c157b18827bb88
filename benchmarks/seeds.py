"""Train the default recipe over several seeds: `python benchmarks/seeds.py`.

Trains the runs that are missing under --output and prints README's table, a row for each seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aha.recipe import DEFAULT_RECIPE, load_recipe
from aha.runs import RunDirectory
from aha.train.start import start_run

HEADER = """\
| seed | solved before | solved after | tokens before | after | "Wait," before | after |
|---|---|---|---|---|---|---|"""


def row(run: RunDirectory) -> str:
    evaluation = run.evaluation()
    before, after = evaluation["before"], evaluation["after"]
    low, high = (f"{bound:.1%}" for bound in after["ci95"])
    return (
        f"| {run.recipe().train.seed} | {before['accuracy']:.1%} | {after['accuracy']:.1%} "
        f"({low} to {high}) | {before['mean_length']:.0f} | {after['mean_length']:.0f} "
        f"| {before['reflection_rate']:.2f} | {after['reflection_rate']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    runs = []
    for seed in arguments.seeds:
        folder = arguments.output / f"seed-{seed}"
        if not (folder / "report.html").exists():
            recipe = load_recipe(DEFAULT_RECIPE, [*arguments.overrides, f"train.seed={seed}"])
            start_run(recipe, folder)
        runs.append(RunDirectory.open(folder))
    print(HEADER)
    for run in runs:
        print(row(run))


if __name__ == "__main__":
    main()
