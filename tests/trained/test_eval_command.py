"""`aha eval` on the embedded model, on runs and on checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fake_vllm
from aha.cli.main import main
from aha.evaluate import EvalRequest
from aha.recipe import dump_recipe, load_recipe
from aha.runs import RunDirectory, write_lines
from aha.tasks import load_problems
from aha.train.start import resume_run
from aha.trained import Subject
from aha.trained.export import export
from aha.trained.held_out import _notes, run_eval
from aha.types import UserError
from begun_run import begun_run


def test_a_run_is_evaluated_as_it_was_in_training(run: RunDirectory) -> None:
    found = run_eval(EvalRequest(str(run.path)))
    assert found.outcome.evaluation.summary == run.evaluation()["after"]
    assert found.outcome.file.parent == run.path / "evals"
    lines = found.outcome.file.read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == run.read_lines("eval-after.jsonl")
    assert found.notes == ()


def test_a_checkpoint_is_its_run(run: RunDirectory) -> None:
    (checkpoint,) = run.checkpoints.iterdir()
    found = run_eval(EvalRequest(str(checkpoint), n=5))
    assert found.outcome.evaluation.summary["n"] == 5


def test_an_evaluated_run_goes_on(run: RunDirectory, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    file = run_eval(EvalRequest(str(copy), n=2)).outcome.file
    assert file.parent == copy / "evals"
    resumed = resume_run(copy, ["train.max_steps=2"], allow_change=True)
    assert [record["step"] for record in resumed.metrics()] == [1, 2]
    assert file.exists()


def test_several_completions_give_pass_and_maj_at_k(run: RunDirectory) -> None:
    found = run_eval(EvalRequest(str(run.path), samples=4)).outcome.evaluation
    keys = {key for key in found.summary if "@" in key}
    assert keys == {"pass@1", "pass@2", "pass@4", "maj@2", "maj@4"}
    assert found.summary["pass@1"] == pytest.approx(found.summary["accuracy"])
    solved = {record["key"] for record in found.records if record["correct"]}
    assert found.summary["pass@4"] == pytest.approx(len(solved) / 12)
    assert [record["sample"] for record in found.records] == [0, 1, 2, 3] * 12


def test_the_base_is_the_run_s_before(run: RunDirectory, tmp_path: Path) -> None:
    found = run_eval(EvalRequest(str(run.path), against="aha-tiny", output=tmp_path))
    assert found.against is not None
    assert found.against.evaluation.summary == run.evaluation()["before"]
    assert found.comparison is not None
    after, before = run.evaluation()["after"], run.evaluation()["before"]
    assert found.comparison.difference == pytest.approx(after["accuracy"] - before["accuracy"])
    text = found.as_text()
    assert "accuracy, strict" in text
    assert "McNemar" in text


def test_json_is_one_object_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["eval", "aha-tiny", "--n", "6", "--samples", "4", "--json"])
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    expected = {
        "model",
        "engine",
        "n",
        "accuracy",
        "ci95",
        "pass@1",
        "pass@4",
        "maj@4",
        "by_difficulty",
    }
    assert expected <= set(value)
    assert set(value["by_difficulty"]) == {"3 numbers"}
    assert len(Path(value["file"]).read_text("utf-8").splitlines()) == 24


def test_another_task_on_real_rows(tmp_path: Path) -> None:
    rows = Path(__file__).parents[1] / "data" / "gsm8k.jsonl"
    found = run_eval(
        EvalRequest(
            "aha-tiny", recipe="gsm8k-xml-0.5b", n=2, output=tmp_path,
            overrides=[f"task.source={rows}", f"task.test_source={rows}",
                       "generation.max_completion_length=8", "prompt.format=text"],
        )
    )  # fmt: skip
    assert found.outcome.evaluation.summary["n"] == 2
    assert all("steps" in name for name in found.outcome.evaluation.summary["by_difficulty"])


def test_training_problems_are_noted(run: RunDirectory) -> None:
    found = run_eval(EvalRequest(str(run.path), split="train", n=3))
    assert "training problems" in found.notes[0]


def test_a_set_of_one_s_own_is_looked_for_in_the_training_problems(
    run: RunDirectory, tmp_path: Path
) -> None:
    """The run's training problems, whatever set the command line names."""
    task = run.recipe().task
    trained = load_problems(task, "train", 2).problems
    fresh = load_problems(task, "test", 1).problems
    rows = tmp_path / "mine.jsonl"
    write_lines(rows, [dict(problem.columns) for problem in (*trained, *fresh)])
    overrides = [f"task.source={rows}", f"task.test_source={rows}"]
    found = run_eval(EvalRequest(str(run.path), overrides=overrides, n=3, output=tmp_path))
    (note,) = found.notes
    assert note.startswith("note: 2 of 3 problems overlap with the training problems of ")
    assert trained[0].key in note


def test_problems_of_one_generator_overlap_by_content_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They share whole sentences, which other sets may not."""
    recipe, file = load_recipe("word-problems-smollm2"), tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    monkeypatch.setattr("aha.trained.held_out.own_recipe", lambda subject: file)
    fresh = load_problems(recipe.task, "test", 50).problems
    request, subject = EvalRequest("unused"), Subject("unused", "unused", None)
    assert _notes(subject, fresh, request) == ()
    trained = load_problems(recipe.task, "train", 2).problems
    (note,) = _notes(subject, (*trained, *fresh), request)
    assert note.startswith("note: 2 of 52 problems overlap with the training problems of ")


def test_an_exported_folder_knows_its_training_problems(run: RunDirectory, tmp_path: Path) -> None:
    export(str(run.path), tmp_path / "out")
    rows = tmp_path / "mine.jsonl"
    problems = load_problems(run.recipe().task, "train", 2).problems
    write_lines(rows, [dict(problem.columns) for problem in problems])
    request = EvalRequest(
        str(tmp_path / "out"), n=2, output=tmp_path, task="countdown",
        overrides=[f"task.source={rows}", f"task.test_source={rows}"],
    )  # fmt: skip
    assert "2 of 2 problems overlap" in run_eval(request).notes[0]


def test_training_problems_elsewhere_do_not_cost_the_figures(
    run: RunDirectory, tmp_path: Path
) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    recipe = run.recipe()
    gone = recipe.task.model_copy(update={"source": "gone.jsonl"})
    (tmp_path / "run" / "recipe.yaml").write_text(
        dump_recipe(recipe.model_copy(update={"task": gone})), "utf-8"
    )
    overrides = ["task.source=null"]
    found = run_eval(EvalRequest(str(tmp_path / "run"), overrides=overrides, n=2))
    assert found.outcome.evaluation.summary["n"] == 2
    assert "overlap with what it was trained on is not known" in found.notes[0]
    assert "gone.jsonl" in found.notes[0]


def test_what_is_set_holds_for_both_models(run: RunDirectory, tmp_path: Path) -> None:
    request = EvalRequest(
        str(run.path), against="aha-tiny", n=2, output=tmp_path,
        overrides=["generation.max_completion_length=3"],
    )  # fmt: skip
    found = run_eval(request)
    assert found.against is not None
    assert [record["tokens"] for record in found.against.evaluation.records] == [3, 3]


def test_vllm_writes_what_the_native_engine_writes(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fake_vllm.install(monkeypatch)
    request = EvalRequest(
        str(run.path), against="aha-tiny", n=4, temperature=0.0, output=tmp_path, engine="vllm"
    )
    found = run_eval(request)
    (checkpoint,) = run.checkpoints.iterdir()
    assert [Path(llm.model).name for llm in made] == [checkpoint.name, "weights"]
    assert [llm.dtype for llm in made] == ["float32", "float32"]
    plain = EvalRequest(str(run.path), n=4, temperature=0.0, output=tmp_path / "native")
    assert found.outcome.evaluation == run_eval(plain).outcome.evaluation
    assert found.notes[0].startswith("note: written by vLLM")


def test_vllm_wants_whole_weights(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm.install(monkeypatch)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "aha-tiny"}')
    with pytest.raises(UserError, match=r"whole weights, and .*adapter' is an adapter"):
        run_eval(EvalRequest(str(adapter), recipe="countdown-tiny", engine="vllm", n=1))
    overrides = ["lora={}", "model.quantization=nf4"]
    with pytest.raises(UserError, match=r"model\.quantization is 'nf4'; with --engine vllm"):
        run_eval(EvalRequest("aha-tiny", overrides=overrides, engine="vllm", n=1))


def test_mistakes_are_named(tmp_path: Path, run: RunDirectory) -> None:
    with pytest.raises(UserError, match="add --recipe"):
        run_eval(EvalRequest(str(tmp_path)))
    empty = begun_run(load_recipe("countdown-tiny"), tmp_path / "empty")
    with pytest.raises(UserError, match="without a checkpoint"):
        run_eval(EvalRequest(str(empty.path)))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output: .* cannot be written"):
        run_eval(EvalRequest(str(run.path), n=2, output=tmp_path / "file"))
