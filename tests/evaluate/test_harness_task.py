"""What `aha data harness` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from aha.cli.main import main
from aha.evaluate.lm_harness import spelled, task_name, write_task
from aha.recipe import Recipe, load_recipe
from aha.tasks import load_problems
from aha.tasks.prompts import ask
from aha.types import Prompt, UserError

GSM8K = Path(__file__).parents[1] / "data" / "gsm8k.jsonl"


def read_task(file: Path) -> dict[str, object]:
    text = file.read_text("utf-8").replace("!function ", "")
    task: dict[str, object] = yaml.safe_load(text)
    return task


def write(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, folder: Path) -> list[str]:
    problems = load_problems(recipe.task, "test", recipe.evaluation.n).problems
    return write_task(recipe, problems, ask(problems, recipe, tokenizer), tokenizer, folder)


def test_a_recipe_as_a_task(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    recipe = load_recipe("countdown-tiny", ["evaluation.n=3", "evaluation.temperature=0"])
    said = write(recipe, tokenizer, tmp_path / "task")
    assert {path.name for path in (tmp_path / "task").iterdir()} == {
        "README.md", "aha_countdown_tiny.yaml", "problems.jsonl", "scores.py",
    }  # fmt: skip
    task = read_task(tmp_path / "task" / "aha_countdown_tiny.yaml")
    assert task["task"] == "aha_countdown_tiny"
    assert task["generation_kwargs"] == {
        "until": [], "max_gen_toks": 240, "do_sample": False, "temperature": 0.0,
        "repetition_penalty": 1.0,
    }  # fmt: skip
    metrics = [metric["metric"] for metric in task["metric_list"]]  # type: ignore[attr-defined]
    assert metrics == ["accuracy", "accuracy_lenient", "format_rate"]
    lines = (tmp_path / "task" / "problems.jsonl").read_text("utf-8").splitlines()
    problems = load_problems(recipe.task, "test", 3).problems
    for line, problem in zip(map(json.loads, lines), problems, strict=True):
        assert line["key"] == problem.key
        assert line["columns"] == problem.columns
        assert line["prompt"].startswith(f"Make {line['target']} from ")
        assert line["prompt"].endswith(" . <think>")
    command = said[-1]
    assert command in (tmp_path / "task" / "README.md").read_text("utf-8")
    # "Make", the target, "from", three numbers, the full stop, the tag; and the completion.
    assert "add_bos_token=False,max_length=248 " in command
    assert "dtype=float32" in command
    assert f"--include_path {tmp_path / 'task'} --tasks aha_countdown_tiny" in command


def test_draws_are_those_of_the_recipe(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    recipe = load_recipe("countdown-tiny", ["evaluation.n=1", "evaluation.temperature=0.6"])
    write(recipe, tokenizer, tmp_path)
    assert read_task(tmp_path / "aha_countdown_tiny.yaml")["generation_kwargs"] == {
        "until": [], "max_gen_toks": 240, "do_sample": True, "temperature": 0.6, "top_p": 1.0,
        "top_k": 0, "repetition_penalty": 1.0,
    }  # fmt: skip
    assert "at temperature 0.6" in (tmp_path / "README.md").read_text("utf-8")


def test_gsm8k_is_scored_by_the_harness_s_own_rules_too(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    recipe = load_recipe("gsm8k-xml-0.5b", [f"task.source={GSM8K}", f"task.test_source={GSM8K}"])
    write(recipe, byte_tokenizer, tmp_path)
    metrics = read_task(tmp_path / "aha_gsm8k_xml_0_5b.yaml")["metric_list"]
    assert [metric["metric"] for metric in metrics][3:] == [  # type: ignore[attr-defined]
        "gsm8k_strict_match", "gsm8k_flexible_extract",
    ]  # fmt: skip
    assert "score_gsm8k" in (tmp_path / "scores.py").read_text("utf-8")


def test_the_prompt_text_holds_its_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tuple(tokenizer.encode("Make 15 . <think>"))
    assert spelled(Prompt("Make 15 . <think>", "<think>", ids), tokenizer) == "Make 15 . <think>"
    # A token that the tokenizer put before the text is in the text.
    begun = Prompt("Make 15 .", "", (tokenizer.eos_token_id, *ids[:3]))
    assert spelled(begun, tokenizer) == "<eos> Make 15 ."
    # A row of the embedding that no text has.
    with pytest.raises(UserError, match="no text encodes to the token ids of the prompt 'Make'"):
        spelled(Prompt("Make", "", (tokenizer.vocab_size + 1,)), tokenizer)


def test_stop_strings_are_left_to_the_scores(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    stop = "generation.stop=['</answer>', \"it's\"]"
    write(load_recipe("countdown-tiny", ["evaluation.n=1", stop]), tokenizer, tmp_path)
    assert "STOP = ['</answer>', \"it's\"]" in (tmp_path / "scores.py").read_text("utf-8")
    settings = read_task(tmp_path / "aha_countdown_tiny.yaml")["generation_kwargs"]
    assert settings["until"] == []  # type: ignore[index]


def test_names_that_the_harness_knows() -> None:
    assert task_name(load_recipe("math-r1-0.5b")) == "aha_math_r1_0_5b"


def test_the_command_and_its_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "harness", "countdown-tiny", str(tmp_path / "one"), "-n", "2"])
    assert "wrote 2 problems" in capsys.readouterr().out
    for arguments, words in (
        ([str(tmp_path / "one")], "holds something"),
        ([str(tmp_path / "two"), "--set", "evaluation.n=0"], "evaluation.n is 0"),
        ([str(tmp_path / "one" / "README.md" / "x")], "cannot be written"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["data", "harness", "countdown-tiny", *arguments])
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "two").exists()
