"""Compare how the two engines learn a recipe, and how fast, over several seeds.

`python benchmarks/engines.py` trains the runs that are missing under --output. It prints, as
Markdown, each run's accuracy before and after, the curves, and the difference of the engines. Both
train on the same problems in the same order, but sample different completions. For speed alone:
`python benchmarks/engines.py --recipe NAME --steps 3 --set evaluation.n=0`.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

from aha.reasoning.compare import rise
from aha.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from aha.runs import RunDirectory

ENGINES = ("native", "trl")
CURVES = ("accuracy", "reward", "completions/mean_length", "reflection_rate", "entropy")
PARTS = 6


def train(recipe: Recipe, folder: Path) -> RunDirectory:
    """The run at `folder`; it is trained first if it is missing."""
    if not (folder / "report.html").exists():
        from aha.trl.choose import start

        start(recipe, folder)
    return RunDirectory.open(folder)


def row(run: RunDirectory) -> str:
    recipe, evaluation = run.recipe(), run.evaluation()
    minutes = sum(record["time/step_s"] for record in run.metrics()) / 60
    figures = "| | | | "
    if evaluation:
        before, after = evaluation["before"], evaluation["after"]
        low, high = (f"{bound:.1%}" for bound in after["ci95"])
        figures = (
            f"| {before['accuracy']:.1%} | {after['accuracy']:.1%} ({low} to {high}) "
            f"| {after['mean_length']:.0f} | {after['reflection_rate']:.2f}"
        )
    return f"| {recipe.engine} | {recipe.train.seed} {figures} | {minutes:.1f} |"


def curve(runs: list[RunDirectory], key: str) -> list[float]:
    """The mean of a figure over the runs, in equal parts of the steps."""
    series = [[record[key] for record in run.metrics()] for run in runs]
    steps = len(series[0])
    bounds = [round(part * steps / PARTS) for part in range(PARTS + 1)]
    return [
        # A step without signal has no entropy.
        fmean(value for values in series for value in values[low:high] if value is not None)
        for low, high in pairwise(bounds)
        if high > low
    ]


def speed(native: RunDirectory, trl: RunDirectory) -> str:
    """TRL's seconds over native's, step by step. The first step, which warms up, does not count."""
    pairs = list(zip(native.metrics(), trl.metrics(), strict=True))[1:]
    ratios = sorted(theirs["time/step_s"] / ours["time/step_s"] for ours, theirs in pairs)
    return (
        f"native's step is {median(ratios):.1f} times as fast as TRL's "
        f"({ratios[0]:.1f} to {ratios[-1]:.1f}; {len(ratios)} steps)"
    )


def difference(runs: dict[str, list[RunDirectory]]) -> str:
    after = {
        engine: [run.evaluation()["after"]["accuracy"] for run in found]
        for engine, found in runs.items()
    }
    found = rise(after["native"], after["trl"])
    return (
        f"TRL less native, seed by seed: {100 * found.value:+.1f} points of accuracy after "
        f"training (95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}, Student's t "
        f"over {found.n} seeds)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--output", type=Path, default=Path("runs/engines"))
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    runs: dict[str, list[RunDirectory]] = {engine: [] for engine in ENGINES}
    for seed in arguments.seeds:
        for engine in ENGINES:
            changes = [f"engine={engine}", f"train.seed={seed}"]
            changes.append(f"train.max_steps={arguments.steps}")
            recipe = load_recipe(arguments.recipe, [*changes, *arguments.overrides])
            runs[engine].append(train(recipe, arguments.output / recipe.name / f"{engine}-{seed}"))
    print("| engine | seed | solved before | solved after | tokens | reflections | minutes |")
    print("|---|---|---|---|---|---|---|")
    for found in zip(*runs.values(), strict=True):
        for run in found:
            print(row(run))
    print(f"\n| over the steps, {PARTS} parts | engine |{' |' * PARTS}")
    print(f"|---|---|{'---|' * PARTS}")
    for key in CURVES:
        for engine, found in runs.items():
            values = " | ".join(f"{value:.3g}" for value in curve(found, key))
            print(f"| {key} | {engine} | {values} |")
    for native, trl in zip(*runs.values(), strict=True):
        print(f"\nseed {native.recipe().train.seed}: {speed(native, trl)}")
    if len(arguments.seeds) > 1 and runs["native"][0].evaluation():
        print(f"\n{difference(runs)}")


if __name__ == "__main__":
    main()
