"""`aha train` finds the engine, and of several processes one speaks."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from aha.cli.main import main
from aha.launch import EXIT_CODE_FILE
from aha.recipe import Recipe
from aha.runs import RunDirectory
from aha.trl import choose
from aha.trl.choose import describe, resume, start
from aha.types import RunFailure, UserError
from begun_run import begun_run

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
    begun_run(small(began), tmp_path / "run")
    with pytest.raises(UserError, match=f"is a run of engine '{began}'"):
        resume(tmp_path / "run", [f"engine={other}"], allow_change=True)


def test_a_dry_run_says_who_does_what(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = "12 completions a step on 2 processes: 1 microbatch of 6 each."
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


def test_each_node_has_its_code_and_one_that_fails_alone_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(alone: bool, local_rank: str) -> tuple[object, str | None, str]:
        file = tmp_path / f"code-{alone}-{local_rank}"
        monkeypatch.setenv("RANK", "4")
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        monkeypatch.setenv(EXIT_CODE_FILE, str(file))
        failure = RunFailure("disk full", of_one_process=alone)

        def start_and_fail(recipe: Recipe, output: Path | None) -> None:
            raise failure

        monkeypatch.setattr(choose, "start", start_and_fail)
        handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
        try:
            with pytest.raises(SystemExit) as ended:
                main(["train"])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        code = file.read_text() if file.exists() else None
        return ended.value.code, code, capsys.readouterr().err

    assert fail(False, "0") == (0, "1", "")
    assert fail(False, "1") == (0, None, "")
    assert fail(True, "1") == (1, "1", "failed: disk full\n")


def test_an_engine_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--engine", "vroom"])
    assert "engine is 'vroom'; it should be 'native' or 'trl'" in capsys.readouterr().err
