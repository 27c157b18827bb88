"""Measure false alarms and found rises of the alerts: `python benchmarks/false_alarms.py`.

The alerts read made curves of one metric, as long as a default run. The noise is a first-order
process of standard deviation 0.03, whose steps correlate with the next ones by a given amount.
Prints the table of docs/watching.md. It needs no model. Each row takes a minute or two.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator
from statistics import median

from aha.observe.alerts import Alert, Trend, Watched
from aha.reasoning.compare import wilson_interval
from aha.recipe import DEFAULT_RECIPE, load_recipe

METRIC = Watched("accuracy", "accuracy", more_is_better=True, percent=True)
DEVIATION = 0.03
Curve = Callable[[int], float]


def noise(rho: float, seed: int) -> Iterator[float]:
    dice = random.Random(seed)
    value = dice.gauss(0.0, 1.0)
    while True:
        yield DEVIATION * value
        value = rho * value + math.sqrt(1 - rho * rho) * dice.gauss(0.0, 1.0)


def flat(step: int) -> float:
    return 0.3


def scarce(step: int) -> float:
    """A metric whose noise is half of its mean: it often loses half of its best value."""
    return 0.06


def rise(step: int) -> float:
    """The shape of the demo's accuracy: 0.18 to 0.6 in 150 steps, most in the middle third."""
    return 0.18 + 0.42 / (1 + math.exp(-(step - 75) / 15))


def alerts(curve: Curve, rho: float, seed: int, steps: int, window: int) -> list[Alert]:
    """The alerts of one made run, at the steps at which a real run checks."""
    trend = Trend(METRIC, window)
    values = zip(range(1, steps + 1), noise(rho, seed), strict=False)
    return [
        alert for step, off in values for alert in trend.check(step, max(0.0, curve(step) + off))
    ]


def share(count: int, runs: int) -> str:
    low, high = wilson_interval(count, runs)
    return f"{count / runs:.1%} ({low:.1%} to {high:.1%})"


def main() -> None:
    logging, train = load_recipe(DEFAULT_RECIPE).logging, load_recipe(DEFAULT_RECIPE).train
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=train.max_steps)
    parser.add_argument("--window", type=int, default=logging.alerts_window)
    parser.add_argument("--rho", type=float, nargs="+", default=[0.0, 0.3, 0.6, 0.8])
    arguments = parser.parse_args()
    runs = range(arguments.runs)
    print(
        "| autocorrelation | flat at 0.3: false alarms | flat at 0.06 | rise: found "
        "| at step, median |\n|---|---|---|---|---|"
    )
    for rho in arguments.rho:
        told = {
            curve: [alerts(curve, rho, seed, arguments.steps, arguments.window) for seed in runs]
            for curve in (flat, scarce, rise)
        }
        wrong = [
            share(sum(any(a.kind != "stagnation" for a in run) for run in told[curve]), len(runs))
            for curve in (flat, scarce)
        ]
        found = [
            next(a.step for a in run if a.kind == "improvement")
            for run in told[rise]
            if any(a.kind == "improvement" for a in run)
        ]
        when = f"{median(found):.0f}" if found else "-"
        rates = " | ".join([*wrong, share(len(found), len(runs))])
        print(f"| {rho:g} | {rates} | {when} |", flush=True)


if __name__ == "__main__":
    main()
