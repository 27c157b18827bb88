from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from aha.cli.main import app
from aha.observe.samples import browse, shown_text
from aha.recipe import load_recipe
from aha.runs import RunDirectory
from aha.types import UserError
from aha.visible import visible
from begun_run import begun_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = begun_run(load_recipe("countdown-tiny"), tmp_path / "run")
    for step in (1, 10):
        rows = [
            ("Wait, no", 1.0, 0.7, 5),
            ("plain", 0.0, -0.7, 9),
            ("\x1b[2Jgone \u202e", None, 0.0, 2),
        ]
        completions = [
            {
                "text": words,
                "tokens": tokens,
                "truncated": False,
                "rewards": {"accuracy": reward},
                "weighted": {"accuracy": reward or 0.0},
                "reward": reward,
                "advantage": advantage * step,
            }
            for words, reward, advantage, tokens in rows
        ]
        columns = {"target": 3, "nums": [1, 2]}
        run.append_samples(
            [
                {
                    "step": step,
                    "key": "k",
                    "columns": columns,
                    "prompt": "p: ",
                    "completions": completions,
                }
            ]
        )
    return run


def test_orders(run: RunDirectory) -> None:
    def shown(**query: object) -> list[tuple[int, int]]:
        return [(s["step"], s["tokens"]) for s in browse(run, **query)]  # type: ignore[arg-type]

    assert shown(limit=2) == [(10, 2), (10, 9)]
    assert shown(limit=2, ascending=True) == [(1, 5), (1, 9)]
    assert shown(order="advantage", limit=2) == [(10, 5), (1, 5)]
    assert shown(order="advantage", ascending=True, limit=1) == [(10, 9)]
    assert shown(order="length", step=1) == [(1, 9), (1, 5), (1, 2)]
    # A completion to which no reward applied has no place in an order by reward.
    assert shown(order="reward", step=1) == [(1, 5), (1, 9)]
    assert shown(grep="WAIT") == [(10, 5), (1, 5)]


def test_mistakes_are_named(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--step is 7; samples are of steps 1, 10\."):
        browse(run, step=7)
    with pytest.raises(UserError, match=r"--grep is '\('"):
        browse(run, grep="(")
    empty = begun_run(load_recipe("countdown-tiny"), tmp_path / "empty")
    with pytest.raises(UserError, match="no samples"):
        browse(empty)


def test_model_text_does_not_steer_the_terminal(run: RunDirectory) -> None:
    said = shown_text(browse(run, grep="gone", limit=1)[0])
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "⟨U+001B⟩[2Jgone ⟨U+202E⟩" in said
    assert visible("naïve 数学 🙂\n\t") == "naïve 数学 🙂\n\t"


def test_the_command(run: RunDirectory) -> None:
    arguments = ["samples", str(run.path), "--sort", "advantage", "--grep", "wait", "--n", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "step 10  target=3, nums=[1, 2]" in done.output
    assert "advantage +7.000" in done.output
    assert "p: Wait, no" in done.output
    assert "plain" not in done.output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--grep", "nowhere"], "None of 6 completions matches --grep 'nowhere'."),
        (["--grep", "no.*re", "--step", "10"], "None of 3 completions matches --grep 'no.*re'."),
        (
            ["--grep", "gone", "--sort", "reward"],
            "None of 6 completions matches --grep 'gone' and has a reward.",
        ),
    ],
)
def test_finding_nothing_is_said(run: RunDirectory, options: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["samples", str(run.path), *options])
    assert done.exit_code == 0, done.output
    assert done.output == f"{sentence}\n"
