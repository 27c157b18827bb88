"""The Python API, as a program or a notebook uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aha
from aha.observe import Observer
from aha.types import UserError

SMALL = {
    "evaluation.n": 4, "grpo.prompts_per_step": 2, "generation.num_generations": 2,
    "generation.max_completion_length": 24,
}  # fmt: skip


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def even(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text) % 2) for text in completions]


def test_train_with_functions_names_and_callbacks() -> None:
    seen: list[int] = []

    class Watcher(Observer):
        def note(self, message: str) -> None:
            seen.append(-1)

    run = aha.train(
        "countdown-tiny",
        max_steps=3,
        seed=5,
        rewards=[even, (lambda completions, **_: [1.0] * len(completions), 0.5), "format"],
        overrides=SMALL,
        callbacks=[lambda record: seen.append(record["step"]), Watcher()],
        output="run",
    )
    assert run.metrics().shape[0] == 3
    assert [step for step in seen if step > 0] == [1, 2, 3]
    assert -1 in seen
    assert [reward.name for reward in run.recipe.rewards] == [
        "python:even",
        "python:lambda",
        "format",
    ]
    assert run.recipe.rewards[1].weight == 0.5
    assert run.recipe.train.seed == 5
    assert (run.metrics()["rewards/lambda/mean"] == 1.0).all()
    assert set(run.evaluation()) == {"before", "after"}
    assert {"text", "reward", "advantage"} <= set(run.samples().columns)
    assert run.report().exists()
    assert "3 of 3 steps" in repr(run)
    assert "<table>" in run._repr_html_()
    figure = run.plot("rewards/even/mean", "completions/mean_length")
    assert len(figure.subfigs) == 2
    with pytest.raises(UserError, match="no step has a number 'rewards/odd/mean'"):
        run.plot("rewards/odd/mean")


def test_a_run_goes_on_with_its_functions_given_again() -> None:
    overrides = {**SMALL, "evaluation.n": 0, "train.save_steps": 1}
    first = aha.train(max_steps=1, rewards=[even], overrides=overrides, output="run")
    assert len(first.metrics()) == 1
    with pytest.raises(UserError, match="'even' was a function of a Python program"):
        aha.train(resume="run", overrides={"train.max_hours": 1})
    again = aha.train(resume="run", rewards=[even], overrides={"train.max_hours": 1})
    assert len(again.metrics()) == 1
    assert aha.load_run("run").recipe == again.recipe


@pytest.mark.parametrize("kind", ["dicts", "pandas", "datasets"])
def test_data_from_python(kind: str) -> None:
    rows = [{"problem": f"{n} + 1?", "answer": str(n + 1)} for n in range(40)]
    data: Any = rows
    if kind == "pandas":
        import pandas

        data = pandas.DataFrame(rows)
    elif kind == "datasets":
        from datasets import Dataset

        data = Dataset.from_list(rows)
    run = aha.train(
        max_steps=1,
        data=data,
        rewards=["accuracy"],
        overrides={**SMALL, "evaluation.n": 2, "prompt.style": "plain"},
    )
    assert run.recipe.task.name == "custom"
    (file,) = Path("runs/data").iterdir()
    assert run.recipe.task.source == str(file.resolve())
    assert run.path.parent == Path("runs")


def test_a_recipe_that_was_loaded_before() -> None:
    from aha.recipe import load_recipe

    recipe = load_recipe("countdown-tiny", [f"{key}={value}" for key, value in SMALL.items()])
    run = aha.train(recipe, max_steps=1, overrides={"evaluation.n": 0})
    assert len(run.metrics()) == 1
    result = aha.evaluate(run.path, n=4, overrides={"generation.max_completion_length": 24})
    assert result.outcome.evaluation.summary["n"] == 4


def test_steps_by_hand() -> None:
    state = aha.prepare("countdown-tiny", **SMALL)
    assert [state.step()["step"], state.step()["step"]] == [1, 2]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_step": 3}, "'max_step' is unknown.*Did you mean"),
        ({"overrides": {"grpo.betta": 1}}, "betta"),
        ({"rewards": [3]}, "rewards holds 3"),
        ({"rewards": ["acuracy"]}, "acuracy"),
        ({"data": []}, "data must hold rows"),
        ({"data": [{"problem": object()}]}, "JSON cannot hold"),
        ({"data": [{"question": "x"}]}, "problem"),
        ({"engine": "trl"}, "aha.train takes 'native'"),
        ({"resume": "nowhere"}, "nowhere"),
        ({"resume": "nowhere", "output": "elsewhere"}, "resume goes on"),
    ],
)
def test_a_mistake_is_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        aha.train(**options)
    with pytest.raises(UserError, match="'ns' is unknown"):
        aha.evaluate("aha-tiny", ns=3)


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, aha; print(sorted({'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        aha.trian  # noqa: B018
