"""`aha export`: what it writes loads elsewhere, and says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from aha.cli.main import main
from aha.evaluate import EvalRequest
from aha.runs import RunDirectory
from aha.trained.export import export
from aha.trained.held_out import run_eval
from aha.types import UserError


def test_the_folder_is_what_transformers_and_vllm_read(run: RunDirectory, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    said = export(str(run.path), folder)
    assert said[0].endswith(f"to {folder}")
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "recipe.yaml",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder)
    (checkpoint,) = run.checkpoints.iterdir()
    original = AutoModelForCausalLM.from_pretrained(checkpoint)
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert model.generation_config.max_new_tokens == 240
    assert model.generation_config.do_sample
    text = AutoTokenizer.from_pretrained(folder)("Make 15 from 3 13 5 . <think>")
    assert len(text["input_ids"]) > 5
    assert list(tmp_path.iterdir()) == [folder]


def test_it_is_evaluated_as_the_run_is(run: RunDirectory, tmp_path: Path) -> None:
    export(str(run.path), tmp_path / "out")
    request = EvalRequest(str(tmp_path / "out"), output=tmp_path / "texts")
    assert run_eval(request).outcome.evaluation.summary == run.evaluation()["after"]


def test_the_card_has_results_recipe_and_limits(run: RunDirectory, tmp_path: Path) -> None:
    export(str(run.path), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "transformers"
    after = run.evaluation()["after"]["accuracy"]
    assert f"{after:.1%}" in body
    assert "beginning from `aha-tiny`" in body
    assert "## Limits" in body
    assert "num_generations: 2" in body
    assert str(run.path) not in body


def test_another_type(run: RunDirectory, tmp_path: Path) -> None:
    export(str(run.path), tmp_path / "out", dtype="bfloat16")
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["dtype"] == "bfloat16"


def test_llama_cpp_is_told_not_imitated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "aha-tiny", str(tmp_path / "tiny"), "--gguf"])
    assert "convert_hf_to_gguf.py" in capsys.readouterr().out
    assert "It has not been evaluated" in (tmp_path / "tiny" / "README.md").read_text("utf-8")


def test_mistakes_are_named(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="holds something"):
        export(str(run.path), tmp_path / "full")
    with pytest.raises(UserError, match="--dtype is 'int3'; allowed"):
        export(str(run.path), tmp_path / "out", dtype="int3")
    with pytest.raises(UserError, match="needs a token"):
        export(str(run.path), tmp_path / "out", push="me/it")
    assert not (tmp_path / "out").exists()
