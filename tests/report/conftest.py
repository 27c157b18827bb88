"""A small made run: six Countdown problems, forty steps, evaluations before and after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_run import TARGETS, MakeRun, aha, evaluated, metric, sampled, side, wrong

from aha.recipe import load_recipe
from aha.runs import RunDirectory
from begun_run import begun_run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes run directories; `after` replaces the completions after training, by target."""

    def make(
        name: str = "run",
        seed: int = 0,
        steps: int = 40,
        reasoning: bool = True,
        after: dict[int, str] | None = None,
        overrides: tuple[str, ...] = (),
        evaluations: bool = True,
    ) -> RunDirectory:
        recipe = load_recipe("countdown-tiny", [f"train.seed={seed}", *overrides])
        run = begun_run(recipe, tmp_path / name)
        lines = [json.dumps(metric(step, steps, seed, reasoning)) for step in range(1, steps + 1)]
        run.metrics_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if evaluations:
            # Before: one of six right. After: five, all but the last.
            before = [evaluated(t, wrong(t), t == TARGETS[0]) for t in TARGETS]
            later = [evaluated(t, (after or {}).get(t, aha(t)), t != TARGETS[-1]) for t in TARGETS]
            run.write_lines("eval-before.jsonl", before)
            run.write_lines("eval-after.jsonl", later)
            run.write_json(
                "eval.json", {"before": side(1 / 6, 70 / 3), "after": side(5 / 6, 110 / 3)}
            )
        run.append_samples([sampled(1, 30, [wrong(30), wrong(30)])])
        run.append_samples([sampled(10, 33, [aha(33), wrong(33)])])
        return run

    return make


@pytest.fixture
def run(make_run: MakeRun) -> RunDirectory:
    return make_run()
