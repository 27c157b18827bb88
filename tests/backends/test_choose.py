"""`aha train` finds the engine, and of several processes one speaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aha.backends.choose import describe, resume, start
from aha.cli import main
from aha.recipe import Recipe
from aha.runs import RunDirectory
from aha.types import UserError

Make = Callable[..., Recipe]


@pytest.mark.usefixtures("without_report")
def test_each_engine_starts_and_resumes_its_own_run(small: Make, tmp_path: Path) -> None:
    for engine in ("native", "trl"):
        changes = ("train.max_steps=1", "evaluation.n=0")
        start(small(engine, *changes), tmp_path / engine)
        run = RunDirectory.open(tmp_path / engine)
        assert run.recipe().engine == engine
        assert (run.checkpoints / "step-000001" / "optimizer.pt").exists() == (engine == "trl")
        resume(run.path, ["train.save_total_limit=1"], allow_change=False)
        assert [record["step"] for record in run.metrics()] == [1]


@pytest.mark.parametrize(("began", "other"), [("native", "trl"), ("trl", "native")])
def test_a_run_keeps_its_engine(began: str, other: str, small: Make, tmp_path: Path) -> None:
    RunDirectory.create(small(began), tmp_path / "run")
    with pytest.raises(UserError, match=f"is a run of engine '{began}'"):
        resume(tmp_path / "run", [f"engine={other}"], allow_change=True)


def test_a_dry_run_says_who_does_what(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = "12 completions a step on 2 processes: 1 micro-batch of 6 each."
    assert describe(small("trl")).endswith(f"On TRL, where memory allows: {plan}")
    with pytest.raises(UserError, match="dynamic_sampling"):
        describe(small("trl", "grpo.dynamic_sampling=true"))


def test_the_native_engine_is_one_process(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="engine is 'native', which is one process, and WORLD_SIZE"):
        start(small("native"), None)


@pytest.mark.parametrize(("rank", "said"), [("0", 1), ("1", 0)])
def test_one_process_speaks(
    rank: str, said: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--engine", "trl", "--set", "grpo.prompts_per_step=4"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("5 processes cannot share evenly") == said


def test_an_engine_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--engine", "vroom"])
    assert "engine is 'vroom'; it should be 'native' or 'trl'" in capsys.readouterr().err
