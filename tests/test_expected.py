from __future__ import annotations

import csv
import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aha.expected import FOLDER, Expected, expected_of
from aha.recipe import Recipe, fingerprint, load_recipe
from aha.runs import RunDirectory
from aha.types import UserError
from begun_run import begun_run

MEASURED = "countdown-tiny"
PUBLISHED = "gsm8k-xml-0.5b"
KEYS = ("reward", "accuracy", "completions/mean_length")


def known(name: str) -> Expected:
    found = expected_of([load_recipe(name)])
    assert found is not None
    return found


def stored_runs() -> list[list[dict[str, Any]]]:
    """The records of each seed in the measured file."""
    lines = (FOLDER / f"{MEASURED}.csv").read_text(encoding="utf-8").splitlines()
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        record = {"step": int(row["step"]), **{key: float(row[key]) for key in KEYS}}
        runs.setdefault(row["seed"], []).append(record)
    return list(runs.values())


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.csv")), ids=lambda file: file.stem)
def test_every_file_belongs_to_the_recipe_as_it_is_shipped(file: Path) -> None:
    found = expected_of([load_recipe(file.stem)])
    assert found is not None, f"{file.name} was measured with other settings; measure it again"
    assert found.source
    assert found.bands or found.points


@pytest.mark.parametrize("run", stored_runs(), ids=lambda run: f"{len(run)}-steps")
def test_a_run_like_an_earlier_one_is_within_at_every_step(run: Sequence[dict[str, Any]]) -> None:
    expected = known(MEASURED)
    for step in range(1, len(run) + 1):
        found = expected.compare(run[:step])
        if step < expected.window:
            assert found == ""
        else:
            assert found.startswith("reward, accuracy and length are within what was seen before")


def test_a_run_that_learns_nothing_is_below() -> None:
    expected = known(MEASURED)
    beginning = stored_runs()[0][:10]
    flat = [{**beginning[step % 10], "step": step} for step in range(1, 151)]
    found = expected.compare(flat)
    low, high = expected.bands["accuracy"][150]
    value = sum(record["accuracy"] for record in flat[-7:]) / 7
    assert f"accuracy is {value:.1%}, below the {low:.1%} to {high:.1%} seen before" in found
    assert "reward is" in found
    assert "tokens, below the" in found
    # At the beginning it is like the others.
    assert "are within" in expected.compare(flat[:10])


def test_the_band_by_hand() -> None:
    expected = Expected("here", 2, 2, {"accuracy": {4: (0.2, 0.4)}}, {})
    records = [{"step": step, "accuracy": value} for step, value in ((3, 0.1), (4, 0.3))]
    assert expected.compare(records) == (
        "accuracy is within what was seen before (2 runs of this recipe)"
    )
    records[1]["accuracy"] = 0.75
    assert expected.compare(records) == (
        "accuracy is 42.5%, above the 20.0% to 40.0% seen before (2 runs of this recipe)"
    )
    assert expected.compare(records[1:]) == ""  # a mean needs two steps
    assert expected.compare([{"step": 4}, {"step": 5, "accuracy": 0.3}]) == ""  # no such step


def test_a_band_holds_the_single_steps_near_by() -> None:
    runs, window = stored_runs(), 7
    near = [run[step]["accuracy"] for run in runs for step in range(99 - window, 99 + window + 1)]
    assert known(MEASURED).bands["accuracy"][100] == (min(near), max(near))


def test_a_published_figure_judges_no_run() -> None:
    expected = known(PUBLISHED)
    assert expected.bands == {}
    assert expected.points == {"rewards/correctness/mean": {1868: 0.8008}}
    records = [{"step": step, "rewards/correctness/mean": 0.0} for step in range(1, 1869)]
    assert expected.compare(records) == ""


@pytest.mark.parametrize("override", ["train.seed=7", "logging.console=text", "evaluation.n=0"])
def test_some_settings_leave_the_curves_as_they_are(override: str) -> None:
    assert expected_of([load_recipe(MEASURED, [override])]) is not None


@pytest.mark.parametrize(
    "override",
    [
        "train.max_steps=149",
        "optimizer.learning_rate=1e-4",
        "rewards=[{name: accuracy}]",
        "task.sizes=[4]",
        "model.name=other",
        "grpo.beta=0.01",
        "lora={}",
        "engine=trl",
    ],
)
def test_a_run_with_other_settings_is_not_compared(override: str) -> None:
    recipe, changed = load_recipe(MEASURED), load_recipe(MEASURED, [override])
    assert expected_of([changed]) is None
    # Nor one that began with other settings and went on with the recipe's.
    assert expected_of([changed, recipe]) is None


def test_a_recipe_without_earlier_runs_has_no_curves() -> None:
    assert expected_of([Recipe(name="mine")]) is None


def test_a_key_at_its_default_leaves_the_fingerprint() -> None:
    recipe = load_recipe(MEASURED)
    assert fingerprint(load_recipe(MEASURED, ["grpo.beta=0.0"])) == fingerprint(recipe)


SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "expected.py"))


def finished(folder: Path, overrides: Sequence[str] = (), steps: int = 150) -> RunDirectory:
    run = begun_run(load_recipe(MEASURED, overrides), folder)
    record = dict.fromkeys(KEYS, 0.123456)
    lines = [json.dumps({"step": step, **record}) for step in range(1, steps + 1)]
    run.metrics_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return run


def test_finished_runs_become_a_file(tmp_path: Path) -> None:
    runs = [finished(tmp_path / seed, [f"train.seed={seed}"]) for seed in ("1", "0")]
    lines = SCRIPT["write"](runs, tmp_path).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f'# source: "aha train {MEASURED} --seed N for N in 0, 1; ')
    assert lines[1] == f"# recipe: {fingerprint(load_recipe(MEASURED))}"
    assert lines[2] == "seed,step,reward,accuracy,completions/mean_length"
    assert lines[3] == "0,1,0.12346,0.12346,0.12346"
    assert lines[-1] == "1,150,0.12346,0.12346,0.12346"
    assert len(lines) == 303


def test_other_runs_are_refused(tmp_path: Path) -> None:
    first = finished(tmp_path / "first")
    for other, words in (
        (finished(tmp_path / "short", ["train.seed=1"], steps=149), "149 of 150 steps"),
        (finished(tmp_path / "rate", ["optimizer.learning_rate=1e-4"]), "other settings"),
        (finished(tmp_path / "same"), "repeats seed 0"),
        (begun_run(load_recipe(PUBLISHED), tmp_path / "xml"), "not of 'countdown-tiny'"),
    ):
        with pytest.raises(UserError, match=words):
            SCRIPT["check"]([first, other])
